"""What a schema registry may answer, and what a reader makes of it: over HTTP on 127.0.0.1, with answers made for each case."""

import base64
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import ValidationError

from foundation.errors import SchemaRegistryAway
from stream import schemas as module
from stream.config import KafkaSettings
from stream.framed import DoesNotFit
from stream.records import Reason, Unread
from stream.schemas import Schemas

TWIN = json.dumps({"type": "record", "name": "Twin", "fields": [{"name": "city", "type": "string"}]})
PLACE = json.dumps({"type": "record", "name": "Place", "namespace": "common", "fields": [{"name": "city", "type": "string"}]})
WITH_PLACE = json.dumps({"type": "record", "name": "Twin", "fields": [{"name": "place", "type": "common.Place"}]})
VALUE = b"\x00\x00\x00\x00\x07\x04hi"


class Registry(ThreadingHTTPServer):
    """Answers as it is told to, by path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, object]]] = {}
        self.asked: list[str] = []
        self.logins: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        self.server.logins.append(self.headers.get("Authorization"))
        answers = self.server.answers.get(path, [(404, {"error_code": 40403, "message": "Schema not found"})])
        status, said = answers.pop(0) if len(answers) > 1 else answers[0]
        body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if isinstance(said, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[Registry]:
    server = Registry()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def schemas(registry: Registry) -> Iterator[Schemas]:
    made = Schemas(KafkaSettings(schema_registry=registry.url))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.02)


def test_a_schema_is_fetched_once_and_what_is_not_framed_asks_nobody(registry: Registry, schemas: Schemas) -> None:
    registry.answers["/schemas/ids/7"] = [(200, {"schema": TWIN})]
    assert schemas.opened_all([VALUE, None, b"", b"{}", b"\x00\x01", VALUE]) == (
        [b'{"city": "hi"}', None, b"", b"{}", b"\x00\x01", b'{"city": "hi"}'], {},
    )  # fmt: skip
    assert registry.asked == ["/schemas/ids/7"]
    assert schemas.kind_of(VALUE) == "avro"
    assert schemas.framed(b'{"city": "ho"}', VALUE) == VALUE[:5] + b"\x04ho"
    assert schemas.framed(b"plain", b"was plain") == b"plain"


def test_without_a_registry_nothing_is_framed() -> None:
    none = Schemas(KafkaSettings())
    assert none.opened(VALUE) == VALUE
    assert none.kind_of(VALUE) is None
    assert none.framed(b"a", VALUE) == b"a"


def test_what_a_schema_refers_to_is_fetched_first(registry: Registry, schemas: Schemas) -> None:
    refers = [{"name": "common.Place", "subject": "place", "version": 3}]
    registry.answers["/schemas/ids/7"] = [(200, {"schema": WITH_PLACE, "references": refers})]
    registry.answers["/subjects/place/versions/3"] = [(200, {"subject": "place", "version": 3, "id": 5, "schema": PLACE})]
    assert schemas.opened(VALUE) == b'{"place": {"city": "hi"}}'


def test_an_id_that_is_not_there_is_looked_for_again_before_a_record_is_blamed(registry: Registry, schemas: Schemas) -> None:
    missing = (404, {"error_code": 40403, "message": "Schema 7 not found"})
    registry.answers["/schemas/ids/7"] = [missing, missing, (200, {"schema": TWIN})]
    assert schemas.opened(VALUE) == b'{"city": "hi"}', "a replica that lags is no reason for a dead letter"


def test_ids_that_are_nowhere_cost_no_more_than_a_look(registry: Registry, schemas: Schemas, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [b"\x00" + number.to_bytes(4, "big") + b"x" for number in range(100, 150)]
    found = schemas.opened_all(values)[1]
    assert {each.reason for each in found.values()} == {Reason.UNDECODABLE}
    assert f"schema 100 is not in {registry.url}" in found[0].detail
    assert len(registry.asked) == 50 + 2 * 3, "the first ones patiently, a flood not"
    schemas.opened_all(values)
    assert len(registry.asked) == 56, "and not again for a while"
    monkeypatch.setattr(module, "_UNKNOWN_SECONDS", 0.0)
    registry.answers["/schemas/ids/100"] = [(200, {"schema": TWIN})]
    assert schemas.opened(b"\x00\x00\x00\x00\x64\x04hi") == b'{"city": "hi"}'


def test_a_number_that_no_registry_gives_is_not_asked_for(registry: Registry, schemas: Schemas) -> None:
    assert schemas.opened(b"\x00\xff\xff\xff\xffx") == b"\x00\xff\xff\xff\xffx"
    registry.answers["/schemas/ids/7"] = [(422, {"error_code": 42201, "message": "no"})]
    assert isinstance(schemas.opened(VALUE), Unread)
    assert all(path == "/schemas/ids/7" for path in registry.asked)


@pytest.mark.parametrize(
    "answer", [(404, "<html>default backend - 404</html>"), (500, "oops"), (403, {"error_code": 40301, "message": "no"}), (401, "")]
)
def test_who_will_not_say_is_away_and_no_record_is_to_blame(registry: Registry, schemas: Schemas, answer: tuple[int, object]) -> None:
    registry.answers["/schemas/ids/7"] = registry.answers["/schemas/ids/2147483647"] = [answer]
    with pytest.raises(SchemaRegistryAway, match=registry.url):
        schemas.opened(VALUE)
    with pytest.raises(SchemaRegistryAway):
        schemas.ask()
    registry.answers.clear()
    schemas.ask()


def test_a_gate_waits_counts_and_is_told_when_to_stop(registry: Registry) -> None:
    registry.answers["/schemas/ids/7"] = [(500, "oops"), (500, "oops"), (500, "oops"), (200, {"schema": TWIN})]
    vain: list[int] = []
    stop = threading.Event()
    waiting = Schemas(KafkaSettings(schema_registry=registry.url), stop, lambda: vain.append(1))
    assert waiting.opened(VALUE) == b'{"city": "hi"}'
    assert len(vain) == 3
    waiting.close()


@pytest.mark.parametrize("by", ["stop", "close"])
def test_nobody_waits_for_ever(registry: Registry, by: str) -> None:
    """A gate that fails elsewhere closes its parts, and must end although a thread of it waits for an answer."""
    registry.answers["/schemas/ids/7"] = [(500, "oops")]
    stop, said = threading.Event(), list[str]()
    waiting = Schemas(KafkaSettings(schema_registry=registry.url), stop)

    def read() -> None:
        try:
            waiting.opened(VALUE)
        except SchemaRegistryAway as error:
            said.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    while not registry.asked:
        time.sleep(0.01)
    stop.set() if by == "stop" else waiting.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "refuses schema 7" in said[0]
    waiting.close()


def test_a_registry_that_is_gone_is_away() -> None:
    gone = Schemas(KafkaSettings(schema_registry="http://127.0.0.1:9"))
    with pytest.raises(SchemaRegistryAway, match="does not answer"):
        gone.opened(VALUE)
    gone.close()


def test_a_schema_that_cannot_be_used_is_said_once_and_takes_no_correction(
    registry: Registry, schemas: Schemas, caplog: pytest.LogCaptureFixture
) -> None:
    registry.answers["/schemas/ids/7"] = [(200, {"schema": "no schema"})]
    with caplog.at_level(logging.ERROR):
        found = [schemas.opened(VALUE) for _ in range(3)]
    assert all(isinstance(each, Unread) and "schema 7 cannot be used" in each.detail for each in found)
    assert len(caplog.records) == 1
    assert schemas.kind_of(VALUE) is None
    with pytest.raises(DoesNotFit):
        schemas.framed(b"{}", VALUE)


def test_a_schema_of_an_unknown_kind_is_not_avro(registry: Registry, schemas: Schemas) -> None:
    registry.answers["/schemas/ids/7"] = [(200, {"schema": TWIN, "schemaType": "THRIFT"})]
    found = schemas.opened(VALUE)
    assert isinstance(found, Unread)
    assert "none of Avro" in found.detail


def test_the_password_comes_from_its_file(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "login").write_text("winnow:not-a-secret\n")
    registry.answers["/schemas/ids/7"] = [(200, {"schema": TWIN})]
    secrets = {"basic.auth.user.info": tmp_path / "login"}
    made = Schemas(KafkaSettings(schema_registry=registry.url, schema_registry_extra={"timeout": 3}, schema_registry_secrets=secrets))
    made.opened(VALUE)
    made.close()
    assert registry.logins == ["Basic " + base64.b64encode(b"winnow:not-a-secret").decode()]


@pytest.mark.parametrize(
    "given",
    [{"schema_registry": "http://mei:secret@127.0.0.1"}, {"schema_registry": "127.0.0.1"}, {"schema_registry_extra": {"url": "http://a"}}],
)
def test_an_address_holds_no_password_and_stands_in_one_place(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KafkaSettings.model_validate(given)


def test_without_the_extra_a_gate_does_not_start() -> None:
    hidden = "import sys; sys.modules['fastavro'] = None\nfrom stream.schemas import *\nSchemas(KafkaSettings(schema_registry='http://127.0.0.1'))"
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert 'kafka.schema_registry needs fastavro, which the extra "schemas" brings' in done.stderr
