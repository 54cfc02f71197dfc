"""The gate with a constant model against two exactly-once copies on plain confluent-kafka, side by side in one run.

`vs_copy`: a copy that parses the JSON and writes the same headers. `vs_bare`: a copy with one header. `explaining`: the
gate that also looks for the suspect fields of held records, one in ten here. All read the same records from the same
broker, one after the other, round by round; the figures are medians of the rounds.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.constant import constant_model, save_tokenizer
from bench.machine import keep
from demo.broker import temporary_broker
from demo.run import RULES
from demo.stream import produce
from demo.twins import take
from stream import wire
from stream.boot import run_with_model
from stream.cluster import look_at_cluster, make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decode import decode_value
from stream.records import Content, Decision, Record, Rewards, Route
from stream.render import render
from stream.rules import Rules

PER_TRANSACTION = 2_000
PARTITIONS = 4


def copy(
    bootstrap: str, topics: TopicSettings, name: str, total: int, headers_of: Callable[[Record], list[tuple[str, bytes | None]]]
) -> float:
    """Copy records to clean, 2,000 a transaction, the offsets in it; return records per second from first to last commit."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": name,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
        }
    )
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name, "compression.type": "zstd", "linger.ms": 5})
    producer.init_transactions(30)
    consumer.subscribe([topics.records])
    done, begun = 0, 0.0
    while done < total:
        messages = [m for m in consumer.consume(PER_TRANSACTION, 0.1) if m.error() is None]
        if not messages:
            continue
        begun = begun or time.perf_counter()
        producer.begin_transaction()
        ends: dict[int, int] = {}
        for m in messages:
            record = Record(m.topic(), m.partition(), m.offset(), m.timestamp()[1], m.key(), m.value(), m.headers() or [])
            headers = record.headers + headers_of(record)
            producer.produce(topics.clean, record.value, record.key, record.partition, timestamp=record.timestamp_ms, headers=headers)
            ends[record.partition] = record.offset + 1
        offsets = [TopicPartition(topics.records, partition, end) for partition, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction(30)
        done += len(messages)
    seconds = time.perf_counter() - begun
    consumer.close()
    return done / seconds


def gate(bootstrap: str, topics: TopicSettings, name: str, total: int, tokenizer: Path, *, explain: bool) -> float:
    """Run the gate over the same records; return records per second from its first poll to its last commit."""
    times: dict[str, float] = {}

    def step(at: str) -> None:
        now = time.perf_counter()
        if at == "polled":
            times.setdefault("first", now)
        elif at == "committed":
            times["last"] = now

    settings = GateSettings(group=name, instance=name, metrics_port=0, max_poll_records=PER_TRANSACTION, explain=explain)
    kafka = KafkaSettings(bootstrap_servers=bootstrap)
    run_with_model(kafka, topics, settings, Rules.load(RULES), constant_model(tokenizer), 1.0, step)
    return total / (times["last"] - times["first"])


def main() -> None:
    """Run the rounds and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    twins = take(given.records, 0, unreadable_share=0.0)
    texts = [render(c).text for twin in twins[:3_000] if isinstance(c := decode_value(twin.value, "auto"), Content)]
    rates: dict[str, list[float]] = {"bare": [], "copy": [], "gate": [], "explaining": []}
    with temporary_broker() as broker, tempfile.TemporaryDirectory() as place:
        save_tokenizer(texts, Path(place))
        kafka, topics = KafkaSettings(bootstrap_servers=broker.address), TopicSettings()
        make_topics(kafka, topics, PARTITIONS)
        produce(kafka, topics.records, twins)
        cluster = look_at_cluster(kafka, [topics.clean], topics.records)
        shared = wire.constants(cluster.topic_ids, 0.5, "constant@1", "sha256:" + "0" * 64, Rules.load(RULES).digest)
        judged = Decision(Route.CLEAN, "model", "", Rewards(1.0, 0.0), 0.731059)

        def same_headers(record: Record) -> list[tuple[str, bytes | None]]:
            if record.value is not None and record.value[:1] == b"{":
                orjson.loads(record.value)
            return wire.decision_headers(record, judged, shared)

        for number in range(given.rounds):
            name = f"bench-{number}"
            rates["bare"].append(copy(broker.address, topics, f"{name}-bare", given.records, lambda record: [("h", b"1")]))
            rates["copy"].append(copy(broker.address, topics, f"{name}-copy", given.records, same_headers))
            for which, explain in (("gate", False), ("explaining", True)):
                rate = gate(broker.address, topics, f"{name}-{which}", given.records, Path(place), explain=explain)
                rates[which].append(rate)
            print({name: round(each[-1]) for name, each in rates.items()}, flush=True)
    medians = {name: statistics.median(each) for name, each in rates.items()}
    keep(
        "gate",
        {
            "records": given.records,
            "rounds": given.rounds,
            **{f"{name}_records_per_second": round(each) for name, each in medians.items()},
            "vs_copy": round(statistics.median(g / c for g, c in zip(rates["gate"], rates["copy"], strict=True)), 3),
            "vs_bare": round(statistics.median(g / b for g, b in zip(rates["gate"], rates["bare"], strict=True)), 3),
        },
    )


if __name__ == "__main__":
    main()
