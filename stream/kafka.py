"""Kafka for who reads: the consumer of the gate and its rebalance callbacks.

Enters: settings. Leaves: records in polls, and what of them is still owned; it never commits.

Ownership: a record belongs to this gate from the poll that returned it until its transaction commits or its partition
is taken away. Every assignment of a partition gets a new tenure number; a record whose tenure is over is dropped
before it is produced, so nothing is ever committed after a revoke.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from foundation.errors import KafkaAway, KafkaRefused
from stream.cluster import CALL_TIMEOUT_SECONDS, base_config, is_away, record_of
from stream.config import KafkaSettings
from stream.records import Record

log = logging.getLogger("winnow.kafka")

Place = tuple[str, int]
MAX_POLL_INTERVAL_SECONDS = 300
_MOST_EARLY = 16
_ASK_EVERY_SECONDS, _ASK_SECONDS = 10.0, 5.0
_MOST_UNANSWERED = 2
_NO_KIP_848 = frozenset({KafkaError.UNSUPPORTED_VERSION, KafkaError._UNSUPPORTED_FEATURE})  # noqa: SLF001


class Source:
    """The consumer of one topic in one group: polls records, knows what is owned, never commits."""

    def __init__(
        self, settings: KafkaSettings, topic: str, group: str, on_rebalance: Callable[[str, int], None] = lambda kind, count: None
    ) -> None:
        """Create the consumer without joining; `on_rebalance` hears `assigned`, `revoked` or `lost` and how many."""
        self._settings = settings
        self._topic = topic
        self._group = group
        self._on_rebalance = on_rebalance
        self._protocol = "classic" if settings.group_protocol == "classic" else "consumer"
        self._tenure: dict[Place, int] = {}
        self._tenures = 0
        self._next: dict[Place, int] = {}
        self._first: dict[Place, int] = {}
        self._ends: dict[Place, int] = {}
        self._polled_ms: dict[Place, int] = {}
        self._early: list[Message] = []
        self._is_paused = False
        self._unanswered = 0
        self._is_cut_off = False
        self._asked = 0.0
        self.group_metadata: object = None
        """Membership as it was right after the last poll; a later one could vouch for partitions already lost."""
        self._consumer = self._new_consumer()

    def join(self) -> None:
        """Subscribe, which joins the group at the next poll."""
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def poll(self, most: int, timeout_seconds: float, gather_seconds: float = 0.0) -> list[Record]:
        """Return up to `most` records of owned partitions, in order per partition; runs rebalance callbacks.

        Where nothing has come yet, waits for the first one until the time-out, and for others to come with it for `gather_seconds`.
        """
        if self._is_paused:
            self._is_paused = False
            self._consumer.resume([place for place in self._consumer.assignment() if (place.topic, place.partition) in self._tenure])
        with self._said_no():
            self._consume(most - len(self._early), 0)
            if timeout_seconds and not self._early:  # asked for many at once it would wait for all of them, or for the whole time-out
                self._consume(1, timeout_seconds)
                if self._early:
                    self._consume(most - 1, gather_seconds)
        messages, self._early = self._early, []
        self._is_cut_off = self._is_cut_off and not messages
        records = []
        for message in messages:
            error = message.error()
            if error is not None:
                self._note(message, error)
                continue
            record = record_of(message)
            place, offset = (record.topic, record.partition), record.offset
            if place not in self._tenure or offset < self._next.get(place, 0):
                continue
            self._first.setdefault(place, offset)
            self._next[place] = offset + 1
            self._polled_ms[place] = record.timestamp_ms
            records.append(record)
        self.group_metadata = self._consumer.consumer_group_metadata()
        return records

    def _consume(self, most: int, timeout_seconds: float) -> None:
        """Add what has come to what is early: a callback that runs inside may take from there what is no longer owned."""
        if most > 0:
            came = self._consumer.consume(most, timeout_seconds)
            self._early.extend(came)

    def serve(self) -> None:
        """Keep the membership alive while a batch takes long: callbacks run, nothing is returned.

        What comes meanwhile is kept for the next poll, one record a call; when there are many, partitions are paused until then.
        Pausing throws away what has been fetched, and the device would wait for it to be fetched again.
        """
        with self._said_no():
            message = self._consumer.poll(0)
        if message is not None:
            self._early.append(message)
            if message.error() is None:  # a rewind gives up what is early: it must find its way back to here
                self._first.setdefault((message.topic(), message.partition()), message.offset())
        if len(self._early) >= _MOST_EARLY and not self._is_paused:
            self._consumer.pause(self._consumer.assignment())
            self._is_paused = True
        self.group_metadata = self._consumer.consumer_group_metadata()

    def hears_kafka(self) -> bool:
        """Return whether any broker answers; asked, for seconds, only after the client has said that none does."""
        if self._is_cut_off and time.monotonic() - self._asked >= _ASK_EVERY_SECONDS:
            with suppress(KafkaException):
                self._consumer.list_topics(self._topic, timeout=_ASK_SECONDS)
                self._is_cut_off = False
            self._asked = time.monotonic()
        return not self._is_cut_off

    def tenure(self, topic: str, partition: int) -> int | None:
        """Return the number of this partition's present assignment, None when it is not owned."""
        return self._tenure.get((topic, partition))

    @property
    def owned(self) -> list[Place]:
        """The partitions assigned to this gate."""
        return list(self._tenure)

    def passed_ends(self) -> dict[Place, int]:
        """Return, once, the ends of owned partitions that lie behind control records, beyond the last record read.

        A producer's transaction leaves a marker after its records; committing the place behind it lets lag reach 0.
        """
        passed = {p: end for p, end in self._ends.items() if p in self._tenure and end > self._next.get(p, 0)}
        self._next |= passed
        self._ends.clear()
        return passed

    def rewind(self) -> None:
        """Read every owned partition again from its committed offset, as a new tenure.

        Where nothing was ever committed that is the first record this gate polled. A client that twice gets no answer begins anew: after
        the broker was away it may never get one (seen here on a broker that was paused for a minute). Raises KafkaAway, KafkaRefused.
        """
        places = [TopicPartition(topic, partition) for topic, partition in self._tenure]
        if not places:
            return
        with self._said_no():
            try:
                committed = self._consumer.committed(places, timeout=CALL_TIMEOUT_SECONDS)
            except KafkaException as error:
                self._unanswered += 1
                if not is_away(error.args[0]) or self._unanswered < _MOST_UNANSWERED:
                    raise
                return self._begin_anew()
            self._unanswered = 0
            for place in committed:
                if place.error is not None:
                    raise KafkaException(place.error)
            for place in committed:
                offset = place.offset if place.offset >= 0 else self._first.get((place.topic, place.partition))
                self._begin_tenure(place.topic, place.partition)
                if offset is not None:
                    self._seek(TopicPartition(place.topic, place.partition, offset))

    def lag(self) -> dict[int, tuple[int, int]] | None:
        """Return (committed, end) per partition of the topic, whoever owns it; None when Kafka does not answer."""
        try:
            known = self._consumer.list_topics(self._topic, timeout=CALL_TIMEOUT_SECONDS).topics[self._topic].partitions
            places = [TopicPartition(self._topic, partition) for partition in known]
            found = {}
            for place in self._consumer.committed(places, timeout=CALL_TIMEOUT_SECONDS):
                low, high = self._consumer.get_watermark_offsets(place, timeout=CALL_TIMEOUT_SECONDS)
                found[place.partition] = (place.offset if place.offset >= 0 else low, high)
        except KafkaException:
            return None
        return found

    def owned_lag(self, place: Place) -> int | None:
        """Return the records between what was polled and the end of an owned partition, from what the client knows."""
        try:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
        except KafkaException:
            return None
        return max(0, high - self._next[place]) if high >= 0 and place in self._next else None

    def owned_age_seconds(self, place: Place) -> float:
        """Return the age of the record polled last from an owned partition by its timestamp; 0 where none, or none with a time, was."""
        polled_ms = self._polled_ms.get(place, 0)
        return max(0.0, time.time() - polled_ms / 1000) if polled_ms > 0 else 0.0

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()

    def _new_consumer(self) -> Consumer:
        config = {
            **base_config(self._settings),
            "group.id": self._group,
            "group.protocol": self._protocol,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": self._settings.extra.get("auto.offset.reset", "earliest"),
            "max.poll.interval.ms": MAX_POLL_INTERVAL_SECONDS * 1000,
            "fetch.wait.max.ms": 50,
            "error_cb": self._heard,
        }
        if self._protocol == "classic":
            config |= {"partition.assignment.strategy": "cooperative-sticky", "session.timeout.ms": 10_000}
        return Consumer(config, logger=log)

    def _heard(self, error: KafkaError) -> None:
        """Hear what concerns the client as a whole: a gate that waits for nothing meets an outage nowhere else."""
        is_all = error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001
        self._is_cut_off = self._is_cut_off or is_all
        log.warning("Kafka is not heard" if is_all else "consumer error", extra={"code": error.name(), "detail": error.str()})

    def _note(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            self._ends[(message.topic(), message.partition())] = message.offset()
        elif error.code() in _NO_KIP_848 and self._protocol == "consumer" and self._settings.group_protocol == "auto":
            log.warning("the broker has no KIP-848, using the classic protocol")
            self._protocol = "classic"
            self._consumer.close()
            self._consumer = self._new_consumer()
            self.join()
        elif error.fatal():
            raise KafkaRefused(f"the consumer of {self._topic} in group {self._group} failed: {error.str()}")
        else:
            log.warning("consumer error", extra={"code": error.name(), "detail": error.str()})

    def _assigned(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return  # one that was replaced: it leaves in a thread of its own, and speaks of itself alone
        for place in places:
            self._begin_tenure(place.topic, place.partition)
        self._on_rebalance("assigned", len(places))

    def _revoked(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        self._end_tenures(places)
        self._on_rebalance("revoked", len(places))

    def _lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if consumer is not self._consumer:
            return
        self._end_tenures(places)
        self._on_rebalance("lost", len(places))

    def _seek(self, place: TopicPartition) -> None:
        """Read a partition from a place; one whose reading has not begun since it was assigned begins at what is committed by itself."""
        try:
            self._consumer.seek(place)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._STATE:  # noqa: SLF001
                raise

    def _begin_anew(self) -> None:
        """Join with another client, which reads from what is committed; the one before leaves the group as soon as it can."""
        log.error("the consumer gets no answer: it is replaced", extra={"partitions": len(self._tenure)})
        self._lost(self._consumer, [TopicPartition(topic, partition) for topic, partition in self._tenure])
        leaving, self._consumer = self._consumer, self._new_consumer()
        self._is_paused, self._unanswered = False, 0
        threading.Thread(target=leaving.close, name="leave", daemon=True).start()
        self.join()

    def _begin_tenure(self, topic: str, partition: int) -> None:
        self._end_tenure((topic, partition))
        self._tenures += 1
        self._tenure[(topic, partition)] = self._tenures

    def _end_tenures(self, places: list[TopicPartition]) -> None:
        for place in places:
            self._end_tenure((place.topic, place.partition))

    def _end_tenure(self, place: Place) -> None:
        """Forget all about a partition; a message that came early belongs to the tenure it came in."""
        for known in (self._tenure, self._next, self._first, self._ends, self._polled_ms):
            known.pop(place, None)
        self._early = [message for message in self._early if (message.topic(), message.partition()) != place]

    @contextmanager
    def _said_no(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            kind = KafkaAway if is_away(error.args[0]) else KafkaRefused
            raise kind(f"the consumer of {self._topic} in group {self._group} failed: {error.args[0].str()}") from error
