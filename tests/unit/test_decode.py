"""What comes in, what happens: the contract's input table, and no bytes that can raise."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.decode import _decode_json, _plain_json, decode_value
from stream.records import Content, Reason, Unread
from stream.rules import Rules


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.TOMBSTONE),
        (b"", Reason.EMPTY),
        (b"\xff\xfe\x00", Reason.UNDECODABLE),
        ("地址".encode("gbk"), Reason.UNDECODABLE),
        (b'{"a": ', Reason.BAD_JSON),
        (b"{a: 1}", Reason.BAD_JSON),
        (b'{"a": 1} trailing', Reason.BAD_JSON),
        (b"[" * 65 + b"]" * 65, Reason.TOO_DEEP),
        (b"[" * 200_000 + b"]" * 200_000, Reason.TOO_DEEP),
    ],
)
def test_unreadable(value: bytes | None, reason: Reason) -> None:
    reading = decode_value(value, "auto")
    assert isinstance(reading, Unread)
    assert reading.reason is reason


@pytest.mark.parametrize(
    ("value", "oddity"),
    [
        (b'{"a": NaN}', "not-finite"),
        (b'{"a": [1, -Infinity]}', "not-finite"),
        (b'{"a": 1e999}', "not-finite"),
        (b'{"a": 1, "a": 2}', "duplicate-key"),
        (b'{"b": {"a": 1, "a": 1}}', "duplicate-key"),
        (b'{"a": "\\ud800"}', "lone-surrogate"),
        (b'{"\\udfff": 1}', "lone-surrogate"),
    ],
)
def test_odd_json_is_held_by_rule(value: bytes, oddity: str) -> None:
    reading = decode_value(value, "auto")
    assert isinstance(reading, Content)
    [violations] = Rules().check([reading])
    assert [(v.rule, v.is_error) for v in violations] == [(oddity, True)]


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 64 + b"]" * 64,
        b'{"a": "\\ud83d\\ude00"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'  \n{"a": 1}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"a": "1e999"}',
    ],
)
def test_readable_json(value: bytes) -> None:
    reading = decode_value(value, "auto")
    if b"9" * 5000 in value:
        assert isinstance(reading, Content)
        assert reading.oddities == ("not-finite",)
    else:
        assert isinstance(reading, Content)
        assert reading.is_json
        assert reading.oddities == ()


def test_formats() -> None:
    assert decode_value(b'{"a": 1}', "text") == Content(is_json=False, data='{"a": 1}')
    assert decode_value(b"12", "json") == Content(is_json=True, data=12)
    assert decode_value("电话:123".encode(), "auto") == Content(is_json=False, data="电话:123")


@given(st.binary(max_size=300))
def test_no_bytes_raise(value: bytes) -> None:
    reading = decode_value(value, "auto")
    Rules().check([reading])


@given(st.text(alphabet='{}[]",:\\ud8 0e+-.NaInfity\n', max_size=60))
def test_no_json_like_text_raises(text: str) -> None:
    reading = decode_value(text.encode(), "json")
    assert isinstance(reading, Unread | Content)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4),
)


@given(JSON_VALUES, st.booleans())
def test_the_fast_reading_says_what_the_exact_one_says(data: object, spaced: bool) -> None:
    raw = json.dumps({"a": data, "b": data}, ensure_ascii=False, separators=(", ", ": ") if spaced else (",", ":"))
    fast = _plain_json(raw.encode())
    assert fast is None or repr(fast) == repr(_decode_json(raw.encode(), raw))


@pytest.mark.parametrize(
    "raw",
    ['{"a":1,"a":2}', '{"a":{"b":1,"b":1}}', '[{"x":"y","x":"y"}]', '{"a":1e999}', '{"a":NaN}', '{"a":90071992547409930}', '{"a":"\\n"}'],
)
def test_what_may_be_odd_is_read_exactly(raw: str) -> None:
    assert _plain_json(raw.encode()) is None
