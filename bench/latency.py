"""How long a record takes through the gate: from its timestamp until a read_committed reader sees it, at a share of what the gate can.

Enters: a registry with a champion, and rates. Leaves: percentiles in milliseconds. Load, gate and reader have a process each.
"""

import time
import urllib.request
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.gate_process import Asked, running
from bench.load import feed
from demo.broker import free_port
from demo.run import RULES
from model_registry.config import RegistrySettings
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.tail import Tail

_SETTLE_SECONDS, _IDLE_SECONDS = 4.0, 2.0


def latency(
    kafka: KafkaSettings, partitions: int, registry: RegistrySettings, place: Path, share: float, per_second: float, seconds: float
) -> dict[str, float]:
    """Feed a gate evenly and return percentiles of the time through it, and how long judging a batch took on the mean.

    What comes in the first seconds is left out.
    """
    name = f"latency-{round(100 * share)}"
    topics = topics_of(name)
    make_topics(kafka, topics, partitions)
    port, context = free_port(), get_context("spawn")
    gate = GateSettings(group=name, instance=name, metrics_port=port, rules_file=RULES, audit_rate=0.0, audit_extra_rate=0.0)
    over = context.Event()
    load = context.Process(target=feed, args=(kafka, topics.records, share * per_second, over), daemon=True)
    with running(Asked(kafka, topics, gate, _IDLE_SECONDS, registry=registry), place / name) as judging:
        _wait_until_ready(port)
        load.start()
        seen_ms = _read(kafka, topics, seconds)
        judged_seconds = _mean(port, "judge")
        over.set()
        load.join()
        judging.end()
    return {
        "load_share": share,
        "records_per_second": round(share * per_second),
        "records": len(seen_ms),
        "p50_ms": round(float(np.quantile(seen_ms, 0.5)), 1),
        "p99_ms": round(float(np.quantile(seen_ms, 0.99)), 1),
        "batch_ms": round(1000 * judged_seconds, 1),
    }


def topics_of(name: str) -> TopicSettings:
    """Return topics of this name alone."""
    kinds = ("records", "clean", "quarantine", "dead_letter", "audit", "verdicts")
    return TopicSettings(**{kind: f"{name}.{kind.replace('_', '-')}" for kind in kinds})


def _read(kafka: KafkaSettings, topics: TopicSettings, seconds: float) -> list[float]:
    """Return the milliseconds of every record that becomes visible within `seconds`, once the load has settled."""
    tail = Tail(kafka, [topics.clean, topics.quarantine, topics.dead_letter], {})
    found: list[float] = []
    begun = time.monotonic()
    while (at := time.monotonic() - begun) < _SETTLE_SECONDS + seconds:
        came = tail.poll(1_000, 0.1)
        if at > _SETTLE_SECONDS:
            now_ms = time.time() * 1000
            found += [now_ms - record.timestamp_ms for record in came]
    tail.close()
    return found


def _mean(port: int, stage: str) -> float:
    """Return the mean seconds of a stage, from what the gate tells."""
    said = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in _metrics(port) if not line.startswith("#")}
    of_stage = f'{{stage="{stage}"}}'
    return said[f"winnow_stage_seconds_sum{of_stage}"] / max(1.0, said[f"winnow_stage_seconds_count{of_stage}"])


def _metrics(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode()).splitlines()


def _wait_until_ready(port: int, patience_seconds: float = 120.0) -> None:
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the gate is not ready after {patience_seconds:g} s: {error}") from error
            time.sleep(0.2)
