"""The main job on framed records: real serializers, a real schema registry, a real Kafka; bytes untouched, learned from, corrected."""

import json
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from bench.gate_process import metric
from demo.broker import free_port
from demo.ledger import read_ledger
from demo.twins import take
from model_registry.config import RegistrySettings
from stream import wire
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.replay import Wanted, replay
from stream.schemas import Schemas
from tests.apicurio import Apicurio, apicurio_server
from tests.integration.conftest import WINNOW, read_all, send, wait_until
from tests.integration.reviewing import Page, come, events, held, released
from trainer.pairs import read_unlabelled
from trainer.verdicts import read_snapshot

pytestmark = pytest.mark.integration

FIELDS = {
    "name": "string", "address": "string", "postcode": "string", "phone": "string",
    "longitude": "double", "latitude": "double", "temperature": "double", "humidity": "int",
}  # fmt: skip
TYPES = {"string": str, "double": float, "int": int}
Frame = Callable[[dict[str, Any]], bytes]


@pytest.fixture(scope="module")
def apicurio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    with apicurio_server(tmp_path_factory.mktemp("apicurio") / "log") as server:
        yield server


@pytest.fixture
def kafka(kafka: KafkaSettings, apicurio: Apicurio) -> KafkaSettings:
    return kafka.model_copy(update={"schema_registry": apicurio.url})


