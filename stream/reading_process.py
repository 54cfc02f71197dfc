"""Stages 1 to 3b in a process of their own: reading a record costs as much as routing it, and one interpreter has one lock.

    gate:    [number, reader], lengths_N, the values end to end         -> process
    process: number, asked_K, lengths_K, ids flat, evidence_K, what is odd as JSON  -> gate
    gate:    [number, reader, readers in use], what differs as JSON     -> process
    process: number, "ready" or what is wrong                           -> gate

Numbers are int32, evidence float32; a length is LEFT_OUT where there is no value or the record is too long. Nothing is pickled. When the
process fails, the gate reads the batch itself and starts another; nothing is lost. Starting one takes most of a core for a second, so a
swap to other rules or another model of the same tokenizer gives the process that runs one more reader.
"""

import gc
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import accumulate, pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from foundation import logs
from foundation.errors import WinnowError
from stream.config import GateSettings
from stream.evidence import Evidence
from stream.read import Reader, Readings
from stream.records import Reason, Unread, Violation
from stream.render import Rendering
from stream.rules import Rules
from stream.tokenise import LEFT_OUT, Encoded, Ids, PlainTokenizer

if TYPE_CHECKING:  # a gate in rules mode starts without torch
    from stream.live_model import LiveModel

log = logging.getLogger("winnow.judge")

# batches die young and in no cycles: looking at every 700 objects, as the collector does unasked, costs a tenth
COLLECT_EVERY = (200_000, 20, 50)
_START_SECONDS = 60.0
_ANSWER_SECONDS = 60
_END_SECONDS = 5.0
_PAUSE_SECONDS = 10.0
_READY = b"ready"
_BATCH_PARTS = 3


class ReadingProcess:
    """A Reader that works elsewhere. Two threads may call `read`: the second batch is sent while the first is being read."""

    def __init__(
        self, settings: GateSettings, rules: Rules, model: "LiveModel | None", here: Reader, like: "ReadingProcess | None" = None
    ) -> None:
        """Start the process and wait until it is ready; `here` reads whenever it cannot.

        like: its process reads for both where they share a tokenizer, and reads on for it until nobody has it any more.
        """
        self._here = here
        self._setup = _setup_of(settings, rules, model)
        self._starting = Lock()
        self.line: _Line | None = None
        self._reader = 0
        self._not_before = 0.0
        line = None if like is None else like.line
        try:
            if line is None or not line.reads_for(self._setup):
                self._start()
            else:
                self._reader, self.line = line.add(self, self._setup), line
        except (OSError, EOFError, ValueError, TypeError, WinnowError) as error:
            _say(error)

    def read(self, values: Sequence[bytes | None]) -> Readings:
        """Return what Reader.read would."""
        try:
            return self._read(values)
        except (OSError, EOFError, ValueError, TypeError, WinnowError) as error:  # TypeError: closed by the other thread while writing
            _say(error)
        except _Waiting:
            pass
        return self._here.read(values)

    def reads_as(self, settings: GateSettings, rules: Rules, model: "LiveModel | None") -> bool:
        """Return whether a process for these rules and this model would read every record as this one does."""
        return _setup_of(settings, rules, model) == self._setup

    def close(self) -> None:
        """End the process; the next read starts another."""
        if self.line is not None:
            self.line.close()

    def _read(self, values: Sequence[bytes | None]) -> Readings:
        with self._starting:
            line = self.line if self.line is not None and self.line.is_open else self._start()
            reader = self._reader
        return line.read(reader, values)

    def _start(self) -> "_Line":
        if time.monotonic() < self._not_before:
            raise _Waiting
        self._not_before = time.monotonic() + _PAUSE_SECONDS  # what cannot start would cost every batch another try
        self.line, self._reader = _Line(self, self._setup), 0
        return self.line


