"""JSON that a version keeps beside its weights, in a format with a number: evidence, baseline.

Enters: a file's text. Leaves: what it says, or one sentence that names the file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from foundation.errors import ModelRefused

Kept = TypeVar("Kept")
_FORMAT = 1


def to_text(state: Mapping[str, Any]) -> str:
    """Return what is kept."""
    return json.dumps({"format": _FORMAT, **state}, ensure_ascii=False, separators=(",", ":"))


def from_text(file: str, text: str, make: Callable[[dict[str, Any]], Kept]) -> Kept:
    """Return what `make` makes of the state. Raises ModelRefused."""
    try:
        state: dict[str, Any] = json.loads(text)
        if state["format"] != _FORMAT:
            raise ModelRefused(f"{file} has format {state['format']}; this winnow reads {_FORMAT}")
        return make(state)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{file} cannot be read: {error!r}") from error


def load(directory: Path, file: str, read: Callable[[str], Kept]) -> Kept | None:
    """Return what a version keeps in a file; None where it has none, as an imported checkpoint. Raises ModelRefused."""
    path = directory / file
    return read(path.read_text(encoding="utf-8")) if path.is_file() else None
