"""Files of records: every kind, in order, with one sentence for what cannot be read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.produce import key_of
from foundation.errors import DataRefused
from stream.files import read_values


def values(path: Path) -> list[bytes]:
    return list(read_values(path))


def test_lines_keep_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1.50}\r\n\n\xff\xfe\n  {"b":2}\n')
    assert values(path) == [b'{"a": 1.50}', b"\xff\xfe", b'  {"b":2}']
    text = tmp_path / "a.txt"
    text.write_bytes("王伟,北京\n李娜".encode())
    assert values(text) == ["王伟,北京".encode(), "李娜".encode()]


def test_json_arrays_lines_and_objects_without_commas(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in ('[{"a": 1}, {"a": 2}]', '{"a": 1}\n{"a": 2}', '{\n "a": 1\n}\n{\n "a": 2\n}', '[{"a":1}]\n[{"a":2}]'):
        path.write_text(text)
        assert [json.loads(value) for value in values(path)] == [{"a": 1}, {"a": 2}]
    path.write_text('["text", 3]')
    assert values(path) == [b"text", b"3"]


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeff地址,电话\n北京,1\n上海,\n", encoding="utf-8")
    assert [json.loads(value) for value in values(path)] == [{"地址": "北京", "电话": "1"}, {"地址": "上海", "电话": ""}]
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", None]}), table)
    assert [json.loads(value) for value in values(table)] == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", '[{"a": 1},\n{"a": }]', "line 2: not JSON"),
        ("a.parquet", "PAR", "not a readable Parquet file"),
        ("a.xml", "<a/>", "is no .jsonl, .json"),
    ],
)
def test_refusals(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataRefused, match=said):
        values(path)
    with pytest.raises(DataRefused, match="does not exist"):
        values(tmp_path / "none.json")


def test_keys_come_from_a_field() -> None:
    assert key_of(b'{"id": 7}', "id") == b"7"
    assert key_of(b'{"id": 7}', None) is None
    assert key_of(b'{"x": 7}', "id") is None
    assert key_of(b"not json", "id") is None
