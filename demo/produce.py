"""`winnow produce`: records from a file or the generator -> a topic, as any producer would write them."""

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import KafkaException, Producer
from rich.console import Console
from rich.progress import Progress

from demo.twins import stream
from foundation.errors import DataRefused, KafkaRefused, SettingInvalid, TopicMissing
from stream.cluster import administrator, base_config, list_topics
from stream.config import KafkaSettings
from stream.files import read_values


def produce_file(
    settings: KafkaSettings, topic: str, file: Path | None, twins: int | None, rate: float | None, key: str | None, seed: int
) -> int:
    """Write the records and return how many; every one is acknowledged by all replicas. Raises on the first that is not."""
    if (file is None) == (twins is None):
        raise SettingInvalid("produce needs either a FILE or --twins N")
    if twins is not None:
        pairs: Iterator[tuple[bytes | None, bytes]] = ((t.key, t.value) for t in itertools.islice(stream(seed), twins))
    else:
        assert file is not None
        pairs = ((key_of(value, key), value) for value in read_values(file))
    if topic not in list_topics(administrator(settings), settings):
        raise TopicMissing(f"topic {topic} does not exist on {settings.bootstrap_servers}; `winnow topics` creates it")
    return _send(settings, topic, pairs, twins, rate)


def key_of(value: bytes, field: str | None) -> bytes | None:
    """Return the field of a JSON record as its key; None where there is no such field."""
    if field is None:
        return None
    try:
        found = json.loads(value)[field]
    except (ValueError, KeyError, TypeError):
        return None
    return str(found).encode()


def _send(settings: KafkaSettings, topic: str, pairs: Iterator[tuple[bytes | None, bytes]], total: int | None, rate: float | None) -> int:
    failed: list[str] = []
    producer = Producer(
        {
            **base_config(settings),
            "enable.idempotence": True,
            "linger.ms": 20,
            "compression.type": "zstd",
            "message.max.bytes": 100_000_000,
            "on_delivery": lambda error, _message: failed.append(error.str()) if error else None,
        }
    )
    sent, begun = 0, time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"records to {topic}", total=total)
        for key, value in pairs:
            _produce(producer, topic, key, value)
            sent += 1
            progress.advance(task)
            if failed:
                break
            if rate is not None and (ahead := begun + sent / rate - time.monotonic()) > 0:
                producer.poll(ahead)
    producer.flush(settings.connect_timeout_seconds)
    if failed:
        raise KafkaRefused(f"{topic} did not take {len(failed)} of {sent} records: {failed[0]}")
    if len(producer):
        raise KafkaRefused(f"{len(producer)} of {sent} records were not acknowledged within kafka.connect_timeout_seconds")
    if not sent:
        raise DataRefused("there was no record to produce")
    return sent


def _produce(producer: Producer, topic: str, key: bytes | None, value: bytes) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
            producer.poll(0)
        except BufferError:
            producer.poll(0.2)
        except KafkaException as error:
            raise KafkaRefused(f"{topic} cannot take a record of {len(value)} bytes: {error.args[0].str()}") from error
        else:
            return
