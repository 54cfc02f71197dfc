"""Stage 5: decisions -> outgoing messages. Key, value, timestamp and the producer's headers leave as they came."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from stream import wire
from stream.config import TopicSettings
from stream.records import Decision, Headers, Reason, Record, Route

Partitioner = Literal["same", "murmur2"]


class Outgoing(NamedTuple):
    """One message to produce; timestamp_ms 0 lets the client write now."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int


class Router:
    """Knows the output topics, their partition counts (fixed at boot) and what the headers share."""

    def __init__(
        self, topics: TopicSettings, partition_counts: dict[str, int], partitioner: Partitioner, observe_audit: float | None
    ) -> None:
        """`observe_audit` is None unless the gate only observes; then it is the share of audit copies."""
        self._of_route = {
            Route.CLEAN: topics.clean,
            Route.QUARANTINE: topics.quarantine,
            Route.DEAD_LETTER: topics.dead_letter,
        }
        self._audit = topics.audit
        self._counts = partition_counts
        self._partitioner = partitioner
        self._observe_audit = observe_audit

    def route(self, records: Sequence[Record], decisions: Sequence[Decision], shared: wire.Constants) -> list[list[Outgoing]]:
        """Return the messages of each record, in order: one, or two where an audit copy is drawn."""
        if self._observe_audit is None:
            return [[self._one(record, decision, shared)] for record, decision in zip(records, decisions, strict=True)]
        return [self._observed(record, decision, shared) for record, decision in zip(records, decisions, strict=True)]

    def unwritable(self, record: Record, detail: str, shared: wire.Constants, *, bare: bool) -> Outgoing:
        """Return what replaces a record that the broker refuses: no value, and `bare` leaves out its key and headers."""
        decision = Decision(Route.DEAD_LETTER, Reason.UNWRITABLE, detail)
        message = self._one(record, decision, shared)
        if bare:
            ours = wire.decision_headers(record, decision, shared)
            return message._replace(key=None, value=b"", headers=ours, timestamp_ms=0)
        return message._replace(value=b"")

    def _one(self, record: Record, decision: Decision, shared: wire.Constants) -> Outgoing:
        headers = record.headers + wire.decision_headers(record, decision, shared)
        topic = self._of_route[decision.route]
        return Outgoing(topic, self._partition(record, topic), record.key, record.value, headers, max(0, record.timestamp_ms))

    def _observed(self, record: Record, decision: Decision, shared: wire.Constants) -> list[Outgoing]:
        ours = wire.decision_headers(record, decision, shared, observed=True)
        clean = self._of_route[Route.CLEAN]
        kept = Outgoing(clean, self._partition(record, clean), record.key, record.value, record.headers + ours, max(0, record.timestamp_ms))
        if decision.route is not Route.QUARANTINE or not drawn(record.decision_id, self._observe_audit or 0.0):
            return [kept]
        copy = kept._replace(
            topic=self._audit, partition=self._partition(record, self._audit), headers=record.headers + wire.audit_headers(ours)
        )
        return [kept, copy]

    def _partition(self, record: Record, topic: str) -> int:
        count = self._counts[topic]
        if self._partitioner == "murmur2" and record.key is not None:
            return (murmur2(record.key) & 0x7FFFFFFF) % count
        return record.partition % count


def drawn(decision_id: str, share: float) -> bool:
    """Return whether the lottery picks this decision; the same answer whenever it is asked again."""
    ticket = int.from_bytes(hashlib.blake2b(decision_id.encode(), digest_size=8).digest(), "big")
    return ticket < share * 2**64


def murmur2(data: bytes) -> int:
    """Return the 32-bit murmur2 hash with the seed that Java Kafka clients use to choose a partition."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(data)) & mask
    whole = len(data) // 4 * 4
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    tail = data[whole:]
    if tail:
        h = (h ^ int.from_bytes(tail, "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)
