"""A producer that writes evenly: bursts would make pauses of their own. Meant to run in a process of its own."""

import time
from itertools import count
from multiprocessing.synchronize import Event

from confluent_kafka import Producer

from demo.twins import UNREADABLE, take
from foundation.errors import KafkaRefused
from stream.cluster import base_config
from stream.config import KafkaSettings

TICK_SECONDS = 0.02
_DIFFERENT = 3_000


def feed(kafka: KafkaSettings, topic: str, per_second: float, over: Event) -> None:
    """Write twins at this rate, with the time of writing as their timestamp, until `over`. Raises KafkaRefused."""
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
