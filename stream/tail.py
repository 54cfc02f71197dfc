"""Topics read from places that the reader keeps, without joining a group: committed records only, in order per partition.

Enters: topics and where to begin. Leaves: records, and the offsets to keep beside what was made of them.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from foundation.errors import KafkaRefused, TopicMissing
from stream.cluster import CALL_TIMEOUT_SECONDS, administrator, base_config, list_topics, record_of
from stream.config import KafkaSettings
from stream.records import Record

log = logging.getLogger("winnow.kafka")

_POLL_RECORDS, _POLL_SECONDS = 2_000, 0.2
_SILENCE_SECONDS = CALL_TIMEOUT_SECONDS * 3
_MOST_PARTITIONS = 10_000
_AT_THE_END = -1


class Tail:
    """A consumer of whole topics that knows how far it has read and whether that was the end."""

    def __init__(self, settings: KafkaSettings, topics: Sequence[str], start: Mapping[tuple[str, int], int]) -> None:
        """Begin at `start` (topic, partition -> next offset), elsewhere at the beginning.

        Raises BrokerUnreachable, TopicMissing.
        """
        counts = list_topics(administrator(settings), settings)
        for topic in topics:
            if topic not in counts:
                raise TopicMissing(f"topic {topic} does not exist on {settings.bootstrap_servers}; `winnow topics` creates it")
        self.next: dict[tuple[str, int], int] = dict(start)
        self._open = {(topic, partition) for topic in topics for partition in range(counts[topic])}
        self._places = frozenset(self._open)
        self._consumer = Consumer(
            {
                **base_config(settings),
                "group.id": "winnow-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            },
            logger=log,
        )
        self._consumer.assign([TopicPartition(*place, self.next.get(place, OFFSET_BEGINNING)) for place in self._places])

    def poll(self, most: int, timeout_seconds: float) -> list[Record]:
        """Return up to `most` records that have come, none after the time-out. Raises KafkaRefused."""
        found = []
        try:
            # asked for many at once it would wait for all of them, or for the whole time-out
            messages = self._consumer.consume(1, timeout_seconds)
            if messages and most > 1:
                messages += self._consumer.consume(most - 1, 0)
        except KafkaException as error:
            raise KafkaRefused(f"the topics cannot be read: {error.args[0].str()}") from error
        for message in messages:
            refused = message.error()
            place = (message.topic(), message.partition())
            if refused is None:
                found.append(record_of(message))
                self.next[place] = message.offset() + 1
                self._open.add(place)
            elif refused.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                self.next[place] = max(message.offset(), self.next.get(place, 0))
                self._open.discard(place)
            elif refused.fatal():
                raise KafkaRefused(f"{message.topic()} cannot be read: {refused.str()}")
            else:
                log.warning("reader error", extra={"code": refused.name(), "detail": refused.str()})
        return found

    def to_end(self) -> Iterator[list[Record]]:
        """Yield what comes, poll by poll, until every partition has been read to its present end. Raises KafkaRefused."""
        heard, places = time.monotonic(), len(self._open)
        while self._open:
            came = self.poll(_POLL_RECORDS, _POLL_SECONDS)
            yield came
            if came or len(self._open) != places:
                heard, places = time.monotonic(), len(self._open)
            elif time.monotonic() - heard > _SILENCE_SECONDS:
                waited_for = ", ".join(f"{topic}:{partition}" for topic, partition in sorted(self._open))
                raise KafkaRefused(f"nothing comes from {waited_for} for {_SILENCE_SECONDS:.0f} s; is a transaction left open there?")

    @property
    def is_at_end(self) -> bool:
        """Whether every partition has been read to what was its end at the last poll."""
        return not self._open

    def close(self) -> None:
        """Let go of the consumer."""
        self._consumer.close()


def read_all(settings: KafkaSettings, topic: str) -> Iterator[Record]:
    """Yield the committed records of a topic from its beginning to its present end. Raises BrokerUnreachable, TopicMissing."""
    tail = Tail(settings, [topic], {})
    try:
        for came in tail.to_end():
            yield from came
    finally:
        tail.close()


def latest(settings: KafkaSettings, topic: str, count: int) -> list[Record]:
    """Return about the last `count` committed records, the same number of every partition, or all if there are no more; in order.

    Never reads more than twice that. Raises BrokerUnreachable, TopicMissing.
    """
    # begun at its end a partition answers with its end; those that are not there keep what they were given
    everywhere = {(topic, partition): _AT_THE_END for partition in range(_MOST_PARTITIONS)}
    ends = _read(settings, topic, everywhere, 0)[1]
    real = {place: end for place, end in ends.items() if end != _AT_THE_END}
    each = count if sum(real.values()) <= count else -(-count // len(real))
    return _read(settings, topic, {place: max(0, end - each) for place, end in real.items()}, 2 * count)[0]


def _read(
    settings: KafkaSettings, topic: str, start: dict[tuple[str, int], int], most: int
) -> tuple[list[Record], dict[tuple[str, int], int]]:
    tail = Tail(settings, [topic], start)
    found: list[Record] = []
    try:
        for came in tail.to_end():
            found += came[: most - len(found)]
            if most and len(found) >= most:
                break
    finally:
        tail.close()
    return sorted(found, key=lambda record: (record.partition, record.offset)), dict(tail.next)
