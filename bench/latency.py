"""How long a record takes through the gate: from its timestamp until a read_committed reader sees it, at a share of what the gate can.

Enters: a registry with a champion, and rates. Leaves: percentiles in milliseconds. Load, gate and reader have a process each.
"""

import math
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np

from bench.gate_process import Asked, metric, running, topics_of, wait_until_ready
from bench.load import feed
from demo.broker import free_port
from demo.run import RULES
from model_registry.config import RegistrySettings
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.tail import Tail

THREADS = 1  # load, reader and broker need a core too: two threads on two busy cores wait for each other at every operation
_SETTLE_SECONDS, _IDLE_SECONDS = 4.0, 15.0  # the load takes seconds to start


def latency(
    kafka: KafkaSettings, partitions: int, registry: RegistrySettings, place: Path, share: float, per_second: float, seconds: float
) -> dict[str, float]:
    """Feed a gate evenly and return percentiles of the time through it, what it put through, and how long a batch was judged on the mean.

    What comes in the first seconds is left out. A share above 1 tells what the gate can with load and reader beside it.
    """
    name = f"latency-{round(100 * share)}"
    topics = topics_of(name)
    make_topics(kafka, topics, partitions)
    port, context = free_port(), get_context("spawn")
    gate = GateSettings(
        group=name, instance=name, metrics_port=port, rules_file=RULES, threads=THREADS, audit_rate=0.0, audit_extra_rate=0.0
    )
    over = context.Event()
    load = context.Process(target=feed, args=(kafka, topics.records, share * per_second, over), daemon=True)
    with running(Asked(kafka, topics, gate, _IDLE_SECONDS, registry=registry), place / name) as judging:
        wait_until_ready(port)
        load.start()
        with _Reader(kafka, topics) as reader:
            reader.read(_SETTLE_SECONDS)
            before = _judged(port)
            seen_ms = reader.read(seconds)
            after = _judged(port)
        over.set()
        load.join()
        judging.end()
    return {
        "load_share": share,
        "records_per_second": round(share * per_second),
        "seen_per_second": round(len(seen_ms) / seconds),
        "p50_ms": round(float(np.quantile(seen_ms, 0.5)), 1),
        "p99_ms": round(float(np.quantile(seen_ms, 0.99)), 1),
        "batch_ms": round(1000 * (after[0] - before[0]) / max(1.0, after[1] - before[1]), 1),
    }


class _Reader:
    """What a consumer sees of the outputs."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings) -> None:
        """Begin at the beginning of all three."""
        self._tail = Tail(kafka, [topics.clean, topics.quarantine, topics.dead_letter], {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.close()

    def read(self, seconds: float) -> list[float]:
        """Return how old every record is when it becomes visible, in milliseconds; the time begins with the first one."""
        found: list[float] = []
        end = math.inf
        while time.monotonic() < end:
            came = self._tail.poll(1_000, 0.1)
            now_ms = time.time() * 1000
            found += [now_ms - record.timestamp_ms for record in came]
            if came and end == math.inf:
                end = time.monotonic() + seconds
        return found


def _judged(port: int) -> tuple[float, float]:
    """Return the seconds that the gate has spent judging batches, and how many."""
    return metric(port, 'winnow_stage_seconds_sum{stage="judge"}'), metric(port, 'winnow_stage_seconds_count{stage="judge"}')
