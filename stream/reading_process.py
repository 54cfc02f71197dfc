"""Stages 1 to 3b in a process of their own: reading a record costs as much as routing it, and one interpreter has one lock.

Two lines lead to it, so that batches do not wait while it is told what to read by:

    gate:    tokenizer as JSON, once; [reader, setup] as JSON           -> process (stream/reading_child.py)
    process: "ready" or what is wrong                                   -> gate

    gate:    [number, reader, oldest in use], lengths_N, the values end to end      -> process
    process: number, asked_K, lengths_K, ids flat, evidence_K, what is odd as JSON  -> gate

Numbers are int32, evidence float32; a length is LEFT_OUT where there is no value or the record is too long. Nothing is pickled. When the
process fails, the gate reads the batch itself and starts another; nothing is lost. Starting one takes most of a core for a second, so a
swap to other rules or another model of the same tokenizer gives the process that runs one more reader.
"""

import json
import logging
import os
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from foundation.errors import WinnowError
from stream.config import GateSettings
from stream.read import Reader, Readings
from stream.records import Reason, Unread, Violation
from stream.rules import Rules
from stream.tokenise import LEFT_OUT, Encoded, Ids

if TYPE_CHECKING:  # a gate in rules mode starts without torch
    from stream.live_model import LiveModel

log = logging.getLogger("winnow.judge")

# batches die young and in no cycles: looking at every 700 objects, as the collector does unasked, costs a tenth
COLLECT_EVERY = (200_000, 20, 50)
READY = b"ready"
_START_SECONDS = 60.0
_ANSWER_SECONDS = 60
_END_SECONDS = 5.0
_PAUSE_SECONDS = 10.0
_FAILURES = (OSError, EOFError, ValueError, TypeError, WinnowError)  # TypeError: closed by another thread while writing


class ReadingProcess:
    """A Reader that works elsewhere. Two threads may call `read`: the second batch is sent while the first is being read."""

    def __init__(
        self, settings: GateSettings, rules: Rules, model: "LiveModel | None", here: Reader, like: "ReadingProcess | None" = None
    ) -> None:
        """Wait until a process is ready to read by these; `here` reads whenever it cannot.

        like: its process reads for both where they have one tokenizer, until nobody has either; else one is started.
        """
        self._here = here
        self._tokenizer, self._setup = _setup_of(settings, rules, model)
        self._starting = Lock()
        self.line: _Line | None = None
        self._number = 0
        self._not_before = 0.0
        running = None if like is None else like.line
        try:
            if running is not None and running.is_open and running.tokenizer == self._tokenizer:
                self._number, self.line = running.add(self, self._setup), running
            else:
                self._start()
        except _FAILURES as error:
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            _say(error)

    def read(self, values: Sequence[bytes | None]) -> Readings:
        """Return what Reader.read would."""
        try:
            return self._read(values)
        except _FAILURES as error:
            _say(error)
        except _Waiting:
            pass
        return self._here.read(values)

    def reads_as(self, settings: GateSettings, rules: Rules, model: "LiveModel | None") -> bool:
        """Return whether a process for these rules and this model would read every record as this one does."""
        return _setup_of(settings, rules, model) == (self._tokenizer, self._setup)

    def _read(self, values: Sequence[bytes | None]) -> Readings:
        with self._starting:
            line = self.line if self.line is not None and self.line.is_open else self._start()
            number = self._number
        return line.read(number, values)

    def _start(self) -> "_Line":
        if time.monotonic() < self._not_before:
            raise _Waiting
        self._not_before = time.monotonic() + _PAUSE_SECONDS  # what cannot start would cost every batch another try
        line = _Line(self._tokenizer)
        self._number, self.line = line.add(self, self._setup), line
        return line


class _Line:
    """A process and the ways to it, shared by those for whom it reads; closed for good when anything goes wrong on it."""

    def __init__(self, tokenizer: str | None) -> None:
        """Start a process that reads by this tokenizer; None where no model is asked. Raises OSError."""
        self.tokenizer = tokenizer
        self.is_open = True
        self._sending, self._answering = Lock(), Lock()
        self._asked = self._last = 0
        self._readers: dict[int, weakref.ref[ReadingProcess]] = {}
        pairs = socket.socketpair(), socket.socketpair()
        theirs = [each for _, each in pairs]
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stream.reading_child", *(str(each.fileno()) for each in theirs)],
            pass_fds=[each.fileno() for each in theirs],
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for the gate, which finishes its batch
        )
        for ours, its in pairs:
            its.close()
            for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # a stopped process must not stop the gate
                ours.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", _ANSWER_SECONDS, 0))
        self._batches, self._setups = (Connection(ours.detach()) for ours, _ in pairs)
        self._end = weakref.finalize(self, _end, (self._batches, self._setups), process)
        with self._closed_on_failure():
            self._setups.send_bytes((tokenizer or "").encode())

    def close(self) -> None:
        """End the process, for all for whom it reads."""
        self.is_open = False
        self._end()

    def add(self, reader: ReadingProcess, setup: dict[str, Any]) -> int:
        """Let the process read by one more setup, and return its number; one thread at a time adds. Raises WinnowError, OSError."""
        self._last += 1
        number = self._last
        self._readers[number] = weakref.ref(reader)
        with self._closed_on_failure():
            self._setups.send_bytes(json.dumps([number, setup]).encode())
            if not self._setups.poll(_START_SECONDS):
                raise TimeoutError(f"not ready in {_START_SECONDS:g} seconds")
            said = self._setups.recv_bytes()
        if said != READY:
            del self._readers[number]
            if not self._readers:
                self.close()
            raise WinnowError(f"the process that reads records cannot read as asked: {said.decode()}")
        return number

    def read(self, reader: int, values: Sequence[bytes | None]) -> Readings:
        """Return what one of the readers there makes of a batch. Raises OSError, EOFError, ValueError when the line fails."""
        with self._sending:
            if not self.is_open:
                raise EOFError("the line was closed")
            self._asked += 1
            number = self._asked
            with self._closed_on_failure():
                numbers = np.array([number, reader, self._oldest()], dtype=np.int32)
                send(self._batches, numbers, _lengths_of(values), b"".join([value for value in values if value]))
            self._answering.acquire()  # answers come in the order of the questions
        try:
            with self._closed_on_failure():  # before anybody else may ask it for an answer
                return _answer_of(self._batches, number, values)
        finally:
            self._answering.release()

    def _oldest(self) -> int:
        """Return the least number of a reader that somebody has; the process forgets those below."""
        return min(number for number, reader in tuple(self._readers.items()) if reader() is not None)

    @contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


