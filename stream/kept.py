"""JSON that a version keeps beside its weights, in a format with a number: evidence, baseline.

Enters: a file's text. Leaves: what it says, or one sentence that names the file.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from foundation.errors import ModelRefused

Kept = TypeVar("Kept")


def to_text(state: Mapping[str, Any], number: int = 1) -> str:
    """Return what is kept, in the format of that number."""
    return json.dumps({"format": number, **state}, ensure_ascii=False, separators=(",", ":"))


def from_text(file: str, text: str, make: Callable[[dict[str, Any]], Kept], newest: int = 1) -> Kept:
    """Return what `make` makes of the state, in a format up to the newest that it knows. Raises ModelRefused."""
    try:
        state: dict[str, Any] = json.loads(text)
        if not 1 <= state["format"] <= newest:
            raise ModelRefused(f"{file} has format {state['format']}; this winnow reads up to {newest}")
        return make(state)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelRefused(f"{file} cannot be read: {error!r}") from error


def load(directory: Path, file: str, read: Callable[[str], Kept]) -> Kept | None:
    """Return what a version keeps in a file; None where it has none, as an imported checkpoint. Raises ModelRefused."""
    path = directory / file
    return read(path.read_text(encoding="utf-8")) if path.is_file() else None
