"""What a gate holds in memory over a million records: the last tenth of its time beside the second one.

Enters: how many records. Leaves: the ratio, and records per second with so long a backlog.
"""

import time
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from bench.gate_process import Asked, running
from bench.latency import topics_of
from demo.run import RULES
from demo.twins import take
from stream.cluster import base_config, make_topics
from stream.config import GateSettings, KafkaSettings

_DIFFERENT, _EVERY_SECONDS, _IDLE_SECONDS = 20_000, 0.25, 2.0


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
    tenths = np.array_split([memory for at, memory in held if at <= last], 10)
    return {
        "records": total,
        "rss_growth": round(float(np.mean(tenths[9]) / np.mean(tenths[1])), 4),
        "rss_mb": round(float(np.mean(tenths[9])) / 1e6),
        "records_per_second": round(total / seconds),
    }


def fill(kafka: KafkaSettings, topic: str, total: int) -> None:
    """Write so many records as fast as the broker takes them, the same twins again and again."""
    twins = take(_DIFFERENT, 0, unreadable_share=0.0)
    producer = Producer({**base_config(kafka), "linger.ms": 50, "compression.type": "zstd", "queue.buffering.max.messages": 2 * _DIFFERENT})
    for number in range(total):
        twin = twins[number % _DIFFERENT]
        while True:
            try:
                producer.produce(topic, twin.value, twin.key)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(120):
        raise TimeoutError(f"{topic} could not be filled")
