"""What a schema says: the payload of a framed value -> the JSON text that says the same, and a changed text -> a payload again.

Enters: schemas as a registry holds them, and payloads. Leaves: JSON text. Knows no registry and no Kafka. Framing, as Confluent's
serializers write it: a zero byte, the schema's id in 4 bytes, big end first; in Protobuf then the path of the message in its file.
"""

import base64
import io
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

import numpy as np

Kind = Literal["avro", "json", "protobuf"]

HEAD_BYTES, MOST_ID = 5, 2**31 - 1
_EXACT_DIGITS = 15
_PROTOC_SECONDS = 30


class DoesNotFit(Exception):  # noqa: N818
    """A payload is not what its schema says, or a text cannot be written as its schema wants it."""


class SchemaUnusable(Exception):  # noqa: N818
    """A schema that cannot be read with."""


class Codec(Protocol):
    """Reads and writes the payloads of one schema."""

    kind: Kind

    def as_json(self, payload: bytes) -> bytes:
        """Return the JSON text of a payload. Raises DoesNotFit."""

    def as_payload(self, text: bytes, like: bytes) -> bytes:
        """Return the payload of a JSON text that was changed from another payload. Raises DoesNotFit."""


class Schema(NamedTuple):
    """A schema with what it refers to: names -> texts, each before those that refer to it. `kind` None is one that winnow does not know."""

    kind: Kind | None
    text: str
    references: Mapping[str, str]


def id_of(value: bytes | None) -> int | None:
    """Return the schema id of a framed value; None for any other."""
    if not value or value[0] != 0 or len(value) < HEAD_BYTES:
        return None
    number = int.from_bytes(value[1:HEAD_BYTES], "big")
    return number if number <= MOST_ID else None


def codec_of(schema: Schema) -> Codec:
    """Return what reads and writes with a schema.

    Raises SchemaUnusable; OSError, MemoryError and TimeoutExpired where this machine could not.
    """
    if schema.kind is None:
        raise SchemaUnusable("it is none of Avro, JSON Schema and Protobuf")
    try:
        kinds: dict[Kind, Callable[[Schema], Codec]] = {"avro": _Avro, "json": _Json, "protobuf": _Protobuf}
        return kinds[schema.kind](schema)
    except (SchemaUnusable, OSError, MemoryError, subprocess.TimeoutExpired):
        raise  # the latter are this machine's trouble, not the schema's
    except Exception as error:  # whoever registers a schema may write anything
        raise SchemaUnusable(f"{type(error).__name__}: {error}"[:300]) from error


class _Json:
    """JSON as it is: what the schema says of it was the producer's serializer's to check."""

    kind: Kind = "json"

    def __init__(self, schema: Schema) -> None:
        """Nothing of the schema is needed."""

    def as_json(self, payload: bytes) -> bytes:
        return payload

    def as_payload(self, text: bytes, like: bytes) -> bytes:  # noqa: ARG002
        return text