class _Line:
    """A process and the way to it, shared by those for whom it reads; closed for good when anything goes wrong on it."""

    def __init__(self, first: ReadingProcess, setup: dict[str, Any]) -> None:
        """Start the process, and wait until it is ready to read by this setup. Raises WinnowError, OSError."""
        self._sending, self._answering = Lock(), Lock()
        self._asked = self._added = 0
        self._setup = setup
        self._in_use = weakref.WeakValueDictionary({0: first})
        self._connection: Connection | None = self._started()

    @property
    def is_open(self) -> bool:
        """Whether nothing has gone wrong on it so far."""
        return self._connection is not None

    def reads_for(self, setup: dict[str, Any]) -> bool:
        """Return whether the process runs and can take up this setup: it has the tokenizer."""
        return self.is_open and setup.get("tokenizer") == self._setup.get("tokenizer")

    def close(self) -> None:
        """End the process."""
        if self._connection is not None:
            self._connection = None
            self._end()

    def read(self, reader: int, values: Sequence[bytes | None]) -> Readings:
        """Return what one of the readers there makes of a batch. Raises OSError, EOFError, ValueError when the line fails."""
        answer = self._exchange([reader], _lengths_of(values), b"".join([value for value in values if value]))
        return _readings_of(answer, values)

    def add(self, whose: ReadingProcess, setup: dict[str, Any]) -> int:
        """Let the process read by one more setup, and forget those that nobody has any more; return its number. Raises WinnowError."""
        self._added += 1
        reader = self._added
        self._in_use[reader] = whose
        differs = {name: value for name, value in setup.items() if value != self._setup.get(name)}
        [said] = self._exchange([reader, *self._in_use], json.dumps(differs).encode())
        if bytes(said) != _READY:
            del self._in_use[reader]
            raise WinnowError(f"the process that reads records cannot read as asked: {bytes(said).decode()}")
        return reader

    def _exchange(self, numbers: Sequence[int], *parts: bytes | Ids) -> list[memoryview]:
        """Ask, and return the answer without its number."""
        with self._sending:
            connection = self._connection
            if connection is None:
                raise EOFError("the line was closed")
            self._asked += 1
            number = self._asked
            with self._given_up_on_failure():
                _send(connection, np.array([number, *numbers], dtype=np.int32), *parts)
            self._answering.acquire()  # answers come in the order of the questions
        try:
            with self._given_up_on_failure():  # before anybody else may ask it for an answer
                return _answer_to(connection, number)
        finally:
            self._answering.release()

    @contextmanager
    def _given_up_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _started(self) -> Connection:
        ours, theirs = socket.socketpair()
        for direction in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # a stopped process must not stop the gate
            ours.setsockopt(socket.SOL_SOCKET, direction, struct.pack("ll", _ANSWER_SECONDS, 0))
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stream.reading_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the gate, which finishes its batch
            )
        connection = Connection(ours.detach())
        self._end = weakref.finalize(self, _end, connection, process)
        try:
            connection.send_bytes(json.dumps(self._setup).encode())
            said = connection.recv_bytes() if connection.poll(_START_SECONDS) else b"it does not answer"
        except (OSError, EOFError) as error:
            said = f"it ended: {error}".encode()
        if said != _READY:
            self._end()
            raise WinnowError(f"the process that reads records did not start: {said.decode()}")
        return connection


class _Waiting(Exception):  # noqa: N818
    """A process failed a moment ago, and none is started yet."""


def _say(error: Exception) -> None:
    what = {"error": type(error).__name__, "detail": str(error)}
    log.error("the reading process failed, the gate reads itself", extra=what)


def _lengths_of(values: Sequence[bytes | None]) -> Ids:
    return np.array([LEFT_OUT if value is None else len(value) for value in values], dtype=np.int32)


def _answer_to(connection: Connection, number: int) -> list[memoryview]:
    """Return the answer to a question, without its number. Raises TimeoutError, ValueError, EOFError."""
    if not connection.poll(_ANSWER_SECONDS):
        raise TimeoutError(f"no answer in {_ANSWER_SECONDS:g} seconds")
    answered, *answer = _receive(connection)
    if _ids(answered).tolist() != [number]:
        raise ValueError(f"an answer to batch {_ids(answered).tolist()} where {number} was asked for")
    return answer


def _readings_of(answer: Sequence[memoryview], values: Sequence[bytes | None]) -> Readings:
    asked, lengths_K, flat, evidence, odd = answer
    unread: list[Unread | None] = [None] * len(values)
    violations: list[tuple[Violation, ...]] = [()] * len(values)
    said = orjson.loads(odd)
    for place, reason, detail in said["unread"]:
        unread[place] = Unread(Reason(reason), detail)
    for place, broken in said["violations"]:
        violations[place] = tuple(Violation(*each) for each in broken)
    return Readings(unread, violations, _ids(asked).tolist(), Encoded(_ids(flat), _ids(lengths_K)), np.frombuffer(evidence, np.float32))


def _send(connection: Connection, *parts: bytes | Ids | NDArray[np.float32]) -> None:
    """Send one message of several parts; numbers come first, so that they stay aligned."""
    raw = [part if isinstance(part, bytes) else part.tobytes() for part in parts]
    connection.send_bytes(b"".join([np.array([len(raw), *map(len, raw)], dtype=np.int64).tobytes(), *raw]))


def _receive(connection: Connection) -> list[memoryview]:
    """Return the parts of one message. Raises EOFError when the other side has gone."""
    message = memoryview(connection.recv_bytes())
    count = int(np.frombuffer(message, dtype=np.int64, count=1)[0])
    lengths = np.frombuffer(message, dtype=np.int64, count=count, offset=8).tolist()
    ends = list(accumulate(lengths, initial=8 * (count + 1)))
    return [message[start:end] for start, end in pairwise(ends)]


def _ids(part: memoryview) -> Ids:
    return np.frombuffer(part, dtype=np.int32)


