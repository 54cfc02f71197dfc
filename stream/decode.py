"""Stage 1: bytes -> content, or the reason it cannot be read.

Enters: the value bytes of records. Leaves: one Reading each, same order. Knows no rule and no model.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from stream.records import Content, Reading, Reason, Unread

MAX_DEPTH = 64
NOT_FINITE = "not-finite"
DUPLICATE_KEY = "duplicate-key"
LONE_SURROGATE = "lone-surrogate"
ODDITIES = (NOT_FINITE, DUPLICATE_KEY, LONE_SURROGATE)

Format = Literal["auto", "json", "text"]

_BOM = b"\xef\xbb\xbf"
_SPACE = b" \t\r\n"
_EXACT = 2**53
_MAX_INT_DIGITS = 4300  # CPython refuses longer integers; a record may hold one and must still be read
_BIG_NUMBER = re.compile(rb"[0-9][eE]\+?[0-9]{2}|[0-9]{300}")
_SURROGATE_ESCAPE = re.compile(rb"\\[uU][dD][89a-fA-F]")


def decode(values: Sequence[bytes | None], form: Format) -> list[Reading]:
    """Read each record's value; order and length are kept and nothing is raised for any bytes."""
    return [decode_value(value, form) for value in values]


def decode_value(value: bytes | None, form: Format) -> Reading:
    """Read one value as the contract's input table says. A byte-order mark is ignored in reading."""
    if value is None:
        return Unread(Reason.TOMBSTONE)
    if not value:
        return Unread(Reason.EMPTY)
    if form != "text" and value[0] in b"{[":
        plain = _plain_json(value)
        if plain is not None:
            return plain
    body = value.removeprefix(_BOM)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        return Unread(Reason.UNDECODABLE, f"byte {error.object[error.start]:#04x} at {error.start} is not UTF-8")
    first = body.lstrip(_SPACE)[:1]
    if form == "text" or (form == "auto" and first not in (b"{", b"[")):
        return Content(is_json=False, data=text)
    return _decode_json(body, text)


def _plain_json(value: bytes) -> Content | None:
    """Read JSON in which nothing can be odd, five times as fast; None where the exact reading below must look.

    Without a backslash every string has two quotes, so a duplicate key, which the parser drops, shows in their number.
    """
    if b"\\" in value or value.count(b"[") + value.count(b"{") > MAX_DEPTH:
        return None
    try:
        data = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    strings = _strings_in(data)
    return Content(True, data) if 2 * strings == value.count(b'"') else None  # noqa: FBT003


def _strings_in(data: Any) -> int:
    """Return how many strings data holds, keys too; far below 0 if a number might not be what the producer wrote."""
    if isinstance(data, dict):
        found = len(data)
        data = data.values()
    else:
        found = 0
    for value in data:
        kind = type(value)
        if kind is str:
            found += 1
        elif kind is float or kind is int:
            if not -_EXACT < value < _EXACT:
                return -(2**62)
        elif kind is dict or kind is list:
            found += _strings_in(value)
    return found


def _decode_json(body: bytes, text: str) -> Reading:
    duplicate = not_finite = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal duplicate
        built = dict(items)
        if len(built) != len(items):
            duplicate = True
        return built

    def constant(name: str) -> float:
        nonlocal not_finite
        not_finite = True
        return float(name)

    try:
        try:
            data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
        except json.JSONDecodeError:
            raise
        except ValueError:
            data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=_any_int)
    except json.JSONDecodeError as error:
        return Unread(Reason.BAD_JSON, f"{error.msg} at character {error.pos}")
    except RecursionError:
        return Unread(Reason.TOO_DEEP, f"nested deeper than {MAX_DEPTH}")
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        return Unread(Reason.TOO_DEEP, f"nested {_depth(data)} deep, the limit is {MAX_DEPTH}")
    if not not_finite and _BIG_NUMBER.search(body):
        not_finite = _has_infinity(data)
    surrogate = _SURROGATE_ESCAPE.search(body) is not None and _has_lone_surrogate(data)
    if not (duplicate or not_finite or surrogate):
        return Content(is_json=True, data=data)
    found = zip((not_finite, duplicate, surrogate), ODDITIES, strict=True)
    return Content(is_json=True, data=data, oddities=tuple(name for is_so, name in found if is_so))


def _any_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else float(digits)


def _depth(data: Any) -> int:
    """Nesting depth, level by level so that depth costs no stack; a scalar is 0."""
    depth, level = 0, [data]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
    return depth


def _scalars(data: Any) -> Any:
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            yield value


def _has_infinity(data: Any) -> bool:
    return any(isinstance(value, float) and not math.isfinite(value) for value in _scalars(data))


def _has_lone_surrogate(data: Any) -> bool:
    return any(isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value) for value in _scalars(data))
