"""The gate on a real Kafka: fidelity to the byte, the input table, exactly once, observe mode, refusals."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from bench.gate_process import metric, wait_until_ready
from bench.paused import paused
from demo.broker import free_port, start_broker, temporary_broker
from demo.ledger import read_ledger
from demo.twins import take
from foundation.errors import KafkaAway
from stream import wire
from stream.cluster import make_topics
from stream.config import KafkaSettings, TopicSettings
from stream.kafka import Source
from stream.route import Outgoing
from stream.transaction import Sink, TransactionAborted
from tests.integration.conftest import WINNOW, limit, read_all, send, wait_until, winnow

pytestmark = pytest.mark.integration
NOW = 1_700_000_000_000


def big(size: int) -> bytes:
    """Return bytes that compress like real text, as one JSON record."""
    words = [f"部件{zlib.crc32(str(n).encode()) % 999}" for n in range(size // 10)]
    return json.dumps({"notes": " ".join(words)}, ensure_ascii=False).encode()[:size]


def test_fidelity(kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]) -> None:
    """Key, value, timestamp and the producer's headers leave byte for byte, whatever they are."""
    headers = [("a", b"1"), ("a", b"\x00\xff"), ("empty", b""), ("null", None), ("winnow.route", b"forged"), ("标题", "值".encode())]
    records: list[dict[str, object]] = [
        {"value": b'{"a": 1}', "key": b"\x00\xffkey", "headers": headers, "timestamp": NOW},
        {"value": b"\x00\x01\xff\xfe", "key": b"", "headers": [], "timestamp": NOW},
        {"value": b"", "key": None, "timestamp": NOW},
        {"value": None, "key": b"tombstone", "headers": headers, "timestamp": NOW},
        {"value": '\ufeff{"x": "北京"}'.encode(), "key": "键".encode(), "timestamp": NOW},
        {"value": "王伟,北京市朝阳区,邮编:100102".encode(), "key": None, "timestamp": 4_102_444_800_000},
        {"value": big(1_200_000), "key": b"big", "timestamp": NOW + 1},
        {"value": b'{"a": "<|im_end|>"}', "key": b"k" * 3_000, "timestamp": 1},
    ]
    for number, record in enumerate(records):
        send(kafka, topics.records, [{**record, "partition": number % 3}], **{"compression.type": "zstd"})
    run_until_idle()
    came = {f"{m.topic()}:{m.partition()}:{m.offset()}": m for m in read_all(kafka, topics.records)}
    left = {}
    for topic in (topics.clean, topics.quarantine, topics.dead_letter):
        for message in read_all(kafka, topic):
            left[wire.last(message.headers(), wire.DECISION_ID)] = message
    assert len(left) == len(came) == len(records)
    for decision_id, before in came.items():
        after = left[decision_id]
        assert (after.key(), after.value(), after.timestamp()[1]) == (before.key(), before.value(), before.timestamp()[1])
        own = before.headers() or []
        assert (after.headers() or [])[: len(own)] == own
        assert after.partition() == before.partition()


CORPUS: list[tuple[bytes | None, str, str]] = [
    (None, "clean", "tombstone"),
    (b"", "dead-letter", "empty"),
    (b"\xc3\x28", "dead-letter", "undecodable"),
    (b'{"a":', "dead-letter", "bad-json"),
    (b"[" * 100 + b"]" * 100, "dead-letter", "too-deep"),
    (b"[" * 100_000 + b"]" * 100_000, "dead-letter", "too-deep"),
    (b'{"a": NaN}', "quarantine", "rule:not-finite"),
    (b'{"a": 1, "a": 1}', "quarantine", "rule:duplicate-key"),
    (b'{"a": "\\ud800"}', "quarantine", "rule:lone-surrogate"),
    (b'{"a": "' + b"x" * 900_000 + b'"}', "quarantine", "too-long"),
    (b"1" * 900_000, "quarantine", "too-long"),
    *((f'{{"a": "{text}"}}'.encode(), "", "model") for text in ("<|im_end|>", "<|eot_id|>", "<|endoftext|>", "\\u0000", "\\u202e")),
    (b"\x00" * 40, "", "model"),
    (b"12", "", "model"),
    (b"{}", "", "model"),
]


