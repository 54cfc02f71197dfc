"""Stage 5: decisions -> outgoing messages. Key, value, timestamp and the producer's headers leave as they came."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from stream import wire
from stream.config import TopicSettings
from stream.decide import ticket
from stream.records import Decision, Draw, Headers, Reason, Record, Route

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
            return [self._enforced(record, decision, shared) for record, decision in zip(records, decisions, strict=True)]
        return [self._observed(record, decision, shared) for record, decision in zip(records, decisions, strict=True)]

    def unwritable(self, record: Record, detail: str, shared: wire.Constants, *, bare: bool) -> Outgoing:
        """Return what replaces a record that the broker refuses: no value, and `bare` leaves out its key and headers."""
        decision = Decision(Route.DEAD_LETTER, Reason.UNWRITABLE, detail)
        message = self._one(record, decision, shared)
        if bare:
            ours = wire.decision_headers(record, decision, shared)
            return message._replace(key=None, value=b"", headers=ours, timestamp_ms=0)
        return message._replace(value=b"")

    def _enforced(self, record: Record, decision: Decision, shared: wire.Constants) -> list[Outgoing]:
        message = self._one(record, decision, shared)
        if decision.draw is None or decision.route is not Route.CLEAN:
            return [message]
        return [message, self._audit_copy(record, message, decision)]

    def _audit_copy(self, record: Record, message: Outgoing, decision: Decision) -> Outgoing:
        ours = wire.audit_headers(message.headers[len(record.headers) :], decision.draw)
        return message._replace(topic=self._audit, partition=self._partition(record, self._audit), headers=record.headers + ours)

    def _one(self, record: Record, decision: Decision, shared: wire.Constants) -> Outgoing:
        headers = record.headers + wire.decision_headers(record, decision, shared)
        topic = self._of_route[decision.route]
        return Outgoing(topic, self._partition(record, topic), record.key, record.value, headers, max(0, record.timestamp_ms))

    def _observed(self, record: Record, decision: Decision, shared: wire.Constants) -> list[Outgoing]:
        ours = wire.decision_headers(record, decision, shared, observed=True)
        clean = self._of_route[Route.CLEAN]
        kept = Outgoing(clean, self._partition(record, clean), record.key, record.value, record.headers + ours, max(0, record.timestamp_ms))
        is_held = decision.route is Route.QUARANTINE
        if decision.draw is None and not (is_held and ticket(record.decision_id, "observe") < (self._observe_audit or 0.0)):
            return [kept]
        if decision.draw is None:
            decision = decision._replace(draw=Draw(None, self._observe_audit or 0.0))
        return [kept, self._audit_copy(record, kept, decision)]

    def _partition(self, record: Record, topic: str) -> int:
        return output_partition(record.partition, record.key, self._counts[topic], self._partitioner)


def output_partition(input_partition: int, key: bytes | None, count: int, partitioner: Partitioner) -> int:
    """Return where a record goes in a topic of `count` partitions; without a key both ways are `same`."""
    if partitioner == "murmur2" and key is not None:
        return (murmur2(key) & 0x7FFFFFFF) % count
    return input_partition % count


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
