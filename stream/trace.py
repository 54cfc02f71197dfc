"""One record's way, from the topics alone: where it went and why, what people said of it, what was released."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from foundation.errors import TopicMissing
from stream import wire
from stream.config import KafkaSettings, TopicSettings
from stream.records import Record
from stream.tail import read_all

_SHOWN = (
    wire.ORIGIN, wire.ROUTE, wire.WOULD_ROUTE, wire.REASON, wire.P_CHOSEN, wire.THRESHOLD, wire.REWARD_RIGHT, wire.REWARD_WRONG, wire.MODEL,
    wire.MODEL_DIGEST, wire.RULES_DIGEST, wire.SUSPECT, wire.PROPENSITY, wire.LOTTERY, wire.ERROR_MESSAGE, wire.ATTEMPT,
)  # fmt: skip


def trace(kafka: KafkaSettings, topics: TopicSettings, decision_id: str) -> list[dict[str, Any]]:
    """Return every message about a decision, in the order of the topics; reads them all, which takes as long as they are.

    Never shows the record itself. A topic that is not there holds nothing: a gate without lotteries needs no audit topic.
    Raises BrokerUnreachable.
    """
    found: list[dict[str, Any]] = []
    for topic in (topics.clean, topics.quarantine, topics.dead_letter, topics.audit):
        for record in _all_of(kafka, topic):
            if wire.last(record.headers, wire.DECISION_ID) == decision_id:
                said = {name.removeprefix("winnow."): wire.last(record.headers, name) for name in _SHOWN}
                found.append({**_place(record), **{name: value for name, value in said.items() if value is not None}})
    for record in _all_of(kafka, topics.verdicts):
        verdict = wire.read_verdict(record.value)
        if verdict is not None and verdict.decision_id == decision_id:
            answer = "right" if verdict.is_right else "wrong"
            more = {"reviewer": verdict.reviewer, "time_ms": verdict.time_ms, "note": verdict.note, "blind": verdict.blind}
            found.append({**_place(record), "verdict": answer, **more, "corrected": verdict.correction is not None})
    return found


def of_key(kafka: KafkaSettings, topics: TopicSettings, key: bytes) -> tuple[dict[str, int], set[bytes]]:
    """Return how many messages of a key each topic holds, and their values; verdict events are found by the record inside them."""
    counts: dict[str, int] = {}
    values: set[bytes] = set()
    for topic in (topics.records, topics.clean, topics.quarantine, topics.dead_letter, topics.audit):
        found = [record.value for record in _all_of(kafka, topic) if record.key == key]
        counts[topic] = len(found)
        values |= {value for value in found if value is not None}
    verdicts = [wire.read_verdict(record.value) for record in _all_of(kafka, topics.verdicts)]
    said = [verdict for verdict in verdicts if verdict is not None and verdict.key == key]
    return {**counts, topics.verdicts: len(said)}, values | {verdict.value for verdict in said}


def _all_of(kafka: KafkaSettings, topic: str) -> Iterator[Record]:
    with suppress(TopicMissing):
        yield from read_all(kafka, topic)


def _place(record: Record) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
