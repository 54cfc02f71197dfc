"""Reads quarantine, audit and verdicts, and clean where wanted, into the store; who waits for a verdict is told.

An ordinary reader: it begins where the store's offsets say, so what was read and what was made of it cannot part. One
unreadable verdict event is counted and passed over.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from foundation.errors import SchemaRegistryAway, WinnowError
from review.metrics import ReviewMetrics
from review.rows import clean_row, row_of, verdict_row
from review.store import Store
from stream import wire
from stream.config import KafkaSettings, TopicSettings
from stream.records import Record, Verdict
from stream.schemas import Schemas
from stream.tail import Tail

log = logging.getLogger("winnow.review")

_MOST = 2_000
_POLL_SECONDS = 0.2
_KEPT_SECONDS = 60.0
_LOOK_EVERY_MS = 60_000  # what comes while the service is down has waited since its last look that is in the store
_PAUSE_SECONDS = 1.0


class Ingest(threading.Thread):
    """The reader, caught up before it starts as a thread."""

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: TopicSettings,
        store: Store,
        metrics: ReviewMetrics,
        schemas: Schemas,
        *,
        read_clean: bool,
        rebuild: bool = False,
        failed: Callable[[], None],
    ) -> None:
        """Take the store over and begin where it has come to, or anew; `failed` is called when reading cannot go on.

        Raises TopicMissing.
        """
        super().__init__(name="ingest", daemon=True)
        self._topics = topics
        self._store = store
        self._metrics = metrics
        self._schemas = schemas
        self._failed = failed
        names = [topics.quarantine, topics.audit, topics.verdicts, *([topics.clean] if read_clean else [])]
        kept = {place: after for place, after in store.take_over(forget=rebuild).items() if place[0] in names}
        self._tail = Tail(kafka, names, kept)
        self._stored = kept
        self._looked_ms = self._looked_stored_ms = store.looked_ms()
        self._trouble: str | None = None
        self._over = threading.Event()
        self._applied = threading.Condition()
        self._seen: dict[tuple[str, str, int], float] = {}
        self.error: WinnowError | None = None

    def catch_up(self) -> int:
        """Read all topics to their present ends and return how many records came. Raises KafkaRefused."""
        records, began_ms = 0, _now_ms()
        for came in self._tail.to_end():
            self._take(came)
            records += len(came)
        self._looked_ms = began_ms
        return records

    def wait_for(self, verdict: Verdict, timeout_seconds: float) -> bool:
        """Wait until a verdict has come back from Kafka and its row is done."""
        name = _name_of(verdict)
        with self._applied:
            return self._applied.wait_for(lambda: name in self._seen, timeout_seconds)

    def not_ready(self) -> str | None:
        """Return why nothing is read at the moment, or None."""
        if self.error is not None:
            return f"reading is over: {self.error}"
        return self._trouble if self.is_alive() else "reading has not begun"

    def run(self) -> None:
        """Read until stopped."""
        try:
            while not self._over.is_set():
                self._take(self._tail.poll(_MOST, _POLL_SECONDS))
        except WinnowError as error:
            self.error = error
            log.error("reading the topics failed", extra={"detail": str(error)})  # noqa: TRY400
            self._failed()
        except Exception as error:
            self.error = WinnowError(f"reading the topics failed as nobody foresaw: {type(error).__name__}: {error}"[:500])
            log.exception("reading the topics is over")
            self._failed()

    def stop(self) -> None:
        """End the thread and let go of the consumer."""
        self._over.set()
        if self.is_alive():
            self.join(10)
        self._tail.close()

    def _take(self, records: list[Record]) -> None:
        """Bring records into the store. They came after the last look that had seen everything, and not before their own time."""
        came_ms = _now_ms()
        looked_ms = came_ms if self.is_alive() and self._tail.is_at_end else 0
        changed = {place: after for place, after in self._tail.next.items() if self._stored.get(place) != after}
        if not changed and (not looked_ms or looked_ms - self._looked_stored_ms < _LOOK_EVERY_MS):
            self._looked_ms = looked_ms or self._looked_ms
            return
        held: list[tuple[str, Record, int]] = []
        verdicts: list[tuple[Record, Verdict]] = []
        clean = []
        for record in records:
            if record.topic == self._topics.verdicts:
                verdict = wire.read_verdict(record.value)
                if verdict is None:
                    self._metrics.unreadable.inc()
                    log.warning("an unreadable verdict event is passed over", extra={"place": record.decision_id})
                else:
                    verdicts.append((record, verdict))
            elif record.topic == self._topics.clean:
                clean.append(record)
            elif wire.last(record.headers, wire.DECISION_ID) is not None:
                since_ms = min(came_ms, max(record.timestamp_ms, self._looked_ms))
                held.append(("audit" if record.topic == self._topics.audit else "quarantine", record, since_ms))
        if not self._patiently(partial(self._apply, held, verdicts, clean, changed, looked_ms)):
            return
        self._stored |= changed
        if looked_ms:
            self._looked_ms = self._looked_stored_ms = looked_ms
        if verdicts:
            now = time.monotonic()
            with self._applied:
                self._seen = {name: at for name, at in self._seen.items() if now - at < _KEPT_SECONDS}
                self._seen |= {_name_of(verdict): now for _, verdict in verdicts}
                self._applied.notify_all()

    def _apply(
        self,
        held: list[tuple[str, Record, int]],
        verdicts: list[tuple[Record, Verdict]],
        clean: list[Record],
        offsets: dict[tuple[str, int], int],
        looked_ms: int,
    ) -> None:
        self._store.apply(
            [row_of(source, record, self._schemas, since_ms) for source, record, since_ms in held],
            [verdict_row(record, verdict) for record, verdict in verdicts],
            [clean_row(record) for record in clean],
            offsets,
            looked_ms,
        )

    def _patiently(self, apply: Callable[[], object]) -> bool:
        """Apply as often as it needs while the database or the schema registry is away; False when told to stop. Twice is harmless."""
        while not self._over.is_set():
            try:
                apply()
            except (OperationalError, PoolTimeout) as error:
                self._trouble = f"the store does not answer: {type(error).__name__}"
                log.warning("the store does not answer; trying again", extra={"detail": str(error).splitlines()[:1]})
                self._over.wait(_PAUSE_SECONDS)
            except SchemaRegistryAway as error:
                self._trouble = str(error)
                log.warning("the schema registry does not answer; trying again", extra={"detail": str(error)})
                self._over.wait(_PAUSE_SECONDS)
            else:
                self._trouble = None
                return True
        return False


def _now_ms() -> int:
    return int(time.time() * 1000)


def _name_of(verdict: Verdict) -> tuple[str, str, int]:
    return verdict.decision_id, verdict.reviewer, verdict.time_ms
