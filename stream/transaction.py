"""Kafka for who writes: the transactional producer, what it can be told, and the name that its transactions go by.

Enters: messages of all routes and offsets. Leaves: one transaction that holds them together, or why there is none. A
transaction opens only when its messages are ready and closes before the next poll, so no rebalance callback can run inside one.
"""

import fcntl
import hashlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any, NoReturn

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from foundation.caller import Caller, NotBack
from foundation.errors import GateFenced, KafkaAway, KafkaRefused, SettingInvalid
from stream.cluster import CALL_TIMEOUT_SECONDS, base_config, is_away
from stream.config import KafkaSettings
from stream.kafka import Place
from stream.route import Outgoing

log = logging.getLogger("winnow.kafka")

TRANSACTIONAL_PREFIX = "winnow-"
_FLUSH_SECONDS = 0.5
_MOST_LEFT_BEHIND = 5
_MOST_COMMITS = 3  # how often a commit is asked for, each for CALL_TIMEOUT_SECONDS
_OFFSETS_SECONDS = CALL_TIMEOUT_SECONDS + 2  # how long sending offsets may take: a little more than it is told, in case it listens

# The broker looked at one message and will never take it: these isolate a record, anything else stops the topic.
_RECORD_REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG,
    }
)
_UNDELIVERED = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001


class RecordRefused(Exception):  # noqa: N818
    """The broker refused a message for its own sake; the transaction is aborted and may be split."""


class TransactionAborted(Exception):  # noqa: N818
    """The transaction was aborted and may be tried again."""


class StartOver(Exception):  # noqa: N818
    """Whether the transaction committed is not known: forget all polled records and read from the committed offsets."""


class Instance:
    """The name of this gate in its group: from the settings, or host name and the lowest slot free on this host.

    A slot is a locked file; the kernel frees it when the process dies, so a restarted gate gets its predecessor's name
    and with it the right to abort what the predecessor left open.
    """

    def __init__(self, settings: KafkaSettings, group: str, named: str | None) -> None:
        """Take the name or lock a slot; holds it until `release` or the end of the process."""
        self.slot = 0
        self._lock: IO[str] | None = None
        if named is not None:
            self.name = named
            return
        scope = hashlib.sha256(f"{settings.bootstrap_servers}\0{group}".encode()).hexdigest()[:16]
        directory = Path(tempfile.gettempdir()) / f"winnow-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        while not self._try_slot(directory / f"gate-{scope}-{self.slot}.lock"):
            self.slot += 1
        self.name = f"{socket.gethostname()}-{self.slot}"

    def release(self) -> None:
        """Let another gate on this host have the slot."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _try_slot(self, path: Path) -> bool:
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._lock = file
        return True


def may_transact(settings: KafkaSettings, transactional_id: str) -> bool:
    """Return whether transactions may go by a name; trying it fences whoever goes by it. Raises SettingInvalid, KafkaRefused."""
    try:
        _begin(_producer(settings, transactional_id, {}), transactional_id, settings.connect_timeout_seconds)
    except KafkaRefused as refused:
        cause = refused.__cause__
        if isinstance(cause, KafkaException) and cause.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            return False
        raise
    return True


def _producer(settings: KafkaSettings, transactional_id: str, more: dict[str, Any]) -> Producer:
    """Return a producer that has not begun. Raises SettingInvalid."""
    try:
        return Producer({**base_config(settings), "transactional.id": transactional_id, **more}, logger=log)
    except KafkaException as error:
        raise SettingInvalid(f"kafka.extra cannot be used: {error.args[0].str()}") from error


def _begin(producer: Producer, transactional_id: str, seconds: float) -> None:
    """Fence the producer's predecessor and end its transaction; may be asked again. Raises KafkaAway, KafkaRefused."""
    try:
        producer.init_transactions(seconds)
    except KafkaException as error:
        kind = KafkaAway if is_away(error.args[0]) else KafkaRefused
        raise kind(f"Kafka would not start transactions for {transactional_id}: {error.args[0].str()}") from error