class _Avro:
    """Avro's binary encoding, read by fastavro.

    fastavro's compiled reader recurses as deep as the bytes say and takes the process with it when the stack ends, so schemas that hold
    themselves are read by its Python half, which stops at Python's own depth.
    """

    kind: Kind = "avro"

    def __init__(self, schema: Schema) -> None:
        """Parse the schema, after what it refers to."""
        import fastavro

        named: dict[str, Any] = {}
        for text in schema.references.values():
            fastavro.parse_schema(json.loads(text), named)
        self._schema = fastavro.parse_schema(json.loads(schema.text), named)
        self._shape = _Shape(self._schema, named)
        if self._shape.has_weightless_items:
            raise SchemaUnusable("an array of items that take no bytes: a few bytes could ask for more of them than memory holds")
        self._read: Callable[..., Any] = fastavro.schemaless_reader
        if self._shape.is_recursive:
            from fastavro._read_py import schemaless_reader

            self._read = schemaless_reader
        self._write = fastavro.schemaless_writer

    def as_json(self, payload: bytes) -> bytes:
        datum = self._datum(payload)
        return _dumped(self._shape.shortened(datum) if self._shape.has_floats else datum)

    def as_payload(self, text: bytes, like: bytes) -> bytes:
        wanted, out = _loaded(text), io.BytesIO()
        before = self._datum(like, return_record_name=True, return_named_type=True)  # or a union's branch would be guessed anew
        try:
            self._write(out, self._schema, _with_changes(before, wanted), strict=True)
            written = out.getvalue()
        except Exception as error:
            raise DoesNotFit(f"{type(error).__name__}: {error}"[:300]) from error
        return _read_again(self, written, wanted)

    def _datum(self, payload: bytes, **how: bool) -> Any:
        source = io.BytesIO(payload)
        try:
            datum = self._read(source, self._schema, None, **how)
        except RecursionError:
            raise
        except Exception as error:
            raise DoesNotFit(f"{type(error).__name__}: {error}"[:200].rstrip(": ")) from error
        if left := len(payload) - source.tell():
            raise DoesNotFit(f"{left} bytes are left over")
        return datum


class _Protobuf:
    """Protobuf, its file compiled by protoc and read by Google's own library; fields that were left out have their defaults."""

    kind: Kind = "protobuf"

    def __init__(self, schema: Schema) -> None:
        """Compile the file and what it imports."""
        from google.protobuf import descriptor_pool, message_factory

        self._pool = descriptor_pool.DescriptorPool()
        files = _files_of(schema)
        for file in files:
            self._pool.Add(file)
        self._messages = message_factory
        self._file = self._pool.FindFileByName(files[-1].name)
        self._kinds = list(files[-1].message_type)

    def as_json(self, payload: bytes) -> bytes:
        from google.protobuf import json_format

        message, _ = self._message(payload)
        try:
            said = json_format.MessageToDict(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, descriptor_pool=self._pool
            )
        except RecursionError:
            raise
        except Exception as error:  # a time that no calendar has, an Any of a kind that nobody knows: the library raises what it likes
            raise DoesNotFit(f"{type(error).__name__}: {error}"[:200]) from error
        text = _dumped(said)
        return _dumped(_with_numbers(said, message.DESCRIPTOR)) if b'"NaN"' in text or b'Infinity"' in text else text

    def as_payload(self, text: bytes, like: bytes) -> bytes:
        from google.protobuf import json_format

        message, path = self._message(like)
        wanted = _loaded(text)
        message.Clear()
        try:
            json_format.Parse(text, message, descriptor_pool=self._pool)
        except (json_format.ParseError, ValueError) as error:
            raise DoesNotFit(str(error)[:300]) from error
        written = path + bytes(message.SerializeToString())
        return _read_again(self, written, wanted)

    def _message(self, payload: bytes) -> tuple[Any, bytes]:
        """Return the message, and the bytes that name its kind."""
        from google.protobuf.message import DecodeError

        indexes, start = _message_path(payload)
        kinds, descriptor = self._kinds, None
        for index in indexes:
            if not 0 <= index < len(kinds):
                raise DoesNotFit(f"there is no message {index} in the schema")
            name = kinds[index].name
            descriptor = self._file.message_types_by_name[name] if descriptor is None else descriptor.nested_types_by_name[name]
            kinds = list(kinds[index].nested_type)
        message = self._messages.GetMessageClass(descriptor)()
        try:
            message.ParseFromString(payload[start:])
        except DecodeError as error:
            raise DoesNotFit(str(error)[:200]) from error
        return message, payload[:start]


def _message_path(payload: bytes) -> tuple[list[int], int]:
    """Return the path of the message in its file, and where the message begins. Raises DoesNotFit."""
    count, place = _varint(payload, 0)
    if count == 0:
        return [0], place  # how the serializers shorten the commonest path
    if not 0 < count <= len(payload):
        raise DoesNotFit(f"the path of the message has {count} parts")
    path = []
    for _ in range(count):
        index, place = _varint(payload, place)
        path.append(index)
    return path, place


