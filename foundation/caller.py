"""Calls into libraries that may wait for ever.

Enters: a call and the time that it has. Leaves: what it raises, or that it has not come back.
"""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait


class NotBack(Exception):  # noqa: N818
    """A call has not come back within its time, and may never."""


class Caller:
    """A thread that makes one call after another, so that one which never comes back can be left behind.

    Such a call keeps the thread, and what it holds, until it comes back or the process ends.
    """

    def __init__(self) -> None:
        """Start the thread; it does not keep its process alive."""
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="caller", daemon=True).start()

    def call(self, what: Callable[[], None], seconds: float) -> None:
        """Make a call and wait for it; raises what it raises, or NotBack. Then there is no use for this caller any more."""
        done: Future[None] = Future()
        self._calls.put((what, done))
        if not wait([done], seconds).done:
            self.end()
            raise NotBack
        done.result()

    def end(self) -> None:
        """Let the thread end, once the call that it is in comes back."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            what, done = call
            try:
                what()
            except BaseException as error:  # noqa: BLE001 - it is raised where the call is waited for
                done.set_exception(error)
            else:
                done.set_result(None)
            del what, done, call  # a thread that waits holds no producer
