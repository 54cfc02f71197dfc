"""The gate beside what an operator could put in its place, side by side in one run.

With a constant model (`vs_copy`, `vs_bare`): exactly-once copies on plain confluent-kafka, one that parses the JSON and
writes the same headers, one with one header; `vs_quix_copy` is the former inside quix-streams. With a starter
(`vs_scorer`, `vs_loop`, `vs_quix`): its scorer alone, and inside a plain loop and quix-streams, exactly once. Then the
time through the gate under load, and its memory over a million records. Everything runs one after the other, round by
round; ratios are medians over the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bench.constant import save_tokenizer
from bench.copies import copy, one_header, same_headers, scored
from bench.gate_process import Asked, running, topics_of
from bench.latency import latency
from bench.machine import keep
from bench.memory import LEAST_RECORDS, growth
from bench.starters import published_starter
from demo.broker import temporary_broker
from demo.run import RULES
from demo.stream import produce
from demo.twins import Twin, take
from model_registry.config import RegistrySettings
from model_registry.registry import CHAMPION, Registry
from stream import wire
from stream.cluster import look_at_cluster, make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decode import decode_value
from stream.live_model import load_live_model
from stream.records import Content
from stream.render import render
from stream.rules import Rules

PARTITIONS = 4
QUIX = Path(sys.prefix) / "quix"
_NO_MODEL = "-"
Rates = dict[str, list[float]]


def gate_rate(asked: Asked, place: Path, total: int) -> float:
    """Run the gate in a process of its own over `total` records; return records per second from first poll to last commit."""
    with running(asked, place / asked.gate.group) as judging:
        judging.end()
        return total / judging.working_seconds()


def quix_rate(kafka: KafkaSettings, topics: TopicSettings, name: str, total: int, registry: str, how: tuple[str, str, str]) -> float | str:
    """Run the peer in a process of its own; return records per second, or why there are none."""
    if not QUIX.is_dir():
        return "quix-streams is not installed; make bench-gate does it where a package index can be reached"
    command = [sys.executable, "-m", "bench.quix", kafka.bootstrap_servers, topics.records, topics.clean, topics.quarantine, name]
    environment = {**os.environ, "PYTHONPATH": f"{QUIX}{os.pathsep}{Path.cwd()}"}
    done = subprocess.run([*command, str(total), registry, *how], capture_output=True, text=True, env=environment, check=False, timeout=600)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"it ended with code {done.returncode}: {said[:200]}"
    return float(done.stdout.split()[-1])


def constant(kafka: KafkaSettings, twins: list[Twin], tokenizer: Path, rounds: int) -> tuple[Rates, str | None]:
    """Run the gate with a constant model beside the copies; return the rates, and why one is missing."""
    topics = TopicSettings()
    make_topics(kafka, topics, PARTITIONS)
    produce(kafka, topics.records, twins)
    rules = Rules.load(RULES)
    shared = shared_constants(kafka, topics, "constant@1", "sha256:" + "0" * 64, rules)
    rates: Rates = {"bare": [], "copy": [], "gate": [], "explaining": [], "quix_copy": []}
    missing = None
    for number in range(rounds):
        name, bootstrap = f"bench-{number}", kafka.bootstrap_servers
        rates["bare"].append(copy(bootstrap, topics, f"{name}-bare", len(twins), one_header))
        rates["copy"].append(copy(bootstrap, topics, f"{name}-copy", len(twins), same_headers(shared)))
        for which in ("gate", "explaining"):
            settings = GateSettings(group=f"{name}-{which}", instance=name, metrics_port=0, rules_file=RULES, explain=which == "explaining")
            rates[which].append(gate_rate(Asked(kafka, topics, settings, 1.0, tokenizer), tokenizer, len(twins)))
        found = quix_rate(kafka, topics, f"{name}-quix", len(twins), _NO_MODEL, (rules.digest or "", "1", "auto"))
        missing = _told(rates, "quix_copy", found)
    return rates, missing


def with_starter(
    kafka: KafkaSettings, twins: list[Twin], registry: RegistrySettings, place: Path, rounds: int, threads: int
) -> tuple[Rates, str | None]:
    """Run the gate with a starter beside its scorer alone and inside other loops; nobody checks rules or explains."""
    topics = topics_of("starter")
    make_topics(kafka, topics, PARTITIONS)
    produce(kafka, topics.records, twins)
    model = load_live_model(Registry(registry).verified(CHAMPION), GateSettings(threads=threads))
    precision = str(model.scorer.precision).removeprefix("torch.")
    shared = shared_constants(kafka, topics, model.label, model.digest, Rules.load(None))
    texts = [render(c).text for twin in twins if isinstance(c := decode_value(twin.value, "auto"), Content)]
    ids = [each for each in model.scorer.encoder.encode(texts) if each is not None]
    at_once = round(model.records_per_second * GateSettings().batch_seconds)
    rates: Rates = {"scorer": [], "judging": [], "loop": [], "quix": []}
    missing = None
    for number in range(rounds):
        begun = time.perf_counter()
        for start in range(0, len(ids), at_once):
            model.scorer.rewards(ids[start : start + at_once])
        rates["scorer"].append(len(ids) / (time.perf_counter() - begun))
        name = f"starter-{number}"
        settings = GateSettings(
            group=name, instance=name, metrics_port=0, explain=False, precision=precision, threads=threads,
            audit_rate=0, audit_extra_rate=0,
        )  # fmt: skip
        rates["judging"].append(gate_rate(Asked(kafka, topics, settings, 1.0, registry=registry), place, len(twins)))
        rates["loop"].append(copy(kafka.bootstrap_servers, topics, f"{name}-loop", len(twins), scored(model, shared), at_once))
        found = quix_rate(kafka, topics, f"{name}-quix", len(twins), registry.url, ("", str(threads), precision))
        missing = _told(rates, "quix", found)
    return rates, missing


def _told(rates: Rates, peer: str, found: float | str) -> str | None:
    """Keep a peer's rate, print the round, and return why the peer is missing, if it is."""
    if not isinstance(found, str):
        rates[peer].append(found)
    print({which: round(each[-1]) for which, each in rates.items() if each}, file=sys.stderr, flush=True)
    return found if isinstance(found, str) else None


