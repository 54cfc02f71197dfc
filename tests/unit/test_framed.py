"""Framed values: what schemas say, what hostile bytes do to the reading of them, and how a correction is written back."""

import base64
import io
import json
import random
import struct
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID

import fastavro
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.framed import Codec, DoesNotFit, Schema, SchemaUnusable, _compiled, codec_of, id_of

AVRO = {
    "type": "record",
    "name": "Twin",
    "namespace": "sites",
    "fields": [
        {"name": "name", "type": "string"},
        {"name": "phone", "type": ["null", "string"], "default": None},
        {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "founded", "type": {"type": "int", "logicalType": "date"}},
        {"name": "fee", "type": {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}},
        {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": {"type": "fixed", "name": "Raw", "size": 3}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["open", "shut"]}},
        {"name": "readings", "type": {"type": "map", "values": "double"}},
    ],
}
TWIN = {
    "name": "北京某公司", "phone": None,
    "seen": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "founded": date(1998, 7, 1), "fee": Decimal("12.50"),
    "id": UUID(int=7), "raw": b"\x00\xff\x01", "state": "open", "readings": {"temperature": 21.5},
}  # fmt: skip
LIST = {"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}
PROTO = """
syntax = "proto3";
package sites;
import "google/protobuf/timestamp.proto";
import "common/place.proto";
message Other { string note = 1; }
message Twin {
  message Inner { string deep = 1; }
  string name = 1;
  int64 count = 2;
  common.Place place = 3;
  google.protobuf.Timestamp seen = 4;
  repeated double readings = 5;
}
"""
PLACE = 'syntax = "proto3"; package common; message Place { string city = 1; string postcode = 2; }'


def avro(schema: object) -> Codec:
    return codec_of(Schema("avro", json.dumps(schema), {}))


def avro_bytes(schema: object, datum: object) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), datum)
    return out.getvalue()


def zigzag(number: int) -> bytes:
    number, found = (number << 1) ^ (number >> 63), b""
    while number > 0x7F:
        found, number = found + bytes([number & 0x7F | 0x80]), number >> 7
    return found + bytes([number])


def message(**more: object) -> bytes:
    """The text of a whole Twin: what is left out would be read again with its default, and be another text."""
    said = {"name": "北京", "count": "5", "place": {"city": "b", "postcode": ""}, "seen": "2026-01-02T03:04:05Z", "readings": [1.5]}
    return json.dumps(said | more, ensure_ascii=False).encode()


@pytest.fixture(scope="module")
def protobuf() -> Codec:
    return codec_of(Schema("protobuf", PROTO, {"common/place.proto": PLACE}))


def test_a_framed_value_is_known_by_its_head() -> None:
    assert id_of(b"\x00\x00\x00\x01\x02payload") == 258
    assert id_of(b"\x00\x00\x00\x00\x07") == 7, "a schema may say that there is nothing more"
    assert [id_of(value) for value in (None, b"", b"\x00\x00\x00\x01", b'{"a":1}', "北京".encode())] == [None] * 5


def test_avro_says_what_json_has_for_its_types() -> None:
    said = json.loads(avro(AVRO).as_json(avro_bytes(AVRO, TWIN)))
    assert said == {
        "name": "北京某公司", "phone": None, "seen": "2026-01-02T03:04:05+00:00", "founded": "1998-07-01", "fee": 12.5,
        "id": "00000000-0000-0000-0000-000000000007", "raw": "AP8B", "state": "open", "readings": {"temperature": 21.5},
    }  # fmt: skip
    assert list(said) == [field["name"] for field in AVRO["fields"]], "in the schema's order"  # type: ignore[index]


def test_avro_reads_with_the_schemas_that_a_schema_refers_to() -> None:
    place = {"type": "record", "name": "Place", "namespace": "common", "fields": [{"name": "city", "type": "string"}]}
    twin = {"type": "record", "name": "Twin", "fields": [{"name": "place", "type": "common.Place"}]}
    codec = codec_of(Schema("avro", json.dumps(twin), {"common.Place": json.dumps(place)}))
    assert codec.as_json(zigzag(6) + "上海".encode()) == '{"place": {"city": "上海"}}'.encode()


def test_numbers_that_are_none_keep_their_names() -> None:
    assert avro("double").as_json(avro_bytes("double", float("nan"))) == b"NaN", "which decoding knows as not-finite"


