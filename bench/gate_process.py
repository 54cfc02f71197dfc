"""A gate in a process of its own, as it is in service; the time of each of its steps is written down.

Enters: settings and which model to run. Leaves: steps with their times (CLOCK_MONOTONIC seconds), and the memory it holds.
"""

import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.constant import ConstantScorer, constant_model
from model_registry.config import RegistrySettings
from stream.boot import run_gate, run_with_model
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.rules import Rules

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_END_SECONDS = 60.0


class Asked(NamedTuple):
    """Which gate to run. `registry` None means the constant model, which keeps a simulated device busy for so long a record."""

    kafka: KafkaSettings
    topics: TopicSettings
    gate: GateSettings
    until_idle_seconds: float
    tokenizer: Path | None = None
    registry: RegistrySettings | None = None
    device_seconds: float = 0.0


class _SlowScorer(ConstantScorer):
    """A constant scorer whose device takes its time; the processor is free meanwhile, as it is beside a GPU."""

    device_seconds = 0.0

    def rewards(self, records: Any) -> np.ndarray:
        time.sleep(self.device_seconds * len(records))
        return super().rewards(records)


class Running:
    """One gate that is running, or has run."""

    def __init__(self, process: BaseProcess, steps: Path) -> None:
        """Take the process and the file of its steps."""
        self.process = process
        self._steps = steps

    def times(self, step: str) -> list[float]:
        """Return when the gate came to a step."""
        lines = [line.split() for line in self._steps.read_text().splitlines()]
        return [float(line[1]) for line in lines if len(line) == 2 and line[0] == step]  # noqa: PLR2004 - the last one may be half written

    def working_seconds(self) -> float:
        """Return the time from the first poll that had records to the last commit."""
        return self.times("committed")[-1] - self.times("polled")[0]

    def memory_bytes(self) -> int:
        """Return what the gate and its reading process hold in memory now."""
        return sum(_resident_bytes(pid) for pid in _with_children(self.process.pid or 0))

    def wait_for(self, step: str, patience_seconds: float = 120.0) -> None:
        """Wait until the gate has come to a step. Raises TimeoutError."""
        deadline = time.monotonic() + patience_seconds
        while not self.times(step):
            if time.monotonic() > deadline or not self.process.is_alive():
                raise TimeoutError(f"the gate has not come to `{step}` within {patience_seconds:g} s")
            time.sleep(0.1)

    def end(self, patience_seconds: float = 600.0) -> None:
        """Wait until the gate has been idle and has ended. Raises TimeoutError."""
        self.process.join(patience_seconds)
        if self.process.exitcode != 0:
            raise TimeoutError(f"the gate ended with code {self.process.exitcode} after {patience_seconds:g} s at most")


@contextmanager
def running(asked: Asked, steps: Path) -> Iterator[Running]:
    """Start a gate and end it in the end."""
    steps.touch()
    process = get_context("spawn").Process(target=_run, args=(asked, steps))
    process.start()
    try:
        yield Running(process, steps)
    finally:
        if process.is_alive():
            process.terminate()
            process.join(_END_SECONDS)


def metric(port: int, name: str) -> float:
    """Return the sum of the samples of a gate whose line begins with `name`. Raises OSError where none answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def wait_until_ready(port: int, patience_seconds: float = 120.0) -> None:
    """Wait until a gate has its partitions. Raises TimeoutError."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gate is not ready after {patience_seconds:g} s: {error}") from error
            time.sleep(0.2)


def topics_of(name: str) -> TopicSettings:
    """Return topics of this name alone."""
    return TopicSettings(**{kind: f"{name}.{kind.replace('_', '-')}" for kind in TopicSettings.model_fields})


def _run(asked: Asked, steps: Path) -> None:
    with steps.open("w", buffering=1) as seen:

        def step(at: str) -> None:
            print(at, time.monotonic(), file=seen)

        if asked.registry is not None:
            run_gate(asked.kafka, asked.topics, asked.gate, asked.registry, asked.until_idle_seconds, step)
        elif asked.tokenizer is not None:
            model = constant_model(asked.tokenizer)
            if asked.device_seconds:
                scorer = _SlowScorer(model.scorer.encoder)
                scorer.device_seconds = asked.device_seconds
                model = model._replace(scorer=scorer, records_per_second=1 / asked.device_seconds)
            rules = Rules.load(asked.gate.rules_file)
            run_with_model(asked.kafka, asked.topics, asked.gate, rules, model, asked.until_idle_seconds, step)


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended meanwhile
            for child in task.read_text().split():
                found += _with_children(int(child))
    return found


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
