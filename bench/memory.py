"""What a gate holds in memory over a million records: the last tenth of its time beside the second one.

Enters: how many records. Leaves: the ratio, and records per second with so long a backlog.
"""

import time
from pathlib import Path

import numpy as np

from bench.gate_process import Asked, running, topics_of
from bench.load import fill
from demo.run import RULES
from foundation.errors import SettingInvalid
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings

LEAST_RECORDS = 400_000
_EVERY_SECONDS, _IDLE_SECONDS, _LEAST_LOOKS = 0.25, 2.0, 20


def growth(kafka: KafkaSettings, partitions: int, tokenizer: Path, place: Path, total: int) -> dict[str, float]:
    """Run the gate with a constant model over a backlog and watch what it holds."""
    topics = topics_of("growth")
    make_topics(kafka, topics, partitions)
    fill(kafka, topics.records, total)
    gate = GateSettings(group="growth", instance="growth", metrics_port=0, rules_file=RULES, explain=False)
    held: list[tuple[float, int]] = []
    with running(Asked(kafka, topics, gate, _IDLE_SECONDS, tokenizer), place / "growth") as judging:
        judging.wait_for("committed")
        while judging.process.is_alive():
            held.append((time.monotonic(), judging.memory_bytes()))
            time.sleep(_EVERY_SECONDS)
        judging.end()
        last = judging.times("committed")[-1]
        seconds = judging.working_seconds()
    watched = [memory for at, memory in held if at <= last]
    if len(watched) < _LEAST_LOOKS:
        raise SettingInvalid(f"--million {total}: the gate was done after {len(watched)} looks at its memory; {_LEAST_LOOKS} are needed")
    tenths = np.array_split(watched, 10)
    return {
        "records": total,
        "rss_growth": round(float(np.mean(tenths[9]) / np.mean(tenths[1])), 4),
        "rss_mb": round(float(np.mean(tenths[9])) / 1e6),
        "records_per_second": round(total / seconds),
    }
