"""What a schema says: the payload of a framed value -> the JSON text that says the same, and a changed text -> a payload again.

Enters: schemas as a registry holds them, and payloads. Leaves: JSON text. Knows no registry and no Kafka. Framing, as Confluent's
serializers write it: a zero byte, the schema's id in 4 bytes, big end first; in Protobuf then the path of the message in its file.
"""

import base64
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol
from uuid import UUID

Kind = Literal["avro", "json", "protobuf"]

HEAD_BYTES = 5
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
    return int.from_bytes(value[1:HEAD_BYTES], "big") if value and value[0] == 0 and len(value) >= HEAD_BYTES else None


def codec_of(schema: Schema) -> Codec:
    """Return what reads and writes with a schema. Raises SchemaUnusable."""
    if schema.kind is None:
        raise SchemaUnusable("it is none of Avro, JSON Schema and Protobuf")
    try:
        kinds: dict[Kind, Callable[[Schema], Codec]] = {"avro": _Avro, "json": _Json, "protobuf": _Protobuf}
        return kinds[schema.kind](schema)
    except SchemaUnusable:
        raise
    except ImportError as error:
        raise SchemaUnusable(f'{error.name} is not installed; the extra "schemas" brings it') from error
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
        raw = json.loads(schema.text)
        self._schema = fastavro.parse_schema(raw, named)
        shape = _Shape(raw, [json.loads(text) for text in schema.references.values()])
        if shape.has_weightless_items:
            raise SchemaUnusable("an array of items that take no bytes: a few bytes could ask for more of them than memory holds")
        self._read: Callable[..., Any] = fastavro.schemaless_reader
        if shape.is_recursive:
            from fastavro._read_py import schemaless_reader

            self._read = schemaless_reader
        self._write = fastavro.schemaless_writer

    def as_json(self, payload: bytes) -> bytes:
        return _dumped(self._datum(payload))

    def as_payload(self, text: bytes, like: bytes) -> bytes:
        wanted = json.loads(text)
        out = io.BytesIO()
        try:
            self._write(out, self._schema, _with_changes(self._datum(like), wanted), strict=True)
            written = out.getvalue()
        except DoesNotFit:
            raise
        except Exception as error:
            raise DoesNotFit(f"{type(error).__name__}: {error}"[:300]) from error
        if json.loads(self.as_json(written)) != wanted:
            raise DoesNotFit("read again with the schema it says something else")
        return written

    def _datum(self, payload: bytes) -> Any:
        source = io.BytesIO(payload)
        try:
            datum = self._read(source, self._schema, None)
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
        return _dumped(
            json_format.MessageToDict(
                message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, descriptor_pool=self._pool
            )
        )

    def as_payload(self, text: bytes, like: bytes) -> bytes:
        from google.protobuf import json_format

        message, path = self._message(like)
        message.Clear()
        try:
            json_format.Parse(text, message, descriptor_pool=self._pool)
        except json_format.ParseError as error:
            raise DoesNotFit(str(error)[:300]) from error
        return path + bytes(message.SerializeToString())

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
    """What must be known of an Avro schema before a stranger's bytes are read with it."""

    def __init__(self, schema: Any, references: Sequence[Any]) -> None:
        """Look through a schema and what it refers to."""
        self._named: dict[str, Any] = {}
        self.is_recursive = self.has_weightless_items = False
        for each in [*references, schema]:
            self._name(each, "")
        self._look(schema, "", ())

    def _name(self, schema: Any, space: str) -> None:
        if isinstance(schema, list):
            for each in schema:
                self._name(each, space)
        elif isinstance(schema, dict):
            name, space = _full_name(schema, space)
            if name is not None:
                self._named[name] = schema
            for part in _parts(schema):
                self._name(part, space)

    def _look(self, schema: Any, space: str, inside: tuple[str, ...]) -> bool:
        """Return whether a value of it may take no bytes; marks what is found on the way."""
        if isinstance(schema, list):
            for each in schema:  # a union's index takes a byte
                self._look(each, space, inside)
            return False
        if isinstance(schema, str):
            name = schema if schema in self._named else f"{space}.{schema}"
            if name not in self._named:
                return schema == "null"
            if name in inside:
                self.is_recursive = True
                return False
            return self._look(self._named[name], space, inside)
        own_name, space = _full_name(schema, space)
        if own_name is not None:
            inside = (*inside, own_name)
        weightless = [self._look(part, space, inside) for part in _parts(schema)]
        kind = schema["type"]
        if kind == "array":
            self.has_weightless_items |= weightless[0]
        if kind in ("array", "map", "enum"):
            return False
        return schema.get("size") == 0 if kind == "fixed" else all(weightless) if weightless else kind in ("null", "record", "error")


def _full_name(schema: dict[str, Any], space: str) -> tuple[str | None, str]:
    """Return the full name of a named type, and the namespace inside it."""
    if "name" not in schema:
        return None, space
    name = str(schema["name"])
    if "." not in name and (schema.get("namespace") or space):
        name = f"{schema.get('namespace') or space}.{name}"
    return name, name.rpartition(".")[0]


def _parts(schema: dict[str, Any]) -> list[Any]:
    kind = schema["type"]
    if kind in ("record", "error"):
        return [field["type"] for field in schema["fields"]]
    if kind in ("array", "map"):
        return [schema["items" if kind == "array" else "values"]]
    return [kind] if isinstance(kind, list | dict) or kind not in ("enum", "fixed") else []


def _with_changes(datum: Any, wanted: Any) -> Any:
    """Return the wanted data; what is as it was keeps the type that it was read as, such as a date."""
    if isinstance(datum, dict) and isinstance(wanted, dict):
        return {name: _with_changes(datum[name], value) if name in datum else value for name, value in wanted.items()}
    if isinstance(datum, list) and isinstance(wanted, list) and len(datum) == len(wanted):
        return [_with_changes(*both) for both in zip(datum, wanted, strict=True)]
    return datum if json.loads(_dumped(datum)) == wanted else wanted


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
