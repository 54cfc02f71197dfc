"""What a value looks like: its characters' classes, its form, its parts, the number that it is; what stands for it is a digest.

Enters: rendered records. Leaves: values by path, and what can be counted of them.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from stream.render import Rendered

MOST_PATHS, PATH_SHARE = 64, 0.01
WHOLE, LAST, FLOOR, FORM = "value", "last 2", "whole part", "form"
_BEGINNINGS = tuple((f"first {length}", length) for length in (2, 3, 4, 6, 9))
_DIGEST_BYTES = 6
_CACHED = 1 << 17

Aspect = tuple[str, str]  # (path, which part of the value)


def values_of(record: Rendered) -> dict[str, str]:
    """Return the values of a record by path; the last counts where a path comes twice."""
    return {field.path: record.text[field.start : field.end] for field in record.fields}


def frequent_paths(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the paths that many records have, the most frequent first: what few have may be somebody's data."""
    often = Counter(path for row in rows for path in row)
    return [path for path, count in often.most_common(MOST_PATHS) if count >= max(2, PATH_SHARE * len(rows))]


@lru_cache(_CACHED)
def pattern(value: str) -> str:
    """Return the classes of a value's characters: digits 9, ASCII letters a, other letters w, the rest as it is."""
    return "".join("9" if c.isdecimal() else ("a" if c.isascii() else "w") if c.isalpha() else c for c in value)


@lru_cache(_CACHED)
def form(value: str) -> str:
    """Return a value's pattern with each run of one class written once; that of a number as it is: its size and decimals show."""
    return runs(value) if number_of(value) is None else pattern(value)


def runs(value: str) -> str:
    """Return the pattern of a value with each run of one class, or of one other character, written once."""
    shape = pattern(value)
    return "".join(c for place, c in enumerate(shape) if place == 0 or shape[place - 1] != c)


def aspects_of(values: Mapping[str, str]) -> Iterator[tuple[Aspect, str]]:
    """Yield digests of the whole value of every path, its beginnings, its end, the whole part of a number, and of its form."""
    for path, value in values.items():
        for which, key in parts_of(value):
            yield (path, which), key
        yield (path, FORM), digest_of_text(form(value))


@lru_cache(_CACHED)
def parts_of(value: str) -> tuple[tuple[str, str], ...]:
    """Return the name and the digest of each part of a value."""
    return tuple((which, digest_of_text(part)) for which, part in texts_of(value))


def texts_of(value: str) -> list[tuple[str, str]]:
    """Return the name and the text of each part of a value: all of it, its beginnings, its end, the whole part of a number."""
    found = [(WHOLE, value), *((name, value[:length]) for name, length in _BEGINNINGS), (LAST, value[-2:])]
    number = number_of(value)
    if number is not None:
        found.append((FLOOR, str(math.floor(number))))
    return found


def number_of(value: str) -> float | None:
    """Return the finite number that a value is, else None."""
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def digest_of_text(text: str) -> str:
    """Return the 48 bits that stand for a text, as hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).hexdigest()
