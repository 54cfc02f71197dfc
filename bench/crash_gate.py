"""A gate that kills itself with SIGKILL at a named step: the victim of bench/crash.py and of the crash test."""

import os
import signal
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from bench.constant import constant_model
from stream.boot import run_with_model
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.rules import Rules

STEPS = ("joining", "polled", "scoring", "producing", "before-offsets", "after-offsets", "committing", "committed")


def run(asked: dict[str, Any]) -> None:
    """Run one gate with the settings asked for; die at `die_at` when it has been reached `after` times."""
    die_at, left = asked.get("die_at"), int(asked.get("after", 1))

    def step(at: str) -> None:
        nonlocal left
        if at == die_at:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    run_with_model(
        KafkaSettings(**asked["kafka"]),
        TopicSettings(**asked["topics"]),
        GateSettings(**asked["gate"]),
        Rules.load(Path(asked["rules"])),
        constant_model(Path(asked["tokenizer"])),
        asked.get("until_idle"),
        step,
    )


def victims() -> ForkServerContext:
    """Return a context whose processes fork from one that has imported everything and started no thread."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["bench.crash_gate"])
    return context