def test_a_correction_is_written_back_with_the_types_it_had() -> None:
    codec, payload = avro(AVRO), avro_bytes(AVRO, TWIN)
    said = json.loads(codec.as_json(payload))
    corrected = {**said, "phone": "010-62345678", "founded": "1998-07-02", "readings": {"temperature": 20.5}}
    written = codec.as_payload(json.dumps(corrected).encode(), payload)
    found = fastavro.schemaless_reader(io.BytesIO(written), fastavro.parse_schema(AVRO), None)
    assert found == TWIN | {"phone": "010-62345678", "founded": date(1998, 7, 2), "readings": {"temperature": 20.5}}
    assert codec.as_payload(codec.as_json(payload), payload) == payload


@pytest.mark.parametrize(
    "change", [{"phone": 5}, {"state": "ajar"}, {"unheard": 1}, {"founded": "yesterday"}, {"readings": {"temperature": "warm"}}]
)
def test_a_correction_that_the_schema_does_not_take_is_refused(change: dict[str, object]) -> None:
    codec, payload = avro(AVRO), avro_bytes(AVRO, TWIN)
    with pytest.raises(DoesNotFit):
        codec.as_payload(json.dumps(json.loads(codec.as_json(payload)) | change).encode(), payload)


@pytest.mark.parametrize(
    ("schema", "payload"),
    [
        ("string", zigzag(100) + b"abc"),
        ("string", zigzag(-5) + b"abc"),
        ("string", zigzag(2**50) + b"abc"),
        ("string", zigzag(2) + b"\xff\xfe"),
        ("int", zigzag(3) + b"left"),
        ("int", b""),
        ("long", b"\xff" * 20),
        (["null", "int"], zigzag(7)),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, zigzag(9)),
        ({"type": "int", "logicalType": "date"}, zigzag(2**30)),
        ({"type": "array", "items": "int"}, zigzag(2**40)),
        ({"type": "map", "values": "int"}, zigzag(-(2**62)) + zigzag(3)),
    ],
)
def test_bytes_that_do_not_fit_an_avro_schema_are_said_not_to(schema: object, payload: bytes) -> None:
    with pytest.raises(DoesNotFit):
        avro(schema).as_json(payload)


@pytest.mark.parametrize("depth", [1_500, 1_000_000])
def test_a_record_deep_in_itself_ends_no_process(depth: int) -> None:
    """fastavro's compiled reader would end this one, with a segmentation fault, at the greater depth."""
    with pytest.raises(RecursionError):
        avro(LIST).as_json(zigzag(1) * depth + zigzag(0))
    assert json.loads(avro(LIST).as_json(zigzag(1) * 20 + zigzag(0)))["next"]["next"] is not None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": "null"},
        {"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}},
        {"type": "record", "name": "R", "fields": [
            {"name": "a", "type": {"type": "array", "items": {"type": "record", "name": "Empty", "fields": []}}}]},
        {"type": "record", "name": "R", "namespace": "n", "fields": [
            {"name": "e", "type": {"type": "record", "name": "E", "fields": [{"name": "nothing", "type": {"type": "null"}}]}},
            {"name": "a", "type": {"type": "map", "values": {"type": "array", "items": "E"}}}]},
    ],
)  # fmt: skip
def test_a_schema_with_which_a_few_bytes_ask_for_all_memory_is_not_used(schema: object) -> None:
    with pytest.raises(SchemaUnusable, match="take no bytes"):
        avro(schema)


@given(st.binary(max_size=300))
@settings(max_examples=400, deadline=None)
def test_no_bytes_break_the_reading_of_avro(payload: bytes) -> None:
    try:
        json.loads(avro(AVRO).as_json(payload))
    except DoesNotFit:
        pass


def test_no_bytes_break_the_reading_of_protobuf(protobuf: Codec) -> None:
    draw = random.Random(3)
    good = protobuf.as_payload(message(readings=[1.0, 2.0]), b"\x02\x02")
    fits = 0
    for _ in range(3_000):
        payload = bytearray(good if draw.random() < 0.5 else draw.randbytes(draw.randrange(60)))
        for _ in range(draw.randrange(1, 4)):
            if payload:
                payload[draw.randrange(len(payload))] = draw.randrange(256)
        try:
            json.loads(protobuf.as_json(bytes(payload)))
            fits += 1
        except DoesNotFit:
            pass
    assert 0 < fits < 3_000