def _end(connection: Connection, process: "subprocess.Popen[bytes]") -> None:
    """Shut the line, which ends the process. Its end is awaited elsewhere: a swap of models must not wait for it."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)  # who is writing to it hears at once; it is closed when the process is gone
    try:
        Thread(target=_await_end, args=(connection, process), daemon=True).start()
    except RuntimeError:  # the interpreter is ending, and starts no more threads
        _await_end(connection, process)


def _await_end(connection: Connection, process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(OSError):
        connection.close()


def _setup_of(settings: GateSettings, rules: Rules, model: "LiveModel | None") -> dict[str, Any]:
    setup: dict[str, Any] = {
        "form": settings.format,
        "rules_file": None if rules.path is None else str(rules.path.absolute()),
        "rules_digest": rules.digest,
        "rendering": None,
    }
    if model is not None:
        encoder = model.scorer.encoder
        setup |= {
            "rendering": model.rendering,
            "tokenizer": encoder.tokenizer_text,
            "most_tokens": encoder.max_record_tokens,
            "evidence": None if model.evidence is None else model.evidence.text,
        }
    return setup


def _reader(setup: dict[str, Any], plain: PlainTokenizer | None) -> Reader:
    """Return what reads by a setup and, where a model is asked, this tokenizer. Raises WinnowError."""
    rules = Rules.load(None if setup["rules_file"] is None else Path(setup["rules_file"]))
    if rules.digest != setup["rules_digest"]:
        raise WinnowError(f"{setup['rules_file']} has changed since it was read")
    if plain is None:
        return Reader(setup["form"], rules)
    evidence = None if setup["evidence"] is None else Evidence.from_text(setup["evidence"])
    rendering = cast(Rendering, setup["rendering"])
    return Reader(setup["form"], rules, rendering, lambda texts: plain.encode(texts, int(setup["most_tokens"])), evidence)


class _Added(NamedTuple):
    """A reader that has been built, or why it could not be, in answer to a question; of the others those in use are kept."""

    question: int
    number: int
    in_use: set[int]
    reader: Reader | None
    said: bytes


def _added(message: list[memoryview], first: dict[str, Any], plain: PlainTokenizer | None) -> _Added:
    question, number, *in_use = _ids(message[0]).tolist()
    reader, said = None, _READY
    try:
        reader = _reader(first | json.loads(bytes(message[1])), plain)
    except Exception as error:  # noqa: BLE001 - the gate is told; batches go on
        said = str(error if isinstance(error, WinnowError) else repr(error)).encode()
    return _Added(question, number, set(in_use), reader, said)


def _answer(readers: Mapping[int, Reader], connection: Connection, message: list[memoryview]) -> None:
    """Read one batch and send what came of it."""
    numbers, lengths, joined = message
    number, reader = _ids(numbers).tolist()
    values: list[bytes | None] = []
    start = 0
    whole = joined.tobytes()
    for length in _ids(lengths).tolist():
        values.append(None if length == LEFT_OUT else whole[start : start + length])
        start += max(0, length)
    unread, violations, asked, encoded, evidence_K = readers[reader].read(values)
    odd = {
        "unread": [(place, each.reason, each.detail) for place, each in enumerate(unread) if each is not None],
        "violations": [(place, list(map(list, broken))) for place, broken in enumerate(violations) if broken],
    }
    parts = np.array(asked, dtype=np.int32), encoded.lengths_N, encoded.flat, evidence_K
    _send(connection, np.array([number], dtype=np.int32), *parts, json.dumps(odd).encode())


def _take_in(
    connection: Connection, waiting: "SimpleQueue[list[memoryview] | _Added | None]", build: Callable[[list[memoryview]], _Added]
) -> None:
    """Receive ahead, so that the next batch or reader is here when this batch is read; None when the gate has gone."""
    with suppress(EOFError, OSError):
        while True:
            message = _receive(connection)
            waiting.put(message if len(message) == _BATCH_PARTS else build(message))
    waiting.put(None)


def main() -> None:
    """Read batches until the gate closes the line or ends, however it ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group of processes; the gate drains first
        signal.signal(number, signal.SIG_IGN)
    logs.set_up()
    connection = Connection(int(sys.argv[1]))
    with suppress(EOFError, OSError):
        try:
            setup = json.loads(connection.recv_bytes())
            plain = PlainTokenizer(Tokenizer.from_str(setup["tokenizer"])) if setup["rendering"] else None
            readers = {0: _reader(setup, plain)}
        except WinnowError as error:
            connection.send_bytes(str(error).encode())
            return
        gc.freeze()
        gc.set_threshold(*COLLECT_EVERY)
        connection.send_bytes(_READY)
        waiting: SimpleQueue[list[memoryview] | _Added | None] = SimpleQueue()
        Thread(target=_take_in, args=(connection, waiting, partial(_added, first=setup, plain=plain)), daemon=True).start()
        while (message := waiting.get()) is not None:
            if not isinstance(message, _Added):
                _answer(readers, connection, message)
                continue
            if message.reader is not None:
                readers = {number: each for number, each in readers.items() if number in message.in_use} | {message.number: message.reader}
                gc.freeze()
            _send(connection, np.array([message.question], dtype=np.int32), message.said)


if __name__ == "__main__":
    main()