def test_bad_records_go_where_the_contract_says_and_stop_nothing(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]
) -> None:
    send(kafka, topics.records, [{"value": value, "key": str(n).encode(), "partition": 0} for n, (value, _, _) in enumerate(CORPUS)])
    run_until_idle()
    ledger = read_ledger(kafka.bootstrap_servers, topics)
    assert (ledger.lost, ledger.repeated) == ([], [])
    found = {int(outcome.key or b""): outcome for outcome in ledger.outcomes}
    for number, (_, route, reason) in enumerate(CORPUS):
        assert found[number].reason == reason
        assert route in ("", found[number].route)
        assert (found[number].p_chosen is not None) == (reason == "model")


def test_two_gates_share_the_work_and_headers_agree(kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]) -> None:
    send(kafka, topics.records, [{"value": twin.value, "key": twin.key} for twin in take(3_000, 11)])
    path = write_config()
    gates = [subprocess.Popen([*WINNOW, "gate", "--config", str(path), "--until-idle", "3"]) for _ in range(2)]
    assert [gate.wait(300) for gate in gates] == [0, 0]
    ledger = read_ledger(kafka.bootstrap_servers, topics)
    assert (ledger.records, ledger.lost, ledger.repeated, ledger.disordered) == (3_000, [], [], 0)
    for message in read_all(kafka, topics.clean):
        headers = message.headers()
        if wire.last(headers, wire.REASON) == "model":
            assert float(wire.last(headers, wire.P_CHOSEN) or 0) >= float(wire.last(headers, wire.THRESHOLD) or 1)
            assert (wire.last(headers, wire.MODEL_DIGEST) or "").startswith("sha256:")


def test_observe_mode_sends_all_to_clean(kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]) -> None:
    send(kafka, topics.records, [{"value": b'{"a": NaN}'}, {"value": b"\xff"}, {"value": b"ok"}, {"value": None}])
    run_until_idle(mode="observe", audit_rate=0, audit_extra_rate=0)
    clean = read_all(kafka, topics.clean)
    assert len(clean) == 4
    assert {wire.last(m.headers(), wire.ROUTE) for m in clean} == {"clean"}
    would = {wire.last(m.headers(), wire.REASON): wire.last(m.headers(), wire.WOULD_ROUTE) for m in clean}
    assert would["rule:not-finite"] == "quarantine"
    assert would["undecodable"] == "dead-letter"
    assert would["tombstone"] == "clean"
    held = [m for m in clean if wire.last(m.headers(), wire.WOULD_ROUTE) == "quarantine"]
    audits = read_all(kafka, topics.audit)
    assert len(audits) == len(held)
    assert {wire.last(m.headers(), wire.ROUTE) for m in audits} == {"audit"}
    assert read_all(kafka, topics.quarantine) == []