def test_protobuf_says_every_field_and_finds_the_message_by_its_path(protobuf: Codec) -> None:
    payload = protobuf.as_payload(message(), zigzag(1) + zigzag(1))
    assert payload.startswith(b"\x02\x02"), "one part, the second message"
    assert json.loads(protobuf.as_json(payload)) == json.loads(message())
    without = json.loads(protobuf.as_json(zigzag(1) + zigzag(1) + b"\x0a\x02hi"))
    assert without == {"name": "hi", "count": "0", "readings": []}, "what was left out has its default, and a message is not there"
    assert json.loads(protobuf.as_json(b"\x00\x0a\x02hi")) == {"note": "hi"}, "a zero alone is the first message"
    assert json.loads(protobuf.as_json(zigzag(2) + zigzag(1) + zigzag(0) + b"\x0a\x02hi")) == {"deep": "hi"}


def test_protobuf_whose_schema_is_a_descriptor_reads_alike(protobuf: Codec) -> None:
    """The serializers of Python and C# register the descriptor in base64, and some registries give it back so."""
    *_, place, twin = descriptor_pb2.FileDescriptorSet.FromString(_compiled(Schema("protobuf", PROTO, {"common/place.proto": PLACE}))).file
    assert (place.name, list(twin.dependency)) == ("common/place.proto", ["google/protobuf/timestamp.proto", "common/place.proto"])
    place.name = "another"
    text, of_place = (base64.b64encode(file.SerializeToString()).decode() for file in (twin, place))
    codec = codec_of(Schema("protobuf", text, {"common/place.proto": of_place}))
    payload = protobuf.as_payload(message(), zigzag(1) + zigzag(1))
    assert codec.as_json(payload) == protobuf.as_json(payload)
    with pytest.raises(SchemaUnusable, match="is text"):
        codec_of(Schema("protobuf", text, {"common/place.proto": PLACE}))


@pytest.mark.parametrize("payload", [b"", b"\x80", zigzag(1) + zigzag(9), zigzag(-1), zigzag(2**20), b"\xff" * 9, b"\x00\x0a\x7f"])
def test_a_path_or_message_that_does_not_fit_is_said_not_to(protobuf: Codec, payload: bytes) -> None:
    with pytest.raises(DoesNotFit):
        protobuf.as_json(payload)


def test_a_correction_of_protobuf_keeps_its_message(protobuf: Codec) -> None:
    payload = zigzag(1) + zigzag(0) + b"\x0a\x02hi"
    assert protobuf.as_payload(b'{"note": "ho"}', payload) == zigzag(1) + zigzag(0) + b"\x0a\x02ho"
    with pytest.raises(DoesNotFit, match="unheard"):
        protobuf.as_payload(b'{"unheard": 1}', payload)


def test_a_file_that_imports_what_lies_outside_is_not_used() -> None:
    with pytest.raises(SchemaUnusable, match="outside"):
        codec_of(Schema("protobuf", PROTO, {"../../place.proto": PLACE}))
    with pytest.raises(SchemaUnusable, match="protoc says"):
        codec_of(Schema("protobuf", "no proto", {}))


def test_json_is_taken_as_it_is() -> None:
    codec = codec_of(Schema("json", "{}", {}))
    assert codec.as_json(b'{"a": 1.50}') == b'{"a": 1.50}'
    assert codec.as_payload(b'{"a": 2}', b'{"a": 1.50}') == b'{"a": 2}'


def test_a_schema_of_another_kind_says_so() -> None:
    with pytest.raises(SchemaUnusable, match="none of Avro"):
        codec_of(Schema(None, "", {}))
    with pytest.raises(SchemaUnusable):
        avro({"type": "record", "name": "R", "fields": [{"name": "a", "type": "unheard"}]})


