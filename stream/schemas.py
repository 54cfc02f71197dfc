"""Stage 0, where `kafka.schema_registry` names one: a framed value -> the JSON text that the other stages read, or why there is none.

Enters: value bytes. Leaves: bytes or the reason. What travels on is the framed value, byte for byte; only reading it takes this way.
A registry that does not answer is no record's fault: a gate waits for it, its offsets where they are, and commands say so.
"""

import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from threading import Event, Lock
from typing import Any

from foundation.errors import SchemaRegistryAway, SettingInvalid
from foundation.secret_file import read_named
from stream.config import KafkaSettings
from stream.decode import Format, decode_value
from stream.framed import HEAD_BYTES, MOST_ID, Codec, DoesNotFit, Kind, Schema, SchemaUnusable, codec_of, id_of
from stream.records import Reading, Reason, Unread

log = logging.getLogger("winnow.schemas")

_KINDS: dict[str, Kind] = {"AVRO": "avro", "JSON": "json", "PROTOBUF": "protobuf"}
_ANSWER_SECONDS = 5
_UNKNOWN_SECONDS, _MOST_UNKNOWN = 10.0, 10_000
_FIRST_PAUSE_SECONDS, _MOST_PAUSE_SECONDS = 0.5, 10.0
_LOOKS, _FEW_UNKNOWN, _LOOK_UP_SECONDS = 3, 3, 0.25
# a schema, a version or a subject that the registry does not have; any other 404 is another server's, or a wrong path's
_NOT_THERE, _NOT_TAKEN = (40403, 40402, 40401), (400, 422)