def latencies_of(
    kafka: KafkaSettings, registry: RegistrySettings, place: Path, per_second: float, seconds: float
) -> list[dict[str, float]]:
    """Return the time through the gate at shares of what it can with load and reader on the same cores, which is measured first."""
    most = latency(kafka, PARTITIONS, registry, place, 1.5, per_second, seconds)["seen_per_second"]
    return [latency(kafka, PARTITIONS, registry, place, share, most, seconds) for share in (0.2, 0.5, 0.8)]


def shared_constants(kafka: KafkaSettings, topics: TopicSettings, label: str, digest: str, rules: Rules) -> wire.Constants:
    """Return the headers that all records share."""
    cluster = look_at_cluster(kafka, [topics.clean], topics.records)
    return wire.constants(cluster.topic_ids, 0.5, label, digest, rules.digest)


def ratio(rates: Rates, ours: str, theirs: str) -> float | None:
    """Return the median over the rounds of one rate by another; None where a peer is missing."""
    if len(rates[theirs]) != len(rates[ours]):
        return None
    return round(statistics.median(o / t for o, t in zip(rates[ours], rates[theirs], strict=True)), 3)


def main() -> None:
    """Run all and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scored", type=int, default=8_000)
    parser.add_argument("--million", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.million < LEAST_RECORDS:
        parser.error(f"--million {given.million}: a gate must work long enough to be watched, give at least {LEAST_RECORDS}")
    torch.set_num_threads(given.threads)
    twins = list(take(given.records, 0, unreadable_share=0.0))
    contents = [c for twin in twins[:5_000] if isinstance(c := decode_value(twin.value, "auto"), Content)]
    with temporary_broker() as broker, tempfile.TemporaryDirectory() as directory:
        place, kafka = Path(directory), KafkaSettings(bootstrap_servers=broker.address)
        save_tokenizer([render(content).text for content in contents], place)
        rates, missing = constant(kafka, twins, place, given.rounds)
        registry = published_starter(place, twins[-5_000:])  # a gate judges what its starter has not read
        judged, also_missing = with_starter(kafka, twins[: given.scored], registry, place, given.rounds, given.threads)
        rates |= judged
        latencies = latencies_of(kafka, registry, place, statistics.median(rates["judging"]), given.seconds)
        grown = growth(kafka, PARTITIONS, place, place, given.million)
    found: dict[str, Any] = {
        **{f"{name}_records_per_second": round(statistics.median(each)) for name, each in rates.items() if each},
        "vs_scorer": ratio(rates, "judging", "scorer"),
        "vs_copy": ratio(rates, "gate", "copy"),
        "vs_bare": ratio(rates, "gate", "bare"),
        "vs_loop": ratio(rates, "judging", "loop"),
        "vs_quix": ratio(rates, "judging", "quix"),
        "vs_quix_copy": ratio(rates, "gate", "quix_copy"),
        "quix_missing": missing or also_missing,
        "p99_ms": latencies[1]["p99_ms"],
        "batch_ms": latencies[1]["batch_ms"],
        "latency": latencies,
        "rss_growth": grown["rss_growth"],
        "memory": grown,
    }
    keep("gate", {"records": given.records, "rounds": given.rounds, **found})


if __name__ == "__main__":
    main()