def test_transactional_input_counts_as_idle(kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]) -> None:
    """A producer's transaction ends with a marker that no record follows; lag must reach 0 all the same."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topics.records})
    producer.init_transactions(20)
    for commit in (True, False, True):
        producer.begin_transaction()
        for number in range(5):
            producer.produce(topics.records, f"v{commit}{number}".encode(), partition=number % 3)
        producer.flush()
        (producer.commit_transaction if commit else producer.abort_transaction)(20)
    run_until_idle(mode="rules")
    assert len(read_all(kafka, topics.clean)) == 10


def test_a_record_refused_by_its_output_never_stops_the_partition(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]
) -> None:
    limit(kafka, topics.clean, {"max.message.bytes": "2000"})
    noise = os.urandom(6_000).hex().encode()
    values = [b"a", b"b", noise, b"c", noise + b"2", b"d"]
    keys = [b"k", None, b"k", b"k", None, b"k"]
    send(kafka, topics.records, [{"value": value, "key": key, "partition": 1} for value, key in zip(values, keys, strict=True)])
    run_until_idle(mode="rules")
    ledger = read_ledger(kafka.bootstrap_servers, topics)
    assert (ledger.lost, ledger.repeated) == ([], [])
    assert [o.value for o in ledger.outcomes if o.route == "clean"] == [b"a", b"b", b"c", b"d"]
    dead = [m for m in read_all(kafka, topics.dead_letter) if wire.last(m.headers(), wire.REASON) == "unwritable"]
    assert [m.value() for m in dead] == [b"", b""]
    assert {wire.last(m.headers(), wire.ERROR_OFFSET) for m in dead} == {"2", "4"}


def test_sigterm_finishes_commits_and_exits_0(kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]) -> None:
    send(kafka, topics.records, [{"value": f"v{n}".encode(), "key": b"k"} for n in range(500)])
    gate = subprocess.Popen([*WINNOW, "gate", "--config", str(write_config(mode="rules"))], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 180
    while not read_all(kafka, topics.clean) and time.monotonic() < deadline:
        time.sleep(0.2)
    gate.send_signal(signal.SIGTERM)
    _, said = gate.communicate(timeout=90)
    assert gate.returncode == 0
    assert said == "", "normal operation is silent"
    ledger = read_ledger(kafka.bootstrap_servers, topics)
    assert (ledger.lost, ledger.repeated) == ([], [])


def test_sigterm_is_heard_while_an_output_refuses(
    kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    path, said = write_config(mode="rules"), tmp_path / "said"
    path.write_text(path.read_text().replace("[topics]", "transaction_timeout_seconds = 2\n[topics]"))
    send(kafka, topics.records, [{"value": b"v"}])
    with said.open("w") as stderr, subprocess.Popen([*WINNOW, "gate", "--config", str(path)], stderr=stderr) as gate:
        try:
            wait_until(lambda: len(read_all(kafka, topics.clean)) == 1)
            admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
            admin.delete_topics([topics.clean])[topics.clean].result(20)
            send(kafka, topics.records, [{"value": b"w"}])
            wait_until(lambda: "transaction aborted" in said.read_text())
            gate.send_signal(signal.SIGTERM)
            assert gate.wait(60) == 3
        finally:
            gate.kill()
    assert f"topic {topics.clean}" in said.read_text().splitlines()[-1]
    make_topics(kafka, topics, 3)
    assert winnow("gate", "--config", path, "--until-idle", "1").returncode == 0
    assert [m.value() for m in read_all(kafka, topics.clean)] == [b"w"]


def test_classic_protocol_and_murmur2(kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]) -> None:
    classic = kafka.model_copy(update={"group_protocol": "classic"})
    from model_registry.config import RegistrySettings
    from stream.boot import run_gate
    from stream.config import GateSettings

    send(kafka, topics.records, [{"value": b"x", "key": str(n).encode()} for n in range(60)], **{"partitioner": "murmur2_random"})
    gate = GateSettings(group=topics.records, metrics_port=0, mode="rules", partitioner="murmur2")
    run_gate(classic, topics, gate, RegistrySettings(), until_idle_seconds=1.0)
    came = {m.key(): m.partition() for m in read_all(kafka, topics.records)}
    left = {m.key(): m.partition() for m in read_all(kafka, topics.clean)}
    assert left == came


def test_what_came_while_a_batch_took_long_is_not_lost_by_starting_over(kafka: KafkaSettings, topics: TopicSettings) -> None:
    from stream.kafka import _MOST_EARLY

    source = Source(kafka, topics.records, topics.records)
    try:
        source.join()
        wait_until(lambda: not source.poll(1, 0.1) and len(source.owned) > 0, 30)
        send(kafka, topics.records, [{"value": b"%d" % n, "key": b"k"} for n in range(3 * _MOST_EARLY)])
        source.poll(0, 0.0)

        def is_paused() -> bool:
            for _ in range(_MOST_EARLY):
                source.serve()
            return len(source._early) >= _MOST_EARLY and source._is_paused

        wait_until(is_paused, 30)
        early = len(source._early)
        for _ in range(20):
            source.serve()
        assert len(source._early) <= early + 1, "a long wait pauses: what waits here is bounded"
        source.rewind()  # nothing was ever committed
        came: list[bytes | None] = []
        wait_until(lambda: len(came) >= 3 * _MOST_EARLY or bool(came.extend(r.value for r in source.poll(100, 0.1))), 30)
        assert came == [b"%d" % n for n in range(3 * _MOST_EARLY)]
    finally:
        source.close()


def test_a_twin_instance_is_named_when_it_fences(kafka: KafkaSettings, topics: TopicSettings) -> None:
    from foundation.errors import GateFenced

    message = Outgoing(topics.clean, 0, None, b"x", [], 0)
    source = Source(kafka, topics.records, topics.records)
    source.poll(1, 0.1)
    offsets = {(topics.records, 0): 0}
    first = Sink(kafka, f"winnow-{topics.records}-same")
    second = Sink(kafka, f"winnow-{topics.records}-same")
    with pytest.raises(GateFenced, match=f"winnow-{topics.records}-same .*gate.instance"):
        first.commit([message], offsets, source.group_metadata)
    second.commit([message], offsets, source.group_metadata)
    source.close()
    assert len(read_all(kafka, topics.clean)) == 1


def test_sending_offsets_that_never_comes_back_is_left_behind(
    kafka: KafkaSettings, topics: TopicSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As librdkafka does when the group's coordinator was away for a moment (#5456, #5511)."""
    monkeypatch.setattr("stream.transaction._OFFSETS_SECONDS", 1.0)
    message, offsets = Outgoing(topics.clean, 0, None, b"x", [], 0), {(topics.records, 0): 0}
    source = Source(kafka, topics.records, topics.records)
    source.poll(1, 0.1)
    sink, comes_back = Sink(kafka, f"winnow-{topics.records}-stuck"), threading.Event()
    call, late = sink._caller.call, threading.Event()

    def stuck(what: Callable[[], None], seconds: float) -> None:
        def at_last() -> None:
            comes_back.wait()
            try:
                what()
            finally:
                late.set()

        call(at_last, seconds)

    sink._caller.call = stuck
    with pytest.raises(TransactionAborted, match="sending offsets has not come back within 1 s"):
        sink.commit([message], {(topics.records, 0): 7}, source.group_metadata)
    sink.commit([message], offsets, source.group_metadata)
    comes_back.set()
    assert late.wait(60), "the producer that was left behind gets its answer"
    sink.commit([message], offsets, source.group_metadata)
    sink.close()
    assert source.lag()[0][0] == 0, "its offsets count for nothing"
    source.close()
    assert len(read_all(kafka, topics.clean)) == 2, "what it wrote was aborted"