def test_floats_say_no_more_digits_than_they_mean() -> None:
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "f", "type": "float"}]}
    schema = {
        "type": "record", "name": "R", "fields": [
            {"name": "f", "type": "float"}, {"name": "d", "type": "double"}, {"name": "maybe", "type": ["null", "float"]},
            {"name": "many", "type": {"type": "array", "items": "float"}}, {"name": "named", "type": {"type": "map", "values": inner}},
            {"name": "either", "type": ["string", "Inner", {"type": "map", "values": "float"}]}, {"name": "none", "type": "float"},
        ],
    }  # fmt: skip
    datum = {
        "f": 21.1, "d": 21.1, "maybe": 0.3, "many": [0.1, 1e30], "named": {"a": {"f": -7.7}}, "either": {"f": 5.5}, "none": float("inf"),
    }  # fmt: skip
    codec, payload = avro(schema), avro_bytes(schema, datum)
    assert json.loads(codec.as_json(payload)) == datum
    finite = avro_bytes(schema, datum | {"none": 1.0})
    changed = json.loads(codec.as_json(finite)) | {"maybe": 21.2}
    assert json.loads(codec.as_json(codec.as_payload(json.dumps(changed).encode(), finite))) == changed


def test_a_correction_keeps_the_branch_of_a_union() -> None:
    of = [{"type": "record", "name": name, "fields": [{"name": "city", "type": "string"}]} for name in ("A", "B")]
    schema = {"type": "record", "name": "R", "fields": [{"name": "place", "type": of}, {"name": "note", "type": "string"}]}
    payload = zigzag(1) + zigzag(1) + b"x" + zigzag(1) + b"n"
    assert avro(schema).as_payload(b'{"place": {"city": "y"}, "note": "m"}', payload) == zigzag(1) + zigzag(1) + b"y" + zigzag(1) + b"m"


@pytest.mark.parametrize("text", [b'{"name": ', b"\xff", b'{"name": "\xed\xa0\x80"}', b"[" * 100_000])
def test_a_correction_that_is_no_json_is_refused(protobuf: Codec, text: bytes) -> None:
    with pytest.raises(DoesNotFit):
        avro(AVRO).as_payload(text, avro_bytes(AVRO, TWIN))
    with pytest.raises(DoesNotFit):
        protobuf.as_payload(text, zigzag(1) + zigzag(1))


def test_what_a_protobuf_correction_leaves_out_or_names_otherwise_is_refused(protobuf: Codec) -> None:
    payload = zigzag(1) + zigzag(0) + b"\x0a\x02hi"
    with pytest.raises(DoesNotFit, match="something else"):
        protobuf.as_payload(b"{}", payload)


def test_protobufs_numbers_that_are_none_keep_their_names(protobuf: Codec) -> None:
    numbers = struct.pack("<2d", float("nan"), float("-inf"))
    said = protobuf.as_json(zigzag(1) + zigzag(1) + b"\x2a\x10" + numbers)
    assert b'"readings": [NaN, -Infinity]' in said, "which decoding knows as not-finite"
    assert b'"name": ""' in said


def test_a_time_that_no_calendar_has_does_not_fit(protobuf: Codec) -> None:
    far = b"\x08" + b"\xff" * 8 + b"\x0f"  # Timestamp.seconds, about 2 ** 60
    with pytest.raises(DoesNotFit):
        protobuf.as_json(zigzag(1) + zigzag(1) + b"\x22" + bytes([len(far)]) + far)


def test_schemas_whose_types_use_each_other_are_looked_through_once() -> None:
    names = [f"T{n}" for n in range(60)]
    fields = [{"name": f"f{n}", "type": ["null", name]} for n, name in enumerate(names)]
    types: list[object] = [{"type": "record", "name": name, "fields": [{"name": "x", "type": "int"}]} for name in names[1:]]
    whole = {"type": "record", "name": "T0", "fields": [{"name": "all", "type": [*types, "null"]}, *fields]}
    begun = time.perf_counter()
    codec = avro(whole)
    assert time.perf_counter() - begun < 2
    with pytest.raises(RecursionError):
        codec.as_json((zigzag(59) + zigzag(1)) * 200_000)


def test_a_namespace_hides_no_recursion() -> None:
    inner = {"type": "record", "name": "Inner", "fields": [{"name": "n", "type": ["null", "Inner"]}]}
    outer = {"type": "record", "name": "Outer", "namespace": "a", "fields": [{"name": "i", "type": inner}]}
    main = {"type": "record", "name": "R", "namespace": "b", "fields": [{"name": "i", "type": "a.Inner"}]}
    codec = codec_of(Schema("avro", json.dumps(main), {"a.Outer": json.dumps(outer)}))
    with pytest.raises(RecursionError):
        codec.as_json(zigzag(1) * 1_000_000 + zigzag(0))
