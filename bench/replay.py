"""Replay under SIGKILL: held records through the model of now, the command killed again and again and started anew.

A read_committed reader that shares nothing with winnow counts at the end: every decision on clean exactly once, and one event that
says so for each. The last line is one JSON object.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.machine import keep
from bench.starters import published_starter, readable
from demo.broker import temporary_broker
from demo.ledger import messages
from demo.processes import end, start
from demo.twins import Twin
from foundation.errors import WinnowError
from stream import wire
from stream.cluster import base_config, make_topics
from stream.config import KafkaSettings, TopicSettings

PARTITIONS = 4
_DIFFERENT = 5_000
_PATIENCE_SECONDS = 1_800


def hold(kafka: KafkaSettings, topics: TopicSettings, twins: list[Twin], records: int, partitions: int = PARTITIONS) -> None:
    """Write records to quarantine as a gate that held them would have."""
    producer = Producer({**base_config(kafka), "linger.ms": 50, "compression.type": "zstd", "queue.buffering.max.messages": 500_000})
    for number in range(records):
        twin, partition, offset = twins[number % len(twins)], number % partitions, number // partitions
        decision_id = f"{topics.records}:{partition}:{offset}"
        said = {wire.DECISION_ID: decision_id, wire.TOPIC_ID: "of-the-benchmark", wire.ORIGIN: "gate", wire.ROUTE: "quarantine",
                wire.REASON: "model", wire.P_CHOSEN: "0.100000", wire.THRESHOLD: "0.500000", wire.MODEL: "winnow@0"}  # fmt: skip
        headers = [(name, value.encode()) for name, value in said.items()]
        producer.produce(topics.quarantine, twin.value, twin.key, partition, timestamp=1_700_000_000_000 + number, headers=headers)
        producer.poll(0)
    if producer.flush(120):
        raise WinnowError("the held records could not be written")


def replayed_once(kafka: KafkaSettings, topics: TopicSettings, config: Path, kills: int, seed: int = 0) -> dict[str, Any]:
    """Run `winnow replay` to its end with SIGKILLs on the way, each after some more has come through; return what the topics hold."""
    rng = random.Random(seed)
    begun = time.monotonic()
    done = killed = 0
    while killed < kills:
        process = start("replay", config)
        enough = done + rng.randint(1, 1_500)
        while process.poll() is None and (done := _events(kafka, topics)) < enough:
            time.sleep(0.05)
        if process.poll() is not None:
            raise WinnowError(f"the replay ended with {process.returncode} before it could be killed {kills} times: give it more records")
        process.kill()
        end(process)
        killed += 1
    told, _ = start("replay", config).communicate(timeout=_PATIENCE_SECONDS)
    on_clean = Counter(_decision(message) for message in messages(kafka.bootstrap_servers, topics.clean))
    said = Counter(
        verdict.decision_id for m in messages(kafka.bootstrap_servers, topics.verdicts) if (verdict := wire.read_verdict(m.value()))
    )
    held = {_decision(message) for message in messages(kafka.bootstrap_servers, topics.quarantine)}
    return {
        "held": len(held), "kills": killed, "moved": len(on_clean), "lost": len(held - on_clean.keys()),
        "repeated": sum(times > 1 for times in on_clean.values()), "without_event": len(on_clean.keys() - said.keys()),
        "events_twice": sum(times > 1 for times in said.values()), "last_run": told.strip().splitlines()[-1:],
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def _events(kafka: KafkaSettings, topics: TopicSettings) -> int:
    """Return how many messages the verdict topic has, of transactions that are under way too."""
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": "looks"})
    try:
        partitions = consumer.list_topics(topics.verdicts, timeout=10).topics[topics.verdicts].partitions
        return sum(consumer.get_watermark_offsets(TopicPartition(topics.verdicts, each), timeout=10)[1] for each in partitions)
    finally:
        consumer.close()


def _decision(message: Any) -> str:
    return wire.last(message.headers(), wire.DECISION_ID) or ""


def main() -> None:
    """Hold 100,000 records, replay them under kills, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    asked = parser.parse_args()
    topics = TopicSettings()
    with tempfile.TemporaryDirectory(prefix="winnow-replay-") as directory, temporary_broker() as broker:
        place = Path(directory)
        twins = readable(_DIFFERENT, 0)
        registry = published_starter(place, twins)
        kafka = KafkaSettings(bootstrap_servers=broker.address)
        make_topics(kafka, topics, PARTITIONS)
        hold(kafka, topics, twins, asked.records)
        config = place / "winnow.toml"
        config.write_text(f'[kafka]\nbootstrap_servers = "{broker.address}"\n[registry]\nurl = "{registry.url}"\n[gate]\nthreshold = 0.0\n')
        found = replayed_once(kafka, topics, config, asked.kills)
    keep("replay", found)
    if found["lost"] or found["repeated"] or found["without_event"] or found["events_twice"]:
        sys.exit("a record was lost or moved twice")


if __name__ == "__main__":
    main()
