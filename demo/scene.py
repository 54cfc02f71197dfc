"""What the demo plays on: the settings in force, the page and its people, and the truth that never travels with a record."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from demo.reviewer import Account
from demo.twins import Truth


class Scene(NamedTuple):
    """`base` is where the starter goes, which every cycle begins from; `truth` grows with the stream."""

    tables: Any
    config: Path
    page: str
    accounts: Sequence[Account]
    base: Path
    starter_minutes: float
    console: Console
    truth: dict[str, Truth]
