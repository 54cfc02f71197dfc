"""Verdicts on their way to Kafka: each with the release or correction it causes, in one transaction.

One owner for the whole cluster: its transactional id fences a second one. Answers that wait are committed together; one
that Kafka refuses for its own sake is found by asking for each alone.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from foundation.errors import KafkaAway, KafkaRefused, WinnowError
from stream.config import KafkaSettings
from stream.release import OWNER
from stream.route import Outgoing
from stream.transaction import RecordRefused, Sink, StartOver, TransactionAborted

log = logging.getLogger("winnow.review")

_MOST_JOBS = 200
_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.5


class Unwritable(WinnowError):
    """Kafka refuses this verdict or its release for its own sake, such as its size."""


class Undecided(WinnowError):
    """Whether Kafka has the verdict is not known yet; it will come back from the topic if it has."""


class _Job(NamedTuple):
    messages: Sequence[Outgoing]
    done: "Future[None]"


class Publisher(threading.Thread):
    """The thread that owns the transactional producer."""

    def __init__(self, settings: KafkaSettings, failed: Callable[[], None]) -> None:
        """Take the transactional id, which aborts what a predecessor left open; `failed` hears when it is lost.

        Raises KafkaRefused.
        """
        super().__init__(name="publish", daemon=True)
        self._failed = failed
        self._sink = Sink(settings, OWNER)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self.error: WinnowError | None = None
        self._trouble: str | None = None
        self._over = threading.Event()

    def submit(self, messages: Sequence[Outgoing]) -> "Future[None]":
        """Ask for messages to be committed together; the future raises Unwritable, Undecided or KafkaRefused."""
        job = _Job(messages, Future())
        self._jobs.put(job)
        return job.done

    def not_ready(self) -> str | None:
        """Return why no verdict can be published, or None."""
        if self.error is not None:
            return f"publishing is over: {self.error}"
        return self._trouble if self.is_alive() else "publishing has not begun"

    def stop(self) -> None:
        """Commit what waits, then end."""
        if self.is_alive():
            self._over.set()
            self._jobs.put(None)
            self.join(_PATIENCE_SECONDS * 2)
        self._sink.close()

    def run(self) -> None:
        """Commit until stopped or fenced."""
        while True:
            jobs, is_over = self._next()
            if jobs:
                self._commit(jobs)
            if is_over:
                return

    def _next(self) -> tuple[list[_Job], bool]:
        """Wait for a job and take all that wait with it."""
        jobs: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            jobs.append(job)
            if len(jobs) == _MOST_JOBS or self._jobs.empty():
                return jobs, False
            job = self._jobs.get()
        return jobs, True

    def _commit(self, jobs: list[_Job]) -> None:
        """Commit jobs in one transaction; a refused one is looked for by halving."""
        if self.error is not None:
            return _fail(jobs, self.error)
        begun = time.monotonic()
        while True:
            try:
                self._sink.commit([message for job in jobs for message in job.messages], {}, None)
            except RecordRefused as error:
                if len(jobs) == 1:
                    return _fail(jobs, Unwritable(f"Kafka refuses the verdict or its release: {error}"))
                middle = len(jobs) // 2
                self._commit(jobs[:middle])
                return self._commit(jobs[middle:])
            except TransactionAborted as error:
                if time.monotonic() - begun > _PATIENCE_SECONDS:
                    return _fail(jobs, KafkaRefused(f"Kafka does not take the verdict: {error}"))
                time.sleep(_PAUSE_SECONDS)
            except StartOver as error:
                self._renew()
                _fail(jobs, Undecided(f"whether Kafka has taken the verdict is not known: {error}"))
                return None if self.error is None else self._failed()
            except WinnowError as error:
                self.error = error
                log.error("publishing is over", extra={"detail": str(error)})  # noqa: TRY400
                _fail(jobs, error)
                return self._failed()
            except Exception as error:
                self.error = WinnowError(f"publishing failed as nobody foresaw: {type(error).__name__}: {error}")
                log.exception("publishing is over")
                _fail(jobs, self.error)
                return self._failed()
            else:
                for job in jobs:
                    job.done.set_result(None)
                return None

    def _renew(self) -> None:
        """Wait for a new producer: before it has ended the transaction of the last one, nobody knows what that has written."""
        while True:
            try:
                self._sink.renew()
            except KafkaAway as away:
                self._trouble = f"Kafka does not say what became of a verdict: {away}"
                if self._over.wait(_PAUSE_SECONDS):
                    return
            except WinnowError as error:
                self.error = error
                log.error("publishing is over", extra={"detail": str(error)})  # noqa: TRY400
                return
            else:
                self._trouble = None
                return


def _fail(jobs: list[_Job], error: WinnowError) -> None:
    for job in jobs:
        job.done.set_exception(error)