def _varint(payload: bytes, place: int) -> tuple[int, int]:
    """Return a zigzag number of at most 32 bits, and the place behind it."""
    number = shift = 0
    while place < len(payload) and shift < 35:  # noqa: PLR2004
        byte = payload[place]
        number |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:  # noqa: PLR2004
            return (number >> 1) ^ -(number & 1), place
    raise DoesNotFit("the path of the message does not end")


def _files_of(schema: Schema) -> list[Any]:
    """Return the descriptors of a Protobuf file and of all that it imports, itself the last.

    A registry has the file's text, or, from serializers that have nothing else, the descriptor in base64.
    """
    from google.protobuf import descriptor_pb2

    own = _descriptor(schema.text)
    if own is None:
        return list(descriptor_pb2.FileDescriptorSet.FromString(_compiled(schema)).file)
    named = {name: _descriptor(text) for name, text in schema.references.items()}
    if None in named.values():
        raise SchemaUnusable("it is a descriptor, and what it refers to is text")
    for name, file in named.items():
        file.name = name
    files = [*named.values(), own]
    wanted = {name for file in files for name in file.dependency} - set(named)
    common = descriptor_pb2.FileDescriptorSet.FromString(
        _compiled(Schema("protobuf", "\n".join(['syntax = "proto3";', *(f'import "{name}";' for name in sorted(wanted))]), {}))
    )
    return [*common.file[:-1], *files]


def _descriptor(text: str) -> Any:
    """Return the descriptor that a text holds in base64; None where it is no such text."""
    from google.protobuf import descriptor_pb2
    from google.protobuf.message import DecodeError

    try:
        return descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (ValueError, DecodeError):
        return None


