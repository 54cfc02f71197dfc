"""An alias: the version it points at, whether a rollback has pinned it, and every move it has made.

Enters and leaves: the JSON of its file or object. Knows not where that is kept.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from foundation.errors import ModelRefused

MOST_MARKS = 16


class Alias(NamedTuple):
    """Where an alias points. A move: version, time, why, and is_rollback where it went back."""

    version: int
    pinned: bool
    history: list[dict[str, Any]]

    def to_bytes(self) -> bytes:
        """Return the JSON that is kept."""
        return (json.dumps(self._asdict(), indent=2) + "\n").encode()

    def before(self) -> int | None:
        """Return the version before this one: moves pile up, and a rollback takes off what it goes back behind."""
        pile: list[int] = []
        for move in self.history:
            version = int(move["version"])
            if move.get("is_rollback"):
                while pile and pile[-1] != version:
                    pile.pop()
            elif not pile or pile[-1] != version:
                pile.append(version)
        return pile[-2] if len(pile) > 1 else None


class Mark(NamedTuple):
    """Somebody has seen that what a version lets through, or its errors, have changed: a training is asked for."""

    digest: str
    time: str
    why: str


def mark_of(digest: str, why: str) -> Mark:
    """Return a mark made now."""
    return Mark(digest, datetime.now(UTC).isoformat(timespec="microseconds"), why)


def parse_marks(raw: bytes | None) -> list[Mark]:
    """Return the marks of all versions, the oldest first, from their JSON; what cannot be read marks nothing, lest a training fail."""
    try:
        found = [] if raw is None else json.loads(raw)["marks"]
        return [Mark(str(each["digest"]), str(each["time"]), str(each["why"])) for each in found]
    except (ValueError, KeyError, TypeError):
        return []


def marks_to_bytes(marks: Sequence[Mark]) -> bytes:
    """Return the JSON that is kept of the newest marks."""
    kept = [mark._asdict() for mark in marks[-MOST_MARKS:]]
    return (json.dumps({"marks": kept}, indent=2, ensure_ascii=False) + "\n").encode()


def moved(old: Alias | None, number: int, why: str, *, pinned: bool | None, is_rollback: bool = False) -> Alias:
    """Return an alias with one more move in its history; `pinned` None leaves the pin as it is."""
    before = old or Alias(number, False, [])
    move: dict[str, Any] = {"version": number, "time": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}
    if is_rollback:
        move["is_rollback"] = True
    return Alias(number, before.pinned if pinned is None else pinned, [*before.history, move])


def parse_alias(raw: bytes, where: str) -> Alias:
    """Return an alias from its JSON; `where` names it in the sentence. Raises ModelRefused."""
    try:
        found = json.loads(raw)
        return Alias(int(found["version"]), bool(found["pinned"]), found["history"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"the alias file {where} cannot be read: {error!r}") from error