class Sink:
    """The transactional producer: one call is one transaction over all routes and the offsets."""

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        """Create the producer and fence whatever a predecessor of the same id left open."""
        self._settings = settings
        self._id = transactional_id
        self._refused: list[tuple[str | None, KafkaError]] = []
        self._is_dead = False
        self._is_abandoned = True
        self._successor: Producer | None = None
        self._left_behind = self._made = 0
        self._caller = Caller()
        self.renew(settings.connect_timeout_seconds)

    def commit(
        self, messages: Sequence[Outgoing], offsets: dict[Place, int], metadata: object, step: Callable[[str], None] = lambda at: None
    ) -> None:
        """Write all messages and the offsets (last + 1, none for who consumes nothing) in one transaction, or nothing.

        `step` hears where it is, for faults injected by tests. Raises RecordRefused, TransactionAborted, StartOver,
        GateFenced (a twin has our id), KafkaRefused (fatal). The transaction is closed in every case, at the latest by the producer
        that the next call takes.
        """
        try:
            self.renew()
        except KafkaAway as away:
            raise TransactionAborted(str(away)) from away
        begun = time.monotonic()
        self._refused.clear()
        try:
            # 1. open
            self._producer.begin_transaction()
            # 2. every route, in input order
            middle = len(messages) // 2
            self._produce(messages[:middle])
            if messages:
                step("producing")
            self._produce(messages[middle:])
            # 3. everything delivered, so that a refused message is known before the offsets go in
            self._flush()
            if self._refused:
                self._give_up(self._refused[0][1], begun)
            # 4. the offsets, vouched for by the membership of the last poll
            step("before-offsets")
            if offsets:
                self._send_offsets(offsets, metadata)
            step("after-offsets")
            # 5. commit; a time-out is asked again, because only Kafka knows
            self._commit(step)
        except KafkaException as error:
            self._give_up(error.args[0], begun)
        except SystemError as error:  # the client says a fatal error so when it comes inside a call, with its cause or without
            if isinstance(error.__cause__, KafkaException):
                self._give_up(error.__cause__.args[0], begun)
            self._give_up(self._cause_of_death(), begun)

    def renew(self, seconds: float = CALL_TIMEOUT_SECONDS) -> None:
        """Take a new producer where the last one is of no use any more, which ends its transaction. Raises KafkaAway, KafkaRefused.

        What is committed is certain only then: whoever starts over asks for this first, until it succeeds.
        """
        if not self._is_abandoned:
            return
        if self._successor is None:  # asked again, it goes on with what it began: another would be fenced by its late answer
            self._successor = self._new_producer()
        _begin(self._successor, self._id, seconds)
        self._producer, self._successor, self._is_abandoned, self._is_dead = self._successor, None, False, False

    def close(self) -> None:
        """Let go of the producer, which ends its threads; what it may have left open Kafka ends in time. Twice is once."""
        self._caller.end()
        self._successor = None
        self.__dict__.pop("_producer", None)

    def _send_offsets(self, offsets: dict[Place, int], metadata: object) -> None:
        """Send offsets; a call that does not come back is left behind with its producer, whose transaction the next one aborts.

        librdkafka gives it no end, whatever time-out it is told: when the group's coordinator was away for a moment, it may wait for ever
        (confluentinc/librdkafka#5456, #5511; seen here after some restarts of a broker under load).
        """
        producer, places = self._producer, [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        try:
            self._caller.call(lambda: producer.send_offsets_to_transaction(places, metadata, CALL_TIMEOUT_SECONDS), _OFFSETS_SECONDS)
        except NotBack:
            log.error("offsets were not sent in time: producer given up", extra={"seconds": _OFFSETS_SECONDS})
            self._left_behind += 1
            if self._left_behind == _MOST_LEFT_BEHIND:  # each keeps its threads and sockets: a new process is cleaner
                raise KafkaRefused(f"sending offsets has not come back {_MOST_LEFT_BEHIND} times; start again") from None
            self._caller, self._is_abandoned = Caller(), True
            raise TransactionAborted(f"sending offsets has not come back within {_OFFSETS_SECONDS:.0f} s") from None
        self._left_behind = 0

    def _flush(self) -> None:
        """Wait until every message is delivered or refused; a producer that has been fenced would wait for ever."""
        while self._producer.flush(_FLUSH_SECONDS):
            if self._is_dead:
                self._producer.abort_transaction(CALL_TIMEOUT_SECONDS)  # raises what it died of

    def _cause_of_death(self) -> KafkaError:
        try:
            self._producer.abort_transaction(CALL_TIMEOUT_SECONDS)
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            return cause
        return KafkaError(KafkaError._FAIL, "the client failed without saying why")  # noqa: SLF001

    def _died(self, of: int, error: KafkaError) -> None:
        """Hear what a producer says of itself; one that was given up speaks of itself alone."""
        self._is_dead = self._is_dead or (of == self._made and (error.fatal() or error.code() == KafkaError._FATAL))  # noqa: SLF001

    def _commit(self, step: Callable[[str], None]) -> None:
        """Commit; where there is no answer for long, a new producer is what brings the outcome about."""
        step("committing")
        for asked in count(1):
            try:
                self._producer.commit_transaction(CALL_TIMEOUT_SECONDS)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
                if asked == _MOST_COMMITS:
                    self._start_over(error.args[0])
                log.warning("the commit has no answer yet", extra={"code": error.args[0].name(), "detail": error.args[0].str()})
            else:
                return

    def _produce(self, messages: Sequence[Outgoing]) -> None:
        produce = self._producer.produce
        for topic, partition, key, value, headers, timestamp_ms in messages:
            while True:
                try:
                    produce(topic, value, key, partition, timestamp=timestamp_ms, headers=headers)
                except BufferError:
                    self._producer.poll(0.1)
                else:
                    break

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused.append((message.topic(), error))

    def _give_up(self, error: KafkaError, begun: float) -> None:
        """Abort, and say what the caller may do next."""
        refused = [e for e in [error, *(each for _, each in self._refused)] if e.code() in _RECORD_REFUSED]
        if error.fatal() or error.code() in _FENCED:
            self._renew_or_leave(error, begun)
        try:
            self._producer.abort_transaction(CALL_TIMEOUT_SECONDS)  # a new producer ends what this one cannot
        except KafkaException as abort_error:
            self._renew_or_leave(abort_error.args[0], begun)
        if refused:
            raise RecordRefused(refused[0].str())
        # what a client remembers of a cluster that was away can hold up its next transaction: a new one asks afresh
        self._is_abandoned = is_away(error) or error.code() in _UNDELIVERED
        where = next((f"topic {topic}: " for topic, each in self._refused if each is error), "")
        raise TransactionAborted(f"{where}{error.name()}: {error.str()}")

    def _renew_or_leave(self, error: KafkaError, begun: float) -> None:
        """After a fatal error: a slow transaction was timed out by Kafka and we go on; a quick one met a twin."""
        if time.monotonic() - begun < self._settings.transaction_timeout_seconds and error.code() in _FENCED:
            raise GateFenced(f"another gate uses the transactional id {self._id} and fenced this one; give each gate its own gate.instance")
        self._start_over(error)

    def _start_over(self, error: KafkaError) -> NoReturn:
        """Give the producer up, and say that what came of its transaction must be read from Kafka."""
        log.error("producer given up", extra={"code": error.name(), "detail": error.str()})
        self._is_abandoned = True
        raise StartOver(error.str())

    def _new_producer(self) -> Producer:
        self._made += 1
        more = {
            "transaction.timeout.ms": int(self._settings.transaction_timeout_seconds * 1000),
            "compression.type": self._settings.extra.get("compression.type", "zstd"),
            "linger.ms": 5,
            "message.max.bytes": 1_000_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_048_576,
            "delivery.report.only.error": True,
            "on_delivery": self._delivered,
            "error_cb": partial(self._died, self._made),
        }
        return _producer(self._settings, self._id, more)
