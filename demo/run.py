"""`winnow demo`: a real Kafka, a generated stream, a model trained in front of you, a gate, and the ledger of it all.

Every step is what the commands of the same name do. Progress and the summary go to stderr; the last line of stdout is
one JSON object.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from rich.console import Console

from demo.broker import temporary_broker
from demo.ledger import read_ledger
from demo.reviewer import answer, choose
from demo.summary import Evaluation, evaluate, print_summary
from demo.twins import Truth, Twin, take
from demo.view import LiveView
from foundation.errors import WinnowError
from model_registry.config import RegistrySettings
from model_registry.registry import Registry, Version
from stream.cluster import base_config, make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from trainer.config import TrainSettings
from trainer.datasets import write_labelled

RECORDS = 6_000
UNLABELLED = 5_000
VERDICTS = 300
EVALUATION_RECORDS = 2_500
STARTER_MINUTES = 3.0
PARTITIONS = 4
RULES = Path(__file__).with_name("rules.toml")


def run_demo(records: int | None, *, keep: bool, seed: int) -> None:
    """Run the whole loop and print the summary; raises WinnowError if a record was lost or repeated."""
    console = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, soft_wrap=True, width=150)
    count = records or RECORDS
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-demo-", ignore_cleanup_errors=True)))
        console.print(f"winnow demo: {count} records, seed {seed}; working in {place}")
        with console.status("starting Apache Kafka"):
            broker = stack.enter_context(temporary_broker())
        console.print(f"Kafka is ready at {broker.address}")
        tables = _tables(broker.address, place)
        make_topics(tables.kafka, tables.topics, PARTITIONS)
        twins = take(count, seed)
        truth = produce(tables.kafka, tables.topics.records, twins)
        console.print(f"{count} records of digital twins are on {tables.topics.records}; what is true of them stays here")

        begun = time.monotonic()
        cold, trained, cold_evaluation, evaluation = _train(tables, place, twins, seed, console)
        seconds_train = time.monotonic() - begun

        rate = _run_gate(tables, place, count, stack, console, keep=keep)
        ledger = read_ledger(broker.address, tables.topics)
        print_summary(console, ledger, truth, cold, cold_evaluation, trained, evaluation)
        found: dict[str, Any] = {
            "records": ledger.records,
            "clean": ledger.by_topic.get(tables.topics.clean, 0),
            "quarantine": ledger.by_topic.get(tables.topics.quarantine, 0),
            "dead_letter": ledger.by_topic.get(tables.topics.dead_letter, 0),
            "lost": len(ledger.lost),
            "repeated": len(ledger.repeated),
            "auroc": round(evaluation.auroc, 4),
            "recall_at_5pct_fp": round(evaluation.recall_at_5pct_fp, 4),
            "seconds_train": round(seconds_train, 1),
            "records_per_second": round(rate, 1),
            "auroc_zero_verdicts": round(cold_evaluation.auroc, 4),
            "verdicts": VERDICTS,
        }
        if keep:
            _stay(console, broker.address, tables)
        print(json.dumps(found), flush=True)  # noqa: T201
        if ledger.lost or ledger.repeated:
            raise WinnowError(f"{len(ledger.lost)} records lost and {len(ledger.repeated)} repeated")


def _tables(address: str, place: Path) -> Any:
    return SimpleNamespace(
        kafka=KafkaSettings(bootstrap_servers=address),
        topics=TopicSettings(),
        gate=GateSettings(rules_file=RULES, metrics_port=0),
        registry=RegistrySettings(url=str(place / "registry")),
        train=TrainSettings(),
    )


def produce(settings: KafkaSettings, topic: str, twins: Sequence[Twin]) -> dict[str, Truth]:
    """Write the twins as a producer would and return the truth by decision id; nothing of it enters Kafka."""
    truth: dict[str, Truth] = {}
    failed: list[str] = []
    producer = Producer({**base_config(settings), "enable.idempotence": True, "linger.ms": 20})

    def remember(said: Truth) -> Any:
        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error.str())
            else:
                truth[f"{message.topic()}:{message.partition()}:{message.offset()}"] = said

        return delivered

    for twin in twins:
        producer.produce(topic, twin.value, twin.key, on_delivery=remember(twin.truth))
        producer.poll(0)
    producer.flush(60)
    if failed or len(truth) != len(twins):
        raise WinnowError(f"only {len(truth)} of {len(twins)} records reached {topic}: {failed[:1]}")
    return truth


def _train(tables: Any, place: Path, twins: Sequence[Twin], seed: int, console: Console) -> tuple[Version, Version, Evaluation, Evaluation]:
    """Starter on the first unlabelled records, a version with no verdict, verdicts, a version trained on them."""
    from trainer.make_starter import make_starter  # noqa: PLC0415
    from trainer.train import train_and_publish  # noqa: PLC0415

    registry = Registry(tables.registry)
    strangers = take(EVALUATION_RECORDS, seed + 1_000_003)
    console.print(f"training a starter on the first {UNLABELLED} records, which nobody has judged ({STARTER_MINUTES:g} minutes)")
    made = make_starter(tables, f"topic:{tables.topics.records}", place / "starter", STARTER_MINUTES, None, seed, UNLABELLED)
    base = str(place / "starter")
    cold = train_and_publish(tables, tables.train, base, None, None)
    cold_evaluation = evaluate(cold, tables.gate, strangers)
    console.print(f"{cold.label}: {made['steps']} steps, no verdict yet, AUROC {cold_evaluation.auroc:.3f} on {len(strangers)} strangers")
    seen = evaluate(cold, tables.gate, twins[:UNLABELLED])
    chosen = choose(twins[:UNLABELLED], seen.p_chosen, VERDICTS, seed)
    data = place / "verdicts.jsonl"
    write_labelled([answer(twins[index]) for index in chosen], data, "binary", tables.train.verdict_words)
    wrong = sum(twins[index].truth.is_wrong for index in chosen)
    console.print(
        f"a reviewer answered about {len(chosen)} records: {len(chosen) - wrong} 正确, {wrong} 错误; training on the answers with TRL"
    )
    trained = train_and_publish(tables, tables.train, base, str(data), None)
    evaluation = evaluate(trained, tables.gate, strangers)
    console.print(f"{trained.label}: AUROC {evaluation.auroc:.3f} on the same strangers")
    if evaluation.auroc >= cold_evaluation.auroc:
        registry.promote(str(trained.number))
    return cold, trained, cold_evaluation, evaluation


def _run_gate(tables: Any, place: Path, count: int, stack: contextlib.ExitStack, console: Console, *, keep: bool) -> float:
    """Start `winnow gate` as a process of its own, watch its outputs until all is routed, return records per second."""
    settings = place / "winnow.toml"
    settings.write_text(
        f'[kafka]\nbootstrap_servers = "{tables.kafka.bootstrap_servers}"\n[registry]\nurl = "{tables.registry.url}"\n'
        f'[gate]\nrules_file = "{RULES}"\nmetrics_port = {9464 if keep else 0}\n'
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")}
    gate = subprocess.Popen([sys.executable, "-m", "winnow", "gate", "--config", str(settings)], env=environment)
    stack.callback(_end, gate)
    with LiveView(tables.kafka.bootstrap_servers, tables.topics, count, console) as view:
        rate = view.watch(lambda: gate.poll() is None)
    if gate.poll() is not None:
        raise WinnowError(f"the gate ended with code {gate.returncode} before everything was routed")
    if not keep:
        _end(gate)
    return rate


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        if process.poll() is None:
            process.kill()
            process.wait()


def _stay(console: Console, address: str, tables: Any) -> None:
    """Stay up until Ctrl-C or SIGTERM, saying where everything is."""
    console.print(f"Kafka: {address}   metrics: http://127.0.0.1:9464/metrics   registry: {tables.registry.url}")
    console.print("Write more with: winnow produce --twins 1000 --topic twin.records; Ctrl-C ends")
    with _until_signal():
        signal.pause()


@contextlib.contextmanager
def _until_signal() -> Iterator[None]:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
