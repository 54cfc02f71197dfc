"""Exactly-once loops on plain confluent-kafka, which the gate is measured against: what an operator would write in an afternoon.

Enters: what makes of a poll's records their headers. Leaves: records per second from the first poll to the last commit.
"""

import time
from collections.abc import Callable, Sequence

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from stream import wire
from stream.cluster import record_of
from stream.config import TopicSettings
from stream.decode import decode_value
from stream.live_model import LiveModel
from stream.records import Content, Decision, Headers, Record, Rewards, Route
from stream.render import text_of

PER_TRANSACTION = 2_000
HeadersOf = Callable[[Sequence[Record]], list[Headers]]


def copy(bootstrap: str, topics: TopicSettings, name: str, total: int, headers_of: HeadersOf, most: int = PER_TRANSACTION) -> float:
    """Copy records to clean, up to `most` a transaction, the offsets in it; return records per second."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": name,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "compression.type": "zstd", "linger.ms": 5})
    producer.init_transactions(30)
    consumer.subscribe([topics.records])
    done, begun = 0, 0.0
    while done < total:
        records = [record_of(m) for m in consumer.consume(most, 0.1) if m.error() is None]
        if not records:
            continue
        begun = begun or time.perf_counter()
        producer.begin_transaction()
        ends: dict[int, int] = {}
        for record, headers in zip(records, headers_of(records), strict=True):
            said = record.headers + headers
            producer.produce(topics.clean, record.value, record.key, record.partition, timestamp=record.timestamp_ms, headers=said)
            ends[record.partition] = record.offset + 1
        offsets = [TopicPartition(topics.records, partition, end) for partition, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction(30)
        done += len(records)
    seconds = time.perf_counter() - begun
    consumer.close()
    return done / seconds


def one_header(records: Sequence[Record]) -> list[Headers]:
    """Say nothing of a record: the bare copy."""
    return [[("h", b"1")] for _ in records]


def same_headers(shared: wire.Constants) -> HeadersOf:
    """Return what parses the JSON of every record and writes the headers that the gate writes."""
    judged = Decision(Route.CLEAN, "model", "", Rewards(1.0, 0.0), 0.731059)

    def headers_of(records: Sequence[Record]) -> list[Headers]:
        for record in records:
            if record.value is not None and record.value[:1] == b"{":
                orjson.loads(record.value)
        return [wire.decision_headers(record, judged, shared) for record in records]

    return headers_of


def scored(model: LiveModel, shared: wire.Constants) -> HeadersOf:
    """Return what scores a poll with a model and writes what came of it: the plain loop around the same scorer."""

    def headers_of(records: Sequence[Record]) -> list[Headers]:
        texts = [text_of(c) if isinstance(c := decode_value(record.value, "auto"), Content) else "" for record in records]
        rewards_B2 = model.scorer.rewards([ids or [] for ids in model.scorer.encoder.encode(texts)])
        decisions = []
        for right, wrong in rewards_B2.tolist():
            p = model.calibration.p_chosen(right - wrong)
            route = Route.CLEAN if p >= model.threshold else Route.QUARANTINE
            decisions.append(Decision(route, "model", "", Rewards(right, wrong), p))
        return [wire.decision_headers(record, decision, shared) for record, decision in zip(records, decisions, strict=True)]

    return headers_of
