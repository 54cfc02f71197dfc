"""A JSON object with a list of records in it -> each record as it was written, byte for byte.

Parsed and written again a record would be another one: a field given twice would be there once, 1.10 would be 1.1.
"""

import json
import re
from collections.abc import Iterator

from foundation.errors import DataRefused

_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def elements(text: str, name: str) -> list[str] | None:
    """Return the elements of the list `name` of an object: texts as what they say, other values as they are written.

    text: what json.loads has taken for an object. None where there is no such list. Raises DataRefused where it is there twice.
    """
    found: list[str] | None = None
    place = _after(text, 0, "{")
    for key, start in _members(text, place):
        if key == name and text.startswith("[", start):
            if found is not None:
                raise DataRefused(f"`{name}` is given twice")
            found = [value if isinstance(value, str) else text[begin:end] for value, begin, end in _items(text, start + 1)]
    return found


def _members(text: str, place: int) -> Iterator[tuple[str, int]]:
    """Yield every name of an object whose brace is open, and where its value begins."""
    place = _space(text, place)
    while not text.startswith("}", place):
        key, place = _DECODER.raw_decode(text, place)
        start = _after(text, place, ":")
        yield key, start
        _, place = _DECODER.raw_decode(text, start)
        place = _next(text, place, "}")


def _items(text: str, place: int) -> Iterator[tuple[object, int, int]]:
    """Yield the values of a list whose bracket is open, and where each begins and ends."""
    place = _space(text, place)
    while not text.startswith("]", place):
        value, end = _DECODER.raw_decode(text, place)
        yield value, place, end
        place = _next(text, end, "]")


def _next(text: str, place: int, close: str) -> int:
    """Return where the next value begins, or where `close` stands."""
    place = _space(text, place)
    return place if text.startswith(close, place) else _after(text, place, ",")


def _after(text: str, place: int, mark: str) -> int:
    place = _space(text, place)
    return _space(text, place + len(mark))


def _space(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()
