"""The ledger of a run: what went in against what came out, as a reader who trusts nobody sees it.

Enters: topic names. Leaves: every input offset that has no decision, or more than one, and the order per key. Reads
with read_committed from the first offset to the last, with a plain consumer that shares nothing with the gate.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream import wire
from stream.config import TopicSettings


class Outcome(NamedTuple):
    """One decided record as it lies on an output topic."""

    topic: str
    partition: int
    decision_id: str
    key: bytes | None
    value: bytes | None
    reason: str
    route: str
    p_chosen: float | None
    suspect: str | None = None


class Ledger(NamedTuple):
    """The comparison: counts by topic, offsets lost, decision ids repeated, keys whose order was broken."""

    records: int
    by_topic: dict[str, int]
    lost: list[str]
    repeated: list[str]
    disordered: int
    outcomes: list[Outcome]


def read_ledger(bootstrap_servers: str, topics: TopicSettings) -> Ledger:
    """Compare input offsets with decision ids over the three output topics."""
    expected = [f"{m.topic()}:{m.partition()}:{m.offset()}" for m in messages(bootstrap_servers, topics.records)]
    outcomes = [
        outcome_of(message)
        for topic in (topics.clean, topics.quarantine, topics.dead_letter)
        for message in messages(bootstrap_servers, topic)
        if wire.last(message.headers(), wire.ORIGIN) == "gate"
    ]
    seen = Counter(outcome.decision_id for outcome in outcomes)
    known = set(expected)
    return Ledger(
        len(expected),
        dict(Counter(outcome.topic for outcome in outcomes)),
        [decision_id for decision_id in expected if decision_id not in seen],
        [decision_id for decision_id, times in seen.items() if times > 1 or decision_id not in known],
        disorder(outcomes),
        outcomes,
    )


def outcome_of(message: Message) -> Outcome:
    """Read our headers off one message."""
    headers = message.headers()
    p_chosen = wire.last(headers, wire.P_CHOSEN)
    return Outcome(
        str(message.topic()),
        int(message.partition() or 0),
        wire.last(headers, wire.DECISION_ID) or "",
        message.key(),
        message.value(),
        wire.last(headers, wire.REASON) or "",
        wire.last(headers, wire.ROUTE) or "",
        None if p_chosen is None else float(p_chosen),
        next((path for path, _ in json.loads(wire.last(headers, wire.SUSPECT) or "[]")), None),
    )


def disorder(outcomes: list[Outcome]) -> int:
    """Count records that lie behind a later one of the same key and input partition on the same output topic."""
    last: dict[tuple[str, int, bytes | None, str], int] = {}
    wrong = 0
    for outcome in outcomes:
        _, partition, offset = outcome.decision_id.rsplit(":", 2)
        place = (outcome.topic, outcome.partition, outcome.key, partition)
        wrong += int(offset) <= last.get(place, -1)
        last[place] = int(offset)
    return wrong


def messages(bootstrap_servers: str, topic: str) -> Iterator[Message]:
    """Yield every committed message of a topic, partition by partition, up to its end now."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "ledger",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # the end of every partition is a fetch that finds nothing
            "auto.offset.reset": "earliest",  # a broker may not know a new partition's offset 0 for a moment
        }
    )
    try:
        for partition in sorted(consumer.list_topics(topic, timeout=30).topics[topic].partitions):
            consumer.assign([TopicPartition(topic, partition, 0)])
            yield from _to_end(consumer)
    finally:
        consumer.close()


def _to_end(consumer: Consumer) -> Iterator[Message]:
    while True:
        for message in consumer.consume(1_000, 0.1):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                return
            else:
                raise KafkaException(error)
