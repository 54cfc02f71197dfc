"""Producers for benchmarks: one that writes evenly, since bursts would make pauses of their own, and one that leaves a backlog."""

import time
from itertools import count
from multiprocessing.synchronize import Event

from confluent_kafka import Producer

from demo.twins import UNREADABLE, take
from foundation.errors import KafkaRefused
from stream.cluster import base_config
from stream.config import KafkaSettings

TICK_SECONDS = 0.02
_DIFFERENT, _IN_A_BACKLOG = 3_000, 20_000


def feed(kafka: KafkaSettings, topic: str, per_second: float, over: Event) -> None:
    """Write twins at this rate, with the time of writing as their timestamp, until `over`; in a process of its own. Raises KafkaRefused."""
    twins = [twin for twin in take(_DIFFERENT, 0) if twin.truth.kind != UNREADABLE]
    producer = Producer({**base_config(kafka), "linger.ms": 2})
    begun, written = time.monotonic(), 0
    for tick in count(1):
        if over.wait(max(0.0, begun + tick * TICK_SECONDS - time.monotonic())):
            break
        due = int((time.monotonic() - begun) * per_second)
        for number in range(written, due):
            twin = twins[number % len(twins)]
            producer.produce(topic, twin.value, twin.key)
        written = due
        producer.poll(0)
    left = producer.flush(60)
    if left:
        raise KafkaRefused(f"{left} records of the load did not reach {topic}")


def fill(kafka: KafkaSettings, topic: str, total: int) -> None:
    """Write so many records as fast as the broker takes them, the same twins again and again."""
    twins = take(_IN_A_BACKLOG, 0, unreadable_share=0.0)
    producer = Producer(
        {**base_config(kafka), "linger.ms": 50, "compression.type": "zstd", "queue.buffering.max.messages": 2 * _IN_A_BACKLOG}
    )
    for number in range(total):
        twin = twins[number % _IN_A_BACKLOG]
        while True:
            try:
                producer.produce(topic, twin.value, twin.key)
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    if producer.flush(120):
        raise TimeoutError(f"{topic} could not be filled")
