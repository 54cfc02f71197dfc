"""The process that reads for a gate: told by what, it answers batches until the gate closes the line or ends, however it ends.

What goes over the two lines: stream/reading_process.py.
"""

import gc
import json
import signal
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer

from foundation import logs
from foundation.errors import WinnowError
from stream.evidence import Evidence
from stream.read import Reader
from stream.reading_process import COLLECT_EVERY, READY, ids_of, receive, send
from stream.render import Rendering
from stream.rules import Rules
from stream.tokenise import LEFT_OUT, PlainTokenizer


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


def _add_one(setups: Connection, readers: MutableMapping[int, Reader], plain: PlainTokenizer | None) -> None:
    """Build the next reader that is asked for, beside the batches, and say whether it is ready."""
    number, setup = json.loads(setups.recv_bytes())
    said = READY
    try:
        readers[number] = _reader(setup, plain)
    except Exception as error:  # noqa: BLE001 - the gate is told; batches go on
        said = str(error if isinstance(error, WinnowError) else repr(error)).encode()
    gc.freeze()  # a memory has a hundred thousand objects, which no collection need look at
    setups.send_bytes(said)


def _add_all(setups: Connection, readers: MutableMapping[int, Reader], plain: PlainTokenizer | None) -> None:
    with suppress(EOFError, OSError):
        while True:
            _add_one(setups, readers, plain)


def _take_in(batches: Connection, waiting: "SimpleQueue[list[memoryview] | None]") -> None:
    """Receive ahead, so that the next batch is here when this one is read; None when the gate has gone."""
    with suppress(EOFError, OSError):
        while True:
            waiting.put(receive(batches))
    waiting.put(None)


def _answer(readers: MutableMapping[int, Reader], batches: Connection, message: list[memoryview]) -> None:
    """Read one batch and send what came of it; readers that nobody has any more are forgotten."""
    numbers, lengths, joined = message
    number, reader, oldest = ids_of(numbers).tolist()
    for gone in [each for each in tuple(readers) if each < oldest]:
        del readers[gone]
    values: list[bytes | None] = []
    start = 0
    whole = joined.tobytes()
    for length in ids_of(lengths).tolist():
        values.append(None if length == LEFT_OUT else whole[start : start + length])
        start += max(0, length)
    unread, violations, asked, encoded, evidence_K = readers[reader].read(values)
    odd = {
        "unread": [(place, each.reason, each.detail) for place, each in enumerate(unread) if each is not None],
        "violations": [(place, list(map(list, broken))) for place, broken in enumerate(violations) if broken],
    }
    parts = np.array(asked, dtype=np.int32), encoded.lengths_N, encoded.flat, evidence_K
    send(batches, np.array([number], dtype=np.int32), *parts, json.dumps(odd).encode())


def main() -> None:
    """Read batches by what the gate asks for."""
    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group of processes; the gate drains first
        signal.signal(number, signal.SIG_IGN)
    logs.set_up()
    batches, setups = (Connection(int(given)) for given in sys.argv[1:3])
    with suppress(EOFError, OSError):
        tokenizer = setups.recv_bytes().decode()
        plain = PlainTokenizer(Tokenizer.from_str(tokenizer)) if tokenizer else None
        readers: dict[int, Reader] = {}
        gc.set_threshold(*COLLECT_EVERY)
        _add_one(setups, readers, plain)
        waiting: SimpleQueue[list[memoryview] | None] = SimpleQueue()
        Thread(target=_add_all, args=(setups, readers, plain), daemon=True).start()
        Thread(target=_take_in, args=(batches, waiting), daemon=True).start()
        while (message := waiting.get()) is not None:
            _answer(readers, batches, message)


if __name__ == "__main__":
    main()
