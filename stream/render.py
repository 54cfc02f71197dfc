"""Stage 3a: content -> the text the model reads, and where each field lies in it.

Two renderings, named in every manifest: `fields@1` writes one `path: value` line per leaf in the producer's order;
`raw@1` writes JSON as one compact line, as stock TRL saw it. Plain text is read as it is by both.
"""

import json
import math
import re
from typing import Any, Literal, NamedTuple, get_args

from stream.records import Content

Rendering = Literal["fields@1", "raw@1"]
RENDERINGS: tuple[str, ...] = get_args(Rendering)

_PART = re.compile(r"[^,，;；\n\t]+")
_LABEL = re.compile(r"\s*([^:：]{1,20})[:：]")
_LINE_BREAKS = str.maketrans({"\n": "\\n", "\r": "\\r"})


class Field(NamedTuple):
    """One leaf of a record: its path, and the half-open range of characters that its value fills in the text."""

    path: str
    start: int
    end: int


class Rendered(NamedTuple):
    """What the model reads, and the fields in it, in order."""

    text: str
    fields: tuple[Field, ...]


def text_of(content: Content, rendering: Rendering = "fields@1") -> str:
    """Return only the text of `render`, which is all the gate needs for most records."""
    if not content.is_json:
        return without_surrogates(content.data)
    if rendering == "raw@1":
        return without_surrogates(json.dumps(content.data, ensure_ascii=False, separators=(",", ":")))
    return without_surrogates("\n".join([f"{path}: {value}" for path, value in leaves(content.data)]))


def render(content: Content, rendering: Rendering = "fields@1") -> Rendered:
    """Return the text the model reads and where each field's value lies in it.

    In plain text a field is what stands between commas, semicolons or line breaks; its path is the label before
    the colon if it has one, else its ordinal.
    """
    text = text_of(content, rendering)
    if not content.is_json or rendering == "raw@1":
        return Rendered(text, tuple(_parts(text)))
    fields, start = [], 0
    for path, value in leaves(content.data):
        value_start = start + len(path) + 2
        fields.append(Field(path, value_start, value_start + len(value)))
        start = value_start + len(value) + 1
    return Rendered(text, tuple(fields))


def reread(text: str, like: Rendered) -> Rendered:
    """Return a changed copy of a rendered record with the fields that it has now, found as those of `like` were."""
    if not _is_lines(like):
        return Rendered(text, tuple(_parts(text)))
    fields: list[Field] = []
    at = 0
    for line in text.split("\n"):
        path, colon, _ = line.partition(": ")
        if colon:
            fields.append(Field(path, at + len(path) + 2, at + len(line)))
        elif fields:  # a line break that came in belongs to the value before it
            fields[-1] = fields[-1]._replace(end=at + len(line))
        at += len(line) + 1
    return Rendered(text, tuple(fields))


def _is_lines(record: Rendered) -> bool:
    """Return whether a record was written as `path: value` lines."""
    return all(record.text[: field.start].endswith(f"{field.path}: ") for field in record.fields)


def leaves(data: Any) -> list[tuple[str, str]]:
    """Return (path, shown value) of every leaf, in order; line breaks are escaped so that no value can fake a field."""
    found: list[tuple[str, str]] = []
    _collect(data, "", found)
    return found


def _collect(data: Any, path: str, found: list[tuple[str, str]]) -> None:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            shown = key.translate(_LINE_BREAKS) if "\n" in key or "\r" in key else key
            if path:
                shown = f"{path}.{shown}"
            kind = type(value)
            if kind is str:  # most leaves, without a call of their own
                found.append((shown, value.translate(_LINE_BREAKS) if "\n" in value or "\r" in value else value))
            elif kind is int or (kind is float and math.isfinite(value)):
                found.append((shown, repr(value)))  # as json.dumps writes it, ten times as fast
            else:
                _collect(value, shown, found)
    elif isinstance(data, list) and data:
        for index, value in enumerate(data):
            _collect(value, f"{path}[{index}]", found)
    elif isinstance(data, str):
        found.append((path, data.translate(_LINE_BREAKS) if "\n" in data or "\r" in data else data))
    elif type(data) is int or (type(data) is float and math.isfinite(data)):
        found.append((path, repr(data)))
    else:
        found.append((path, json.dumps(data)))


def _parts(text: str) -> list[Field]:
    fields = []
    for ordinal, part in enumerate(_PART.finditer(text), start=1):
        label = _LABEL.match(part.group())
        start = part.start() + (label.end() if label else 0)
        fields.append(Field(label.group(1) if label else f"part {ordinal}", start, part.end()))
    return fields


def without_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts; such records are held by a rule before they are judged."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode("utf-8")
    return text