class _Waiting(Exception):  # noqa: N818
    """A process failed a moment ago, and none is started yet."""


def _say(error: Exception) -> None:
    what = {"error": type(error).__name__, "detail": str(error)}
    log.error("the reading process failed, the gate reads itself", extra=what)


def _lengths_of(values: Sequence[bytes | None]) -> Ids:
    return np.array([LEFT_OUT if value is None else len(value) for value in values], dtype=np.int32)


def _answer_of(connection: Connection, number: int, values: Sequence[bytes | None]) -> Readings:
    if not connection.poll(_ANSWER_SECONDS):
        raise TimeoutError(f"no answer in {_ANSWER_SECONDS:g} seconds")
    answered, asked, lengths_K, flat, evidence, odd = receive(connection)
    if ids_of(answered).tolist() != [number]:
        raise ValueError(f"an answer to batch {ids_of(answered).tolist()} where {number} was asked for")
    unread: list[Unread | None] = [None] * len(values)
    violations: list[tuple[Violation, ...]] = [()] * len(values)
    said = orjson.loads(odd)
    for place, reason, detail in said["unread"]:
        unread[place] = Unread(Reason(reason), detail)
    for place, broken in said["violations"]:
        violations[place] = tuple(Violation(*each) for each in broken)
    encoded = Encoded(ids_of(flat), ids_of(lengths_K))
    return Readings(unread, violations, ids_of(asked).tolist(), encoded, np.frombuffer(evidence, np.float32))


def send(connection: Connection, *parts: bytes | Ids | NDArray[np.float32]) -> None:
    """Send one message of several parts; numbers come first, so that they stay aligned."""
    raw = [part if isinstance(part, bytes) else part.tobytes() for part in parts]
    connection.send_bytes(b"".join([np.array([len(raw), *map(len, raw)], dtype=np.int64).tobytes(), *raw]))


def receive(connection: Connection) -> list[memoryview]:
    """Return the parts of one message. Raises EOFError when the other side has gone."""
    message = memoryview(connection.recv_bytes())
    count = int(np.frombuffer(message, dtype=np.int64, count=1)[0])
    lengths = np.frombuffer(message, dtype=np.int64, count=count, offset=8).tolist()
    ends = list(accumulate(lengths, initial=8 * (count + 1)))
    return [message[start:end] for start, end in pairwise(ends)]


def ids_of(part: memoryview) -> Ids:
    """Return the numbers of a part."""
    return np.frombuffer(part, dtype=np.int32)


def _end(connections: "tuple[Connection, Connection]", process: "subprocess.Popen[bytes]") -> None:
    """Shut the lines, which ends the process. Its end is awaited elsewhere: a swap of models must not wait for it."""
    for connection in connections:
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)  # who is writing to it hears at once; it is closed when the process is gone
    try:
        Thread(target=_await_end, args=(connections, process), daemon=True).start()
    except RuntimeError:  # the interpreter is ending, and starts no more threads
        _await_end(connections, process)


def _await_end(connections: "tuple[Connection, Connection]", process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for connection in connections:
        with suppress(OSError):
            connection.close()


def _setup_of(settings: GateSettings, rules: Rules, model: "LiveModel | None") -> tuple[str | None, dict[str, Any]]:
    """Return the tokenizer, None where no model is asked, and what else says how to read."""
    setup: dict[str, Any] = {
        "form": settings.format,
        "rules_file": None if rules.path is None else str(rules.path.absolute()),
        "rules_digest": rules.digest,
    }
    if model is None:
        return None, setup
    encoder = model.scorer.encoder
    evidence = None if model.evidence is None else model.evidence.text
    return encoder.tokenizer_text, setup | {"rendering": model.rendering, "most_tokens": encoder.max_record_tokens, "evidence": evidence}