def _compiled(schema: Schema) -> bytes:
    """Return the FileDescriptorSet of a Protobuf file, itself the last."""
    import grpc_tools

    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for name, text in [*schema.references.items(), ("winnow_schema.proto", schema.text)]:
            path = (place / name).resolve()
            if place.resolve() not in path.parents:
                raise SchemaUnusable(f"it imports {name}, which lies outside")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        done = subprocess.run(
            [
                sys.executable, "-m", "grpc_tools.protoc", f"-I{place}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
                "--include_imports", f"--descriptor_set_out={place / 'set'}", "winnow_schema.proto",
            ],
            capture_output=True, text=True, timeout=_PROTOC_SECONDS, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SchemaUnusable(f"protoc says: {done.stderr.strip()}"[:300])
        return (place / "set").read_bytes()


class _Shape:
    """What must be known of an Avro schema before a stranger's bytes are read with it; names in it are full, as fastavro leaves them."""

    def __init__(self, schema: Any, named: Mapping[str, Any]) -> None:
        """Look through a schema and the named types that it uses, each once."""
        self._schema, self._named = schema, named
        self._weightless: dict[str, bool] = {}
        self._inside: set[str] = set()
        self.is_recursive = self.has_weightless_items = self.has_floats = False
        self._look(schema)

    def _look(self, schema: Any) -> bool:
        """Return whether a value of it may take no bytes; marks what is found on the way."""
        if isinstance(schema, list):
            for each in schema:  # a union's index takes a byte
                self._look(each)
            return False
        if isinstance(schema, str):
            if schema in self._named:
                return self._look_at(schema)
            self.has_floats |= schema == "float"
            return schema == "null"
        return self._look_at(schema["name"]) if schema.get("name") in self._named else self._look_into(schema)

    def _look_at(self, name: str) -> bool:
        if name in self._inside:
            self.is_recursive = True
            return False
        if name not in self._weightless:
            self._inside.add(name)
            self._weightless[name] = self._look_into(self._named[name])
            self._inside.remove(name)
        return self._weightless[name]

    def _look_into(self, schema: Any) -> bool:
        kind = schema["type"]
        if kind in ("record", "error"):
            return all([self._look(field["type"]) for field in schema["fields"]])
        if kind == "array":
            self.has_weightless_items |= self._look(schema["items"])
        elif kind == "map":
            self._look(schema["values"])
        elif kind == "fixed":
            return bool(schema["size"] == 0)
        elif kind != "enum":
            return self._look(kind)
        return False

    def shortened(self, datum: Any) -> Any:
        """Return a datum whose 32-bit numbers have no more digits than they mean: 21.1, not 21.100000381469727."""
        return self._shortened(datum, self._schema)

    def _shortened(self, datum: Any, schema: Any) -> Any:
        if isinstance(schema, str):
            schema = self._named.get(schema, schema)
        if isinstance(schema, list):
            schema = next((each for each in schema if self._is_of(datum, each)), "null")
            return self._shortened(datum, schema)
        if isinstance(schema, str):
            return float(str(np.float32(datum))) if schema == "float" and math.isfinite(datum) else datum
        kind = schema["type"]
        if kind in ("record", "error"):
            return {field["name"]: self._shortened(datum[field["name"]], field["type"]) for field in schema["fields"]}
        if kind == "array":
            return [self._shortened(each, schema["items"]) for each in datum]
        if kind == "map":
            return {name: self._shortened(each, schema["values"]) for name, each in datum.items()}
        return self._shortened(datum, kind) if kind not in ("enum", "fixed") else datum

    def _is_of(self, datum: Any, schema: Any) -> bool:
        """Return whether a datum may be of a union's branch that holds 32-bit numbers."""
        if isinstance(schema, str):
            schema = self._named.get(schema, schema)
        kind = schema if isinstance(schema, str) else schema["type"]
        if kind in ("record", "error"):
            return isinstance(datum, dict) and set(datum) == {field["name"] for field in schema["fields"]}
        return isinstance(datum, {"float": float, "array": list, "map": dict}.get(kind, ()))


def _with_changes(datum: Any, wanted: Any) -> Any:
    """Return the wanted data; what is as it was keeps the type that it was read as, such as a date, and its branch of a union."""
    if isinstance(datum, tuple):
        return datum[0], _with_changes(datum[1], wanted)
    if isinstance(datum, dict) and isinstance(wanted, dict):
        return {name: _with_changes(datum[name], value) if name in datum else value for name, value in wanted.items()}
    if isinstance(datum, list) and isinstance(wanted, list) and len(datum) == len(wanted):
        return [_with_changes(*both) for both in zip(datum, wanted, strict=True)]
    return datum if _loaded(_dumped(datum)) == wanted else wanted


def _with_numbers(said: Any, descriptor: Any) -> Any:
    """Return what a Protobuf message says with numbers that are none as such; in its own JSON they are texts."""
    if not isinstance(said, dict):
        return said
    found = dict(said)
    for field in descriptor.fields:
        if field.name not in said:
            continue
        values = found[field.name]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            found[field.name] = {key: _number_of(each, value) for key, each in values.items()}
        else:
            found[field.name] = [_number_of(each, field) for each in values] if isinstance(values, list) else _number_of(values, field)
    return found


def _number_of(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        return _with_numbers(value, field.message_type)
    return float(value) if field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT) and isinstance(value, str) else value


def _read_again(codec: Codec, written: bytes, wanted: Any) -> bytes:
    """Return what was written, if it says what was wanted. Raises DoesNotFit."""
    if _loaded(codec.as_json(written)) != wanted:
        raise DoesNotFit("read again with the schema it says something else")
    return written


def _loaded(text: bytes) -> Any:
    """Return the data of a JSON text. Raises DoesNotFit."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DoesNotFit(f"it is no JSON: {error}"[:200]) from error


def _dumped(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    """Return what JSON has for a type of Avro's: ISO 8601 for times, base64 for bytes, a number where that says it all."""
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value) if len(value.as_tuple().digits) <= _EXACT_DIGITS else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON")