class Schemas:
    """The schemas of one registry, each fetched once. Threads may share it."""

    def __init__(self, settings: KafkaSettings, stop: Event | None = None, failed: Callable[[], None] = lambda: None) -> None:
        """Ask nothing yet. With `stop`, wait for a registry that is away until it is set; `failed` hears of every vain try."""
        self._client = None if settings.schema_registry is None else _client(settings)
        self._url = settings.schema_registry
        self._stop = stop
        self._failed = failed
        self._codecs: dict[int, Codec | str] = {}
        self._unknown: dict[int, float] = {}
        self._asking = Lock()
        self._closed = Event()

    def close(self) -> None:
        """Let go of whoever waits for an answer, and then of the connections."""
        self._closed.set()
        if self._client is not None:
            with self._asking:
                self._client.close()

    def opened(self, value: bytes | None) -> bytes | Unread | None:
        """Return what a value says as JSON text, a value that is not framed as it is. Raises SchemaRegistryAway."""
        number = self._id_of(value)
        if number is None or value is None:
            return value
        codec = self._codec(number)
        if isinstance(codec, str):
            return Unread(Reason.UNDECODABLE, f"schema {number} {codec}")
        try:
            return codec.as_json(value[HEAD_BYTES:])
        except DoesNotFit as error:
            return Unread(Reason.UNDECODABLE, f"not what its schema {number} says, {codec.kind}: {error}")
        except RecursionError:
            return Unread(Reason.TOO_DEEP, f"nested too deep, {codec.kind} of schema {number}")
        except Exception as error:  # nobody foresaw it, and no record may stop those behind it
            log.error("a framed record could not be read", extra={"schema": number, "error": type(error).__name__})  # noqa: TRY400
            return Unread(Reason.UNDECODABLE, f"schema {number}, {codec.kind}: {type(error).__name__}")

    def opened_all(self, values: Sequence[bytes | None]) -> tuple[list[bytes | None], dict[int, Unread]]:
        """Return the values as `opened` gives them, and by its place what cannot be opened, which is None in the list."""
        if self._client is None:
            return list(values), {}
        found = [self.opened(value) for value in values]
        unread = {place: each for place, each in enumerate(found) if isinstance(each, Unread)}
        return [None if isinstance(each, Unread) else each for each in found], unread

    def read(self, value: bytes | None, form: Format = "auto") -> Reading:
        """Return what a value says, framed or not. Raises SchemaRegistryAway."""
        opened = self.opened(value)
        return opened if isinstance(opened, Unread) else decode_value(opened, form)

    def kind_of(self, value: bytes | None) -> Kind | None:
        """Return how a framed value is written; None for any other, and where its schema is not known. Raises SchemaRegistryAway."""
        number = self._id_of(value)
        codec = None if number is None else self._codec(number)
        return None if codec is None or isinstance(codec, str) else codec.kind

    def framed(self, text: bytes, like: bytes | None) -> bytes:
        """Return a text as the value that it was changed from is written; as it is where that is not framed. Raises DoesNotFit."""
        number = self._id_of(like)
        if number is None or like is None:
            return text
        codec = self._codec(number)
        if isinstance(codec, str):
            raise DoesNotFit(f"schema {number} {codec}")
        return like[:HEAD_BYTES] + codec.as_payload(text, like[HEAD_BYTES:])

    def ask(self) -> None:
        """See whether the registry answers; it need not have any schema. Raises SchemaRegistryAway."""
        self._fetch(MOST_ID)

    def _id_of(self, value: bytes | None) -> int | None:
        return None if self._client is None else id_of(value)

    def _codec(self, number: int) -> Codec | str:
        """Return what reads a schema's values, or what is wrong with it."""
        found = self._codecs.get(number)
        if found is not None:
            return found
        with self._asking:
            if number in self._codecs:
                return self._codecs[number]
            if time.monotonic() - self._unknown.get(number, -_UNKNOWN_SECONDS) < _UNKNOWN_SECONDS:
                return f"is not in {self._url}"
            codec = self._patiently(number)
            if codec is not None:
                self._codecs[number] = codec
                return codec
            self._unknown.pop(number, None)
            if len(self._unknown) >= _MOST_UNKNOWN:
                del self._unknown[next(iter(self._unknown))]
            self._unknown[number] = time.monotonic()
            return f"is not in {self._url}"

    def _patiently(self, number: int) -> Codec | str | None:
        """Ask until the registry answers; None when it has no such schema. Raises SchemaRegistryAway."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._looked_for(number)
            except (OSError, MemoryError, subprocess.TimeoutExpired) as error:
                away = SchemaRegistryAway(f"schema {number} cannot be read on this machine: {type(error).__name__}: {error}"[:300])
            except SchemaRegistryAway as error:
                away = error
            self._failed()
            log.warning("a schema cannot be had", extra={"schema": number, "detail": str(away)})
            if self._stop is None or not self._may_wait(pause_seconds):
                raise away
            pause_seconds = min(_MOST_PAUSE_SECONDS, pause_seconds * 2)

    def _looked_for(self, number: int) -> Codec | str | None:
        """Ask for a schema, a few times before saying that it is not there.

        One that was registered a moment ago may not be known to every replica; where many are not there, one look must do.
        """
        for left in reversed(range(1 if len(self._unknown) >= _FEW_UNKNOWN else _LOOKS)):
            schema = self._fetch(number)
            if schema is not None:
                try:
                    return codec_of(schema)
                except SchemaUnusable as unusable:
                    log.error("a schema cannot be used", extra={"schema": number, "detail": str(unusable)})  # noqa: TRY400
                    return f"cannot be used: {unusable}"
            if left == 0 or not self._may_wait(_FIRST_PAUSE_SECONDS):
                break
        return None

    def _may_wait(self, seconds: float) -> bool:
        """Wait; False as soon as nobody should."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._closed.wait(min(left, _LOOK_UP_SECONDS)) or (self._stop is not None and self._stop.is_set()):
                return False
        return True

    def _fetch(self, number: int) -> Schema | None:
        from confluent_kafka.schema_registry.error import SchemaRegistryError

        client = self._client
        assert client is not None  # noqa: S101
        try:
            found = client.get_schema(number)
            references: dict[str, str] = {}
            _take_references(client, found, references)
        except SchemaRegistryError as error:
            if error.error_code in _NOT_THERE or error.http_status_code in _NOT_TAKEN:
                return None
            raise SchemaRegistryAway(f"the schema registry {self._url} refuses schema {number}: {error}"[:300]) from error
        except Exception as error:  # the HTTP client's own errors, of several libraries
            raise SchemaRegistryAway(f"the schema registry {self._url} does not answer: {type(error).__name__}: {error}"[:300]) from error
        return Schema(_KINDS.get(found.schema_type or "AVRO"), found.schema_str or "", references)


def _take_references(client: Any, schema: Any, found: dict[str, str]) -> None:
    """Add what a schema refers to, each before those that refer to it."""
    for reference in schema.references or ():
        if reference.name not in found:
            named = client.get_version(reference.subject, reference.version).schema
            _take_references(client, named, found)
            found[reference.name] = named.schema_str


def _client(settings: KafkaSettings) -> Any:
    """Return Confluent's client of the registry. Raises SettingInvalid."""
    try:
        import fastavro  # noqa: F401 - what a schema needs later must be there now
        import grpc_tools  # noqa: F401
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise SettingInvalid(f'kafka.schema_registry needs {error.name}, which the extra "schemas" brings') from error
    told = settings.schema_registry_extra | read_named("kafka.schema_registry_secrets", settings.schema_registry_secrets)
    try:
        return SchemaRegistryClient({"url": settings.schema_registry, "timeout": _ANSWER_SECONDS, "max.retries": 0, **told})
    except (ValueError, TypeError, OSError) as error:
        raise SettingInvalid(f"kafka.schema_registry_extra is not what its client takes: {error}") from error
