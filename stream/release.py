"""What a verdict causes: its event and, where it sends a record to clean, the release or the correction.

Enters: the record as it lies in quarantine or audit, and the verdict. Leaves: messages for one transaction. Who calls
knows whether the decision has reached clean before; at most one release or correction of it ever does.
"""

from stream import wire
from stream.config import TopicSettings
from stream.records import Headers, Record, Verdict
from stream.route import Outgoing, Partitioner, murmur2, output_partition

OWNER = "winnow-release"
"""Transactional id of the one owner of releases, corrections and replays."""


class Releaser:
    """Knows the topics, their partition counts (fixed at boot) and the partitioner of the gate."""

    def __init__(self, topics: TopicSettings, partition_counts: dict[str, int], partitioner: Partitioner) -> None:
        """Take what does not change."""
        self._topics = topics
        self._counts = partition_counts
        self._partitioner = partitioner

    def messages(self, held: Record, verdict: Verdict, *, has_reached_clean: bool) -> list[Outgoing]:
        """Return the event and, if the verdict is the first to send this decision to clean, what goes there."""
        found = [self.event(verdict)]
        if verdict.reaches_clean and not has_reached_clean:
            found.append(self._release(held, verdict))
        return found

    def replayed(self, held: Record, topic: str, value: bytes, headers: Headers) -> Outgoing:
        """Return a held record on its way to another of our topics: key, partition and timestamp as they were."""
        return Outgoing(topic, self._partition(held, topic), held.key, value, headers, max(0, held.timestamp_ms))

    def event(self, verdict: Verdict) -> Outgoing:
        """Return the event as the verdict topic carries it."""
        key = verdict.decision_id.encode()
        partition = (murmur2(key) & 0x7FFFFFFF) % self._counts[self._topics.verdicts]
        return Outgoing(self._topics.verdicts, partition, key, wire.verdict_event(verdict), [], 0)

    def _release(self, held: Record, verdict: Verdict) -> Outgoing:
        """Key, timestamp and the producer's headers stay; a correction replaces the value alone."""
        is_correction = verdict.correction is not None
        value = verdict.correction if is_correction else held.value
        headers = wire.release_headers(held.headers, is_correction=is_correction)
        return Outgoing(self._topics.clean, self._partition(held, self._topics.clean), held.key, value, headers, max(0, held.timestamp_ms))

    def _partition(self, held: Record, topic: str) -> int:
        decision_id = wire.last(held.headers, wire.DECISION_ID) or held.decision_id
        return output_partition(int(decision_id.rsplit(":", 2)[1]), held.key, self._counts[topic], self._partitioner)