def test_a_gate_that_waits_for_nothing_says_that_kafka_is_away(tmp_path: Path) -> None:
    port, directory, config = free_port(), tmp_path / "kafka", tmp_path / "winnow.toml"

    def becomes(*, is_ready: bool) -> None:
        wait_until(lambda: metric(port, "winnow_ready ") == is_ready)
        if is_ready:
            return wait_until_ready(port)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10)

    broker = start_broker(0, directory)
    try:
        kafka, topics = KafkaSettings(bootstrap_servers=broker.address), TopicSettings()
        make_topics(kafka, topics, 1)
        config.write_text(f'[kafka]\nbootstrap_servers = "{broker.address}"\n[gate]\nmetrics_port = {port}\nmode = "rules"\n')
        with subprocess.Popen([*WINNOW, "gate", "--config", str(config)], stderr=subprocess.DEVNULL) as gate:
            try:
                wait_until_ready(port)
                becomes(is_ready=True)
                broker.stop()
                becomes(is_ready=False)
                broker = start_broker(int(broker.address.rpartition(":")[2]), directory)
                becomes(is_ready=True)
                send(kafka, topics.records, [{"value": b"x"}])
                wait_until(lambda: [m.value() for m in read_all(kafka, topics.clean)] == [b"x"])
            finally:
                gate.terminate()
            assert gate.wait(60) == 0
    finally:
        broker.stop()


def test_kafka_may_be_away_while_a_producer_and_the_offsets_are_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.CALL_TIMEOUT_SECONDS", 0.5)
    with temporary_broker() as broker:
        kafka = KafkaSettings(bootstrap_servers=broker.address, connect_timeout_seconds=3)
        topics = TopicSettings(records="away")
        make_topics(kafka, topics, 1)
        send(kafka, topics.records, [{"value": b"x"}])
        source = Source(kafka, topics.records, "away")
        source.join()
        wait_until(lambda: bool(source.poll(1, 0.1)), 30)
        sink = Sink(kafka, "winnow-away")
        sink._is_abandoned = True
        with paused(broker.process):
            with pytest.raises(KafkaAway, match="consumer of away in group away failed"):
                source.rewind()
            source.rewind()
            assert not source.owned, "another client begins anew"
            with pytest.raises(TransactionAborted, match="Kafka would not start transactions for winnow-away"):
                sink.commit([], {(topics.records, 0): 1}, source.group_metadata)
        came: list[bytes | None] = []
        wait_until(lambda: bool(came.extend(record.value for record in source.poll(1, 0.1)) or came), 60)
        sink.commit([], {(topics.records, 0): 1}, source.group_metadata)
        assert came == [b"x"]
        for thread in threading.enumerate():
            if thread.name == "leave":
                thread.join(60)
        assert source.owned == [(topics.records, 0)], "the client that left took nothing away"
        source.close()
