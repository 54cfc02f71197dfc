"""The gate: poll -> 1 decode 2 rules 3 score 4 decide 5 route -> produce and commit in one transaction.

Two workers run beside the loop. Where records wait, `host` has batch n+1 read (stages 1 to 3b, in a process of its own) while
`device` judges and routes batch n (3c to 5). The loop itself polls and commits, so Kafka is touched by one thread. A batch stays in
memory until its transaction commits or its partitions are taken away; nothing is committed for a partition after its revoke.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from threading import Event
from typing import NamedTuple

import numpy as np

from foundation.errors import KafkaAway, TopicNotWritable, WinnowError
from stream.config import GateSettings
from stream.device import gpu_of
from stream.follow import Follower, Service
from stream.guards import Guards
from stream.kafka import Place, Source
from stream.metrics import GateMetrics, Health
from stream.read import Read
from stream.records import Decision, Reason, Record, Route
from stream.route import Outgoing, Router
from stream.traces import Tracer
from stream.transaction import RecordRefused, Sink, StartOver, TransactionAborted

log = logging.getLogger("winnow.gate")

_IN_FLIGHT, _BEHIND = 3, 4
_IDLE_POLL_SECONDS = 0.1
_SERVE_EVERY_SECONDS = 1.0
_IDLE_CHECK_SECONDS = 0.5
_LAG_EVERY_SECONDS = 5.0
_MAX_PAUSE_SECONDS = 10.0
_AWAY_PAUSE_SECONDS = 1.0
_TRIES_AFTER_STOP = 3
_MIN_POLL_RECORDS = 16

Step = Callable[[str], None]


class Routed(NamedTuple):
    """The decisions of a batch, and the messages of each record."""

    decisions: list[Decision]
    outgoing: list[list[Outgoing]]


@dataclass(frozen=True)
class Batch:
    """The records of one poll, the tenure each partition was polled under, what judges them, and what is to come of them."""

    records: list[Record]
    tenures: dict[Place, int | None]
    service: Service
    routed: "Future[Routed]"
    polled_ns: int


class Gate:
    """One member of the group, from joining to leaving."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        service: Service,
        follower: Follower,
        router: Router,
        metrics: GateMetrics,
        health: Health,
        settings: GateSettings,
        step: Step = lambda at: None,
        tracer: Tracer | None = None,
    ) -> None:
        """Put the stages together; `step` hears where the loop is, for faults that tests inject."""
        self._tracer = tracer
        self._source = source
        self._sink = sink
        self._service = service
        self._follower = follower
        self._router = router
        self._metrics = metrics
        self._health = health
        self._most_records = settings.max_poll_records
        self._batch_seconds = settings.batch_seconds
        self._gather_seconds = settings.max_wait_ms / 1000
        self._step = step
        self._host = ThreadPoolExecutor(2, "host")  # the next batch is sent while this one is read
        self._device = ThreadPoolExecutor(1, "device")
        self._in_flight: deque[Batch] = deque()
        model = service.judge.model
        self._poll_records = self._fitting(model.records_per_second if model is not None else float("inf"))
        self._most_in_flight = 1
        self._guards = Guards(service.judge, follower, metrics, settings)
        self._lag_seen = 0.0
        self._stop = Event()

    def run(self, stop: Event, until_idle_seconds: float | None = None) -> None:
        """Judge until `stop`, or until the group has been idle for that long; then finish, commit and leave the group.

        Raises TopicNotWritable when Kafka goes on refusing a batch after `stop`; its offsets have not moved.
        """
        self._stop = stop
        self._step("joining")
        self._source.join()
        idle_since: float | None = None
        idle_seen = 0.0
        try:
            while not stop.is_set():
                busy = self._turn()
                self._turned()
                now = time.monotonic()
                if busy or until_idle_seconds is None:
                    idle_since = None
                elif now - idle_seen >= _IDLE_CHECK_SECONDS:
                    idle_seen = now
                    idle_since = (idle_since or now) if self._group_is_done() else None
                    if idle_since is not None and now - idle_since >= until_idle_seconds:
                        break
            while self._in_flight:
                self._commit_oldest()
        finally:
            self._health.ready = False
            self._metrics.ready.set(0)
            self._host.shutdown(wait=False, cancel_futures=True)
            self._device.shutdown(wait=False, cancel_futures=True)
            self._source.close()

    def _turned(self) -> None:
        self._health.turned()
        self._metrics.last_turn_seconds.set(time.time())
        self._metrics.ready.set(self._health.ready)
        self._report()

    def _turn(self) -> bool:
        """Poll once, commit once if something is ready; return whether there was anything to do."""
        self._swap()
        records: list[Record] = []
        if len(self._in_flight) < self._most_in_flight:
            with self._metrics.timed("poll"):
                waits = (0.0, 0.0) if self._in_flight else (_IDLE_POLL_SECONDS, self._gather_seconds)
                records = self._source.poll(self._poll_records, *waits)
            self._most_in_flight = _IN_FLIGHT if self._is_behind(len(records)) else 1
            self._health.ready = self._is_ready()
        if records:
            self._step("polled")
            self._take_up(records)
        if self._in_flight:
            if records and len(self._in_flight) < self._most_in_flight and not self._in_flight[0].routed.done():
                return True
            self._commit_oldest()
            return True
        self._commit_passed_ends()
        return False

    def _is_ready(self) -> bool:
        """Return whether Kafka answers and this gate owns partitions, or did since it was last not ready."""
        return (bool(self._source.owned) or self._health.ready) and self._source.hears_kafka()

    def _is_behind(self, polled: int) -> bool:
        """Return whether a good part of what one batch may hold is waiting.

        Then batches are prepared ahead, so that the device never waits. Else a record would wait for all that were taken up before
        it, each with the few that had come by then: what comes while a batch is judged shares the next one.
        """
        many = self._poll_records // _BEHIND
        return polled >= many or sum(self._source.owned_lag(place) or 0 for place in self._source.owned) >= many

    def _swap(self) -> None:
        """Take up a new model or new rules: batches in flight keep theirs, the next one has the new."""
        new = self._follower.take()
        if new is None:
            return
        old, self._service = self._service, new
        if new.judge is not old.judge:
            self._guards.taken_up(new.judge)
            self._metrics.swaps.inc()
        self._metrics.in_service(new.judge.rules, new.judge.model, new.shadow.model if new.shadow is not None else None)

    def _take_up(self, records: list[Record]) -> None:
        service = self._service
        read = self._host.submit(self._timed_read, service, records)
        routed = self._device.submit(lambda: self._timed_judge(service, records, read))
        tenures = {place: self._source.tenure(*place) for place in _offsets(records)}
        self._in_flight.append(Batch(records, tenures, service, routed, time.time_ns()))

    def _timed_read(self, service: Service, records: list[Record]) -> Read:
        with self._metrics.timed("read"):
            return service.judge.read(records)

    def _timed_judge(self, service: Service, records: list[Record], read: "Future[Read]") -> Routed:
        self._step("scoring")
        given = read.result()
        begun = time.perf_counter()
        with self._metrics.timed("judge"):
            decisions = service.judge.decide(given)
        if service.judge.model is not None:
            self._metrics.count_passes(*service.judge.model.scorer.take_spent())
        self._compare(service, given, decisions)
        try:
            self._guards.judged(service.judge, given, decisions)
        except Exception as error:  # noqa: BLE001 - whoever watches must not stop what is watched
            log.warning("drift could not be looked for", extra={"error": type(error).__name__})
        if service.judge.model is not None and len(decisions) >= _MIN_POLL_RECORDS:
            self._poll_records = self._fitting(len(decisions) / max(1e-6, time.perf_counter() - begun))
        with self._metrics.timed("route"):
            return Routed(decisions, self._router.route(records, decisions, service.shared))

    def _compare(self, service: Service, read: Read, decisions: list[Decision]) -> None:
        """Let the challenger look at a share of the batch; whatever happens to it, the batch goes on."""
        if service.shadow is None:
            return
        try:
            flips = service.shadow.compare(read, decisions)
        except Exception as error:  # noqa: BLE001
            log.warning("the challenger could not score", extra={"error": type(error).__name__})
            return
        if service.shadow is not self._service.shadow or service.judge is not self._service.judge:
            return  # of models that were in service before: the counters speak of those that are now
        self._metrics.shadow_records.inc(flips.records)
        self._metrics.shadow_flips.labels("to-clean").inc(flips.to_clean)
        self._metrics.shadow_flips.labels("to-quarantine").inc(flips.to_quarantine)

    def _fitting(self, records_per_second: float) -> int:
        """How many records to poll so that judging them takes about `batch_seconds`, far below max.poll.interval."""
        return int(max(_MIN_POLL_RECORDS, min(self._most_records, records_per_second * self._batch_seconds)))

    def _commit_oldest(self) -> None:
        """Wait for the oldest batch, keeping the membership alive meanwhile, and commit what is still ours of it."""
        batch = self._in_flight[0]
        while not batch.routed.done():
            wait([batch.routed], _SERVE_EVERY_SECONDS)
            if not batch.routed.done():
                self._source.serve()
                self._turned()
        self._in_flight.popleft()
        self._commit(batch, *batch.routed.result())

    def _commit(self, batch: Batch, decisions: list[Decision], outgoing: list[list[Outgoing]]) -> None:
        """Commit one batch in one transaction, again and again until it is through, taken away, or split."""
        tries = 0
        replacements: Iterator[tuple[Decision, list[Outgoing]]] | None = None
        while True:
            self._turned()
            lost = {place for place, tenure in batch.tenures.items() if self._source.tenure(*place) != tenure}
            if lost:
                ours = [i for i, r in enumerate(batch.records) if (r.topic, r.partition) not in lost]
                self._metrics.dropped.inc(len(batch.records) - len(ours))
                batch = replace(
                    batch,
                    records=[batch.records[i] for i in ours],
                    tenures={place: tenure for place, tenure in batch.tenures.items() if place not in lost},
                )
                decisions, outgoing = [decisions[i] for i in ours], [outgoing[i] for i in ours]
            if not batch.records:
                return
            try:
                with self._metrics.timed("commit"):
                    messages = [message for each in outgoing for message in each]
                    self._sink.commit(messages, _offsets(batch.records), self._source.group_metadata, self._step)
            except TransactionAborted as aborted:
                # fail closed: the offsets have not moved, so the same batch is tried again, less what was taken away
                self._metrics.transactions.labels("aborted").inc()
                self._health.ready = False
                log.warning("transaction aborted, trying again", extra={"detail": str(aborted), "records": len(batch.records)})
                tries += 1
                if self._stop.is_set() and tries >= _TRIES_AFTER_STOP:
                    raise TopicNotWritable(f"stopped while Kafka refused a batch, whose offsets have not moved: {aborted}") from aborted
                self._wait(min(_MAX_PAUSE_SECONDS, 0.1 * 2 ** min(tries, 10)))
            except StartOver:
                self._metrics.transactions.labels("unknown").inc()
                self._metrics.dropped.inc(len(batch.records))
                self._start_over()
                return
            except RecordRefused as refused:
                self._metrics.transactions.labels("split").inc()
                if len(batch.records) > 1:
                    self._halve(batch, decisions, outgoing)
                    return
                if replacements is None:
                    replacements = self._replacements(batch, decisions[0], outgoing[0], str(refused))
                decision, messages = next(replacements)
                decisions, outgoing = [decision], [messages]
            else:
                self._health.ready = True
                self._committed(batch, decisions)
                return

    def _halve(self, batch: Batch, decisions: list[Decision], outgoing: list[list[Outgoing]]) -> None:
        """Commit both halves of a batch in which the broker refused a message, until the record stands alone."""
        middle = len(batch.records) // 2
        for part in (slice(None, middle), slice(middle, None)):
            half = replace(batch, records=batch.records[part])
            self._commit(half, decisions[part], outgoing[part])

    def _replacements(
        self, batch: Batch, decision: Decision, messages: list[Outgoing], detail: str
    ) -> Iterator[tuple[Decision, list[Outgoing]]]:
        """Yield what may be written instead of a record that the broker refuses alone, one after the other.

        Without its audit copy; to dead-letter without its value; there without key and headers too.
        """
        record = batch.records[0]
        log.warning("the broker refuses a record on its output", extra={"decision_id": record.decision_id, "detail": detail})
        if len(messages) > 1:
            self._metrics.audits_refused.inc()
            yield decision._replace(draw=None), messages[:1]
        self._metrics.unwritable.inc()
        instead = Decision(Route.DEAD_LETTER, Reason.UNWRITABLE, detail)
        for bare in (False, True):
            yield instead, [self._router.unwritable(record, detail, batch.service.shared, bare=bare)]
        raise WinnowError(f"the dead-letter topic refuses even an empty message for {record.decision_id}: {detail}")

    def _start_over(self) -> None:
        """Forget everything polled and read again from the committed offsets: Kafka alone knows what went through."""
        for batch in self._in_flight:
            self._metrics.dropped.inc(len(batch.records))
        self._in_flight.clear()
        self._rewind()

    def _rewind(self) -> None:
        """Read again from the committed offsets, once whatever was open has ended and Kafka says which they are."""
        while True:
            self._turned()
            try:
                self._sink.renew()
                self._turned()
                self._source.rewind()
            except KafkaAway as away:
                if self._stop.is_set():
                    raise
                self._health.ready = False
                log.warning("what is committed is not known yet, asking again", extra={"detail": str(away)})
                self._wait(_AWAY_PAUSE_SECONDS)
            else:
                return

    def _commit_passed_ends(self) -> None:
        ends = self._source.passed_ends()
        if not ends:
            return
        try:
            self._sink.commit([], ends, self._source.group_metadata)
        except (TransactionAborted, StartOver) as error:
            log.warning("could not commit past control records", extra={"detail": str(error)})
            self._rewind()

    def _wait(self, seconds: float) -> None:
        """Pause without leaving the group."""
        end = time.monotonic() + seconds
        while True:
            self._source.serve()
            self._turned()
            left = end - time.monotonic()
            if left <= 0 or self._stop.is_set():
                return
            time.sleep(min(left, _SERVE_EVERY_SECONDS))

    def _committed(self, batch: Batch, decisions: list[Decision]) -> None:
        self._step("committed")
        metrics, records = self._metrics, batch.records
        metrics.transactions.labels("committed").inc()
        metrics.batch_records.observe(len(records))
        metrics.count(decisions)
        self._guards.committed(batch.service.judge, decisions)
        if self._tracer is not None:
            self._tracer.committed(records, decisions, batch.service.judge, batch.polled_ns)
        now = time.time()
        metrics.last_commit_seconds.set(now)
        metrics.end_to_end_seconds.observe(np.maximum(0.0, now - np.array([record.timestamp_ms for record in records]) / 1000))

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._lag_seen < _LAG_EVERY_SECONDS:
            return
        self._lag_seen = now
        self._metrics.owned_partitions.set(len(self._source.owned))
        self._metrics.lag_records.clear()
        self._metrics.lag_seconds.clear()
        for topic_partition in self._source.owned:
            lag = self._source.owned_lag(topic_partition)
            if lag is not None:
                partition = str(topic_partition[1])
                self._metrics.lag_records.labels(partition).set(lag)
                self._metrics.lag_seconds.labels(partition).set(self._source.owned_age_seconds(topic_partition) if lag else 0.0)
        if self._service.judge.model is not None:
            self._metrics.know_gpu(gpu_of(self._service.judge.model.scorer.device))

    def _group_is_done(self) -> bool:
        lag = self._source.lag()
        return lag is not None and all(committed >= end for committed, end in lag.values())


def _offsets(records: list[Record]) -> dict[Place, int]:
    """Return last + 1 of every partition in the batch."""
    return {(record.topic, record.partition): record.offset + 1 for record in records}