@pytest.fixture(params=["avro", "protobuf", "json"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(apicurio: Apicurio) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": apicurio.url, "timeout": 60}) as made:  # it waits for ever by default
        yield made


@pytest.fixture
def frame(kind: str, client: SchemaRegistryClient, topics: TopicSettings) -> Frame:
    """How a producer writes: with Confluent's own serializer, which registers the schema."""
    context = SerializationContext(topics.records, MessageField.VALUE)
    if kind == "avro":
        avro = {"type": "record", "name": "Twin", "fields": [{"name": name, "type": form} for name, form in FIELDS.items()]}
        serializer: Any = AvroSerializer(client, json.dumps(avro))
    elif kind == "json":
        properties = {name: {"type": "string" if form == "string" else "number"} for name, form in FIELDS.items()}
        serializer = JSONSerializer(json.dumps({"title": "Twin", "type": "object", "properties": properties}), client)
    else:
        message = twin_message()
        protobuf = ProtobufSerializer(message, client, {"use.deprecated.format": False})

        def serializer(twin: dict[str, Any], context: SerializationContext) -> bytes:
            return bytes(protobuf(json_format.ParseDict(twin, message()), context))

    return lambda twin: bytes(serializer(twin, context))


def twin_message() -> Any:
    """Return a message class as protoc would generate it."""
    of = descriptor_pb2.FieldDescriptorProto
    types = {"string": of.TYPE_STRING, "double": of.TYPE_DOUBLE, "int": of.TYPE_INT32}
    fields = [
        of(name=name, number=n, label=of.LABEL_OPTIONAL, type=types[form], json_name=name)
        for n, (name, form) in enumerate(FIELDS.items(), 1)
    ]
    file = descriptor_pb2.FileDescriptorProto(name="twin.proto", package="sites", syntax="proto3")
    file.message_type.add(name="Twin", field=fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sites.Twin"))


def whole_twins(count: int) -> list[dict[str, Any]]:
    """Return right and wrong twins that have every field, each of its type."""
    found = []
    for twin in take(20 * count, 7, unreadable_share=0.0):
        try:
            fields = json.loads(twin.value)
        except ValueError:
            continue
        if isinstance(fields, dict) and list(fields) == list(FIELDS):
            if all(isinstance(fields[name], TYPES[form]) for name, form in FIELDS.items()) and all(fields.values()):
                found.append(fields)
    assert len(found) >= count
    return found[:count]


def test_framed_records_are_judged_by_what_they_say_and_leave_untouched(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None], frame: Frame, apicurio: Apicurio, kind: str
) -> None:
    twins = whole_twins(60)
    whole = frame(twins[0])
    next_id = int.from_bytes(whole[1:5], "big") + 1
    broken = {
        b"unknown": b"\x00" + next_id.to_bytes(4, "big") + whole[5:],
        b"cut": whole[:12],
        b"short": b"\x00\x01",
    }
    send(
        kafka,
        topics.records,
        [{"key": b"framed-%d" % n, "value": frame(twin)} for n, twin in enumerate(twins)]
        + [{"key": b"plain-%d" % n, "value": json.dumps(twin, ensure_ascii=False).encode()} for n, twin in enumerate(twins)]
        + [{"key": key, "value": value} for key, value in broken.items()],
    )
    run_until_idle()
    ledger = read_ledger(kafka.bootstrap_servers, topics)
    assert (ledger.records, ledger.lost, ledger.repeated) == (123, [], [])
    came = {m.key(): m.value() for m in read_all(kafka, topics.records)}
    left = {m.key(): m for topic in (topics.clean, topics.quarantine, topics.dead_letter) for m in read_all(kafka, topic)}
    assert {key: message.value() for key, message in left.items()} == came, "byte for byte"
    found = {outcome.key: outcome for outcome in ledger.outcomes}
    for n in range(len(twins)):
        framed, plain = found[b"framed-%d" % n], found[b"plain-%d" % n]
        assert (framed.route, framed.reason) == (plain.route, plain.reason)
        assert framed.p_chosen is not None
        assert framed.p_chosen == pytest.approx(plain.p_chosen, abs=2e-5), "but for who shares a batch with whom"
    assert len({found[b"framed-%d" % n].p_chosen for n in range(len(twins))}) > 30, "each is judged for itself"
    assert (found[b"unknown"].route, found[b"unknown"].reason) == ("dead-letter", "undecodable")
    assert f"schema {next_id} is not in {apicurio.url}" in (wire.last(left[b"unknown"].headers(), wire.ERROR_MESSAGE) or "")
    assert found[b"cut"].route == "dead-letter"
    assert found[b"cut"].reason == ("bad-json" if kind == "json" else "undecodable")
    assert found[b"short"].reason == "model", "what is not framed is read as ever"


def test_a_dead_letter_is_replayed_when_its_schema_has_come(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None], registry_url: str, client: SchemaRegistryClient
) -> None:
    schema = {"type": "record", "name": "Twin", "fields": [{"name": name, "type": form} for name, form in FIELDS.items()]}
    avro = AvroSerializer(client, json.dumps(schema | {"doc": topics.records}))
    value = bytes(avro(whole_twins(1)[0], SerializationContext(topics.records, MessageField.VALUE)))
    next_id = int.from_bytes(value[1:5], "big") + 1
    value = b"\x00" + next_id.to_bytes(4, "big") + value[5:]
    send(kafka, topics.records, [{"key": b"early", "value": value}])
    run_until_idle()
    [dead] = read_all(kafka, topics.dead_letter)
    assert dead.value() == value
    assert client.register_schema("later", Schema(json.dumps(schema | {"doc": f"{topics.records} later"}), "AVRO")) == next_id
    gate = GateSettings(group=topics.records)
    counts = replay(
        SimpleNamespace(kafka=kafka, topics=topics, gate=gate, registry=RegistrySettings(url=registry_url)), Wanted("dead-letter")
    )
    assert (counts["read"], counts["clean"] + counts["quarantine"]) == (1, 1)
    [moved] = read_all(kafka, topics.clean) + read_all(kafka, topics.quarantine)
    assert moved.value() == value


def test_people_see_what_a_framed_record_says_and_the_trainer_learns_it(
    tables: SimpleNamespace, page: Page, frame: Frame, kind: str
) -> None:
    first, second = whole_twins(2)
    values = [frame(first), frame(second)]
    send(tables.kafka, tables.topics.quarantine, [held(n, value) for n, value in enumerate(values)])
    come(page, 2)
    lease = page.lease()
    said = {field["path"]: field["value"] for field in lease["record"]["fields"]}
    assert (said["name"], said["phone"]) in [(twin["name"], twin["phone"]) for twin in (first, second)]
    assert lease["record"]["content_type"] == kind
    whole = json.loads(page.get(f"/api/decisions/{lease['decision_id']}/value?lease={lease['lease']}")["text"])
    if kind != "json":  # which takes any
        assert page.answer(lease, "wrong", 422, correction=json.dumps(whole | {"humidity": "high"}))["code"] == "correction_unread"
    assert page.answer(lease, "wrong", 422, correction='{"humidity": ')["code"] == "correction_unread"
    corrected = whole | {"phone": "010-62345678"}
    page.answer(lease, "wrong", correction=json.dumps(corrected, ensure_ascii=False))
    [clean] = released(tables, 1)
    assert clean.value()[:5] == values[0][:5], "of the same schema"
    assert json.loads(clean.value()[5:]) == corrected if kind == "json" else clean.value() == frame(corrected)
    page.answer(page.lease(), "right")
    assert sorted(m.value() for m in released(tables, 2))[0][:1] == b"\x00"
    [event, _] = sorted(events(tables), key=lambda said: said["verdict"], reverse=True)
    assert event["content_type"] == kind
    with closing(Schemas(tables.kafka)) as schemas:
        snapshot = read_snapshot(tables.kafka, tables.topics.verdicts, schemas=schemas)
    learned = {verdict.is_right: verdict for verdict in snapshot.verdicts}
    assert json.loads(learned[False].value) in (first, second)
    assert json.loads(learned[False].correction or b"") == corrected
    assert json.loads(learned[True].value) in (first, second)
    send(tables.kafka, tables.topics.records, [{"value": value} for value in values])
    assert [json.loads(text) for text in read_unlabelled(f"topic:{tables.topics.records}", tables.kafka, 5)] in (
        [first, second],
        [second, first],
    )


def test_a_gate_waits_for_a_registry_that_does_not_answer(
    kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path], apicurio: Apicurio, client: SchemaRegistryClient
) -> None:
    schema = {"type": "record", "name": "Twin", "fields": [{"name": name, "type": form} for name, form in FIELDS.items()]}
    avro = AvroSerializer(client, json.dumps(schema))
    context = SerializationContext(topics.records, MessageField.VALUE)
    send(kafka, topics.records, [{"key": b"%d" % n, "value": bytes(avro(twin, context))} for n, twin in enumerate(whole_twins(40))])
    port = free_port()
    path = write_config(metrics_port=port)
    text = path.read_text().replace("metrics_port = 0\n", "", 1)
    path.write_text(text.replace("[kafka]\n", f'[kafka]\nschema_registry = "{apicurio.url}"\n'))

    def vain_tries() -> float:
        try:
            return metric(port, "winnow_schema_registry_failures_total")
        except OSError:
            return 0.0

    with ExitStack() as parts:
        with apicurio.paused():
            gate = subprocess.Popen([*WINNOW, "gate", "--config", str(path)])
            parts.callback(gate.kill)
            wait_until(lambda: vain_tries() >= 1, 120)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5) as answer:
                assert answer.status == 200, "it waits, and is not to be started again"
            assert read_ledger(kafka.bootstrap_servers, topics).outcomes == []
        wait_until(lambda: len(read_ledger(kafka.bootstrap_servers, topics).outcomes) == 40, 60)
        gate.send_signal(signal.SIGTERM)
        assert gate.wait(60) == 0
    ledger = read_ledger(kafka.bootstrap_servers, topics)
    assert (ledger.records, ledger.lost, ledger.repeated) == (40, [], [])
