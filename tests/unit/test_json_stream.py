"""A JSON file read by pieces holds what it holds read whole, wherever the pieces end."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import DataRefused
from stream.json_stream import JsonStream, json_values

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
no_lists = values.filter(lambda value: not isinstance(value, list))


def read(text: str, piece: int) -> list[tuple[int, Any]]:
    return list(JsonStream(io.StringIO(text), Path("d.json"), piece))


@given(rows=st.lists(no_lists, max_size=6), piece=st.integers(1, 40), indent=st.sampled_from([None, 1]), ascii_only=st.booleans())
def test_pieces_change_nothing(rows: list[Any], piece: int, indent: int | None, ascii_only: bool) -> None:
    shown = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows]
    as_array = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    as_arrays = "\n".join(f"[{each}]" for each in shown)
    for text in (as_array, "\n".join(shown), as_arrays, "\ufeff" + " ".join(shown)):
        assert [value for _, value in read(text, piece)] == rows


@pytest.mark.parametrize("piece", [1, 7, 1_000])
def test_lines_are_those_where_values_begin(piece: int) -> None:
    assert read('[{"a":\n1},\n\n {"a": 2},\n3]\n{"b": 0}', piece) == [(1, {"a": 1}), (4, {"a": 2}), (5, 3), (6, {"b": 0})]


@pytest.mark.parametrize("piece", [1, 7, 1_000])
@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('[{"a": 1},\n{"a": }]', 2, "Expecting value"),
        ('{"a": 1}\n{"a": "x', 2, "Unterminated"),
        ('[{"a": 1},\n', 2, "not closed"),
        ("{}\n]", 2, "Expecting value"),
        ("[" * 20_000, 1, "nested too deep"),
        ('{}\n{"a": "\\q"}\n' + "{}\n" * 20, 2, "Invalid .*escape"),
        ("{}\n[" + "1" * 5_000 + "]", 2, "4300 digits"),
    ],
)
def test_a_file_that_stops_being_json_is_refused_with_the_line(piece: int, text: str, line: int, why: str) -> None:
    with pytest.raises(DataRefused, match=f"line {line}: not JSON: .*{why}"):
        read(text, piece)


def test_the_line_is_named_that_is_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_bytes('{"a": "ä"}\n'.encode() * 3 + b'{"a": "\xff"}\n')
    with pytest.raises(DataRefused, match=r"broken\.jsonl, line 4: not UTF-8: invalid start byte"):
        list(json_values(path))
