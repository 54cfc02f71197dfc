"""Faults under load: the broker restarted, killed and paused, partitions added, the registry gone and its disk full, an
object store that falls silent, the clock set, a reader of clean that is slow, the review database gone, a backlog of 1 GB.

Each fault meets a gate with a model, an even load of two fifths of what the model judges alone, at most 150 records a second, and
Prometheus with the deployed alerts, whose pending ones count: they would fire after their `for`. Afterwards a reader that shares
nothing with the gate counts what was lost and repeated. Full rate is back when as much is committed in five seconds as comes; the
gate has caught up when all but two seconds of what was due has been committed. The last line is one JSON object.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import urlparse

from confluent_kafka.admin import AdminClient

from bench.fault_causes import CLOCK, FAULTS, IN_BUCKET, PARTITIONS, STORE, Cause, Scene, told, until
from bench.gate_process import topics_of
from bench.load import feed, fill
from bench.machine import keep
from bench.postgresql import postgresql, programs
from bench.review import Acknowledged, Client, compared, hold, review
from bench.review import start as start_review
from bench.s3 import S3Server, s3_server
from bench.set_clock import Clock, compiler
from bench.starters import published_starter, readable
from bench.watched import ask, prometheus
from demo.broker import Broker, free_port, start_broker
from demo.ledger import messages, read_ledger
from demo.processes import end, start
from model_registry.config import RegistrySettings
from model_registry.registry import CHAMPION, Registry
from stream.cluster import base_config, make_topics, records_waiting
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.live_model import load_live_model

MOST_PER_SECOND, LOAD_SHARE = 150, 0.4
HELD, REVIEWERS = 400, 4
GIGABYTE = 1_000_000_000
_DATABASE, _BACKLOG = "review database gone 30 s", "backlog"
MOTO = Path(sys.prefix) / "moto"
_SETTLE_SECONDS, _MOST_CAUGHT_UP_SECONDS, _RATE_SECONDS, _IDLE_SECONDS = 6.0, 600.0, 5.0, 3


def bearable(registry: RegistrySettings) -> int:
    """Return how many records a second leave a gate room to catch up: what is due again soon shows that it is back, not how fast it is."""
    model = load_live_model(Registry(registry).verified(CHAMPION), GateSettings(threads=1))
    return min(MOST_PER_SECOND, round(LOAD_SHARE * model.records_per_second))


def meet(name: str, cause: Cause, place: Path, registry: RegistrySettings, per_second: int) -> dict[str, Any]:
    """Let a gate under a load of so many records a second meet a fault; return what came of it."""
    place.mkdir()
    copied = shutil.copytree(registry.url, place / "registry")
    with ExitStack() as parts:
        port = free_port()
        broker, kafka, topics = _with_kafka(parts, place, "faults", port)
        store = parts.enter_context(_store_with(copied, place)) if name == STORE else None
        clock = Clock(place) if name == CLOCK else None
        metrics, config = free_port(), place / "winnow.toml"
        scene = Scene(place, broker, port, kafka, topics, str(copied) if store is None else IN_BUCKET, metrics, store, clock)
        config.write_text(_settings(scene))
        beside = {"WINNOW_CACHE": str(place / "cache")} if store is not None else clock.environment if clock is not None else {}
        gate = start("gate", config, **beside)
        parts.callback(end, gate)
        server = shutil.which("prometheus")
        address = None if server is None else parts.enter_context(prometheus(server, place, {"gate": metrics}))
        context = get_context("spawn")
        over = context.Event()
        load = context.Process(target=feed, args=(kafka, topics.records, per_second, over), daemon=True)
        load.start()
        begun = time.monotonic()

        def behind() -> float:
            """How many of the records that were due since the load began have not been committed, producers' own queues included."""
            return per_second * (time.monotonic() - begun) - _committed(metrics)

        until(lambda: _waiting(scene) < 2 * per_second and _committed(metrics) > 0, "the gate to keep up before the fault")
        time.sleep(_SETTLE_SECONDS)
        usual, caused = behind(), time.monotonic()
        ended = cause(scene) or time.monotonic()
        until(_keeps_up(lambda: _committed(metrics), per_second), f"full rate to come back after: {name}")
        back_seconds = time.monotonic() - ended
        until(lambda: behind() < usual + 2 * per_second, f"the gate to catch up after: {name}", _MOST_CAUGHT_UP_SECONDS)
        caught_up_seconds = time.monotonic() - ended
        alerts = _alerts(address, time.monotonic() - caused)
        ended_by_itself = gate.poll()
        over.set()
        load.join(60)
        until(lambda: _waiting(scene) == 0, "the last record")
        time.sleep(_IDLE_SECONDS)
        ledger = read_ledger(broker.address, topics)
    return {
        "fault": name, "per_second": per_second, "records": ledger.records, "lost": len(ledger.lost), "repeated": len(ledger.repeated),
        "disordered": ledger.disordered, "back_seconds": round(back_seconds, 1),
        "caught_up_seconds": round(caught_up_seconds, 1), "gate_ended": ended_by_itself, "alerts": alerts,
    }  # fmt: skip


def database_gone(place: Path) -> dict[str, Any]:
    """Let the review service's database be away for half a minute while people answer."""
    found = programs()
    assert found is not None, "left_out has looked"
    place.mkdir()
    with ExitStack() as parts:
        broker, kafka, topics = _with_kafka(parts, place, "answers", free_port())
        hold(kafka, topics.quarantine, HELD)
        (place / "postgresql").mkdir()
        database = parts.enter_context(postgresql(found, place / "postgresql"))
        port, over, said = free_port(), threading.Event(), list[Acknowledged]()
        tables = SimpleNamespace(kafka=kafka, topics=topics, database_url=f"{database.url}/postgres")
        service = start_review(tables, place, port)
        parts.callback(end, service)
        left = threading.Semaphore(REVIEWERS * 1_000)
        people = [threading.Thread(target=review, args=(Client(port, f"r{n}", over), said, left)) for n in range(REVIEWERS)]
        parts.callback(over.set)
        for person in people:
            person.start()
        until(lambda: len(said) > HELD / 10, "the first answers")
        print(len(said), "answers before the database goes", file=sys.stderr, flush=True)
        database.stop()
        time.sleep(30)
        database.start()
        before, ended = len(said), time.monotonic()
        until(lambda: len(said) > before + REVIEWERS, "answers after the database has come back")
        back_seconds = time.monotonic() - ended
        until(lambda: len({m.key() for m in messages(broker.address, topics.verdicts)}) == HELD, "an answer to every record")
        over.set()
        for person in people:
            person.join(60)
        counts, ended_by_itself = compared(broker.address, topics, said), service.poll()
    return {
        "fault": _DATABASE, "records": HELD, "lost": counts["acknowledged_not_once"] + counts["releases_missing"],
        "repeated": counts["events_repeated"] + counts["releases_repeated"], "disordered": 0, "back_seconds": round(back_seconds, 1),
        "service_ended": ended_by_itself, **counts,
    }  # fmt: skip


def backlog(place: Path, registry: RegistrySettings, gigabytes: float) -> dict[str, Any]:
    """Judge a backlog with rules alone, from the first record to the last."""
    place.mkdir()
    with ExitStack() as parts:
        broker, kafka, topics = _with_kafka(parts, place, "backlog", free_port())
        twins = readable(2_000, 0)
        records = int(gigabytes * GIGABYTE / (sum(len(twin.value) for twin in twins) / len(twins)))
        fill(kafka, topics.records, records)
        metrics, config = free_port(), place / "winnow.toml"
        scene = Scene(place, broker, 0, kafka, topics, registry.url, metrics)
        config.write_text(_settings(scene) + 'mode = "rules"\n')
        begun = time.monotonic()
        gate = start("gate", config)
        parts.callback(end, gate)
        until(lambda: _committed(metrics) > 0 and _waiting(scene) == 0, "the backlog to be judged", 1_200.0)
        seconds = time.monotonic() - begun
        time.sleep(_IDLE_SECONDS)
        ledger = read_ledger(broker.address, topics)
    return {
        "fault": f"backlog of {gigabytes:g} GB", "records": ledger.records, "lost": len(ledger.lost), "repeated": len(ledger.repeated),
        "disordered": ledger.disordered, "seconds": round(seconds, 1), "records_per_second": round(ledger.records / seconds),
    }  # fmt: skip


def _with_kafka(parts: ExitStack, place: Path, name: str, port: int) -> tuple[Broker, KafkaSettings, TopicSettings]:
    """Return a broker of its own with topics of this name; it stops with the parts."""
    broker = start_broker(port, place / "kafka")
    parts.callback(broker.stop)
    kafka, topics = KafkaSettings(bootstrap_servers=broker.address), topics_of(name)
    make_topics(kafka, topics, PARTITIONS)
    return broker, kafka, topics


@contextmanager
def _store_with(registry: Path, place: Path) -> Iterator[S3Server]:
    """Run an object store with the registry's champion; this process may use it, too."""
    with s3_server(sys.executable, place / "s3.log", MOTO) as server:
        server.make_bucket(urlparse(IN_BUCKET).netloc)
        with patch.dict(os.environ, server.environment):
            found, trained = Registry(RegistrySettings(url=IN_BUCKET)), Registry(RegistrySettings(url=str(registry))).verified(CHAMPION)
            version = found.publish(trained.directory, trained.manifest)
            found.point(CHAMPION, str(version.number), "faults")
            yield server


def _settings(scene: Scene) -> str:
    named = "".join(f'{name} = "{value}"\n' for name, value in scene.topics.model_dump().items())
    return (
        f'[kafka]\nbootstrap_servers = "{scene.kafka.bootstrap_servers}"\n[topics]\n{named}[registry]\nurl = "{scene.registry}"\n'
        f'[gate]\ngroup = "faults"\nmetrics_port = {scene.metrics_port}\nthreads = 1\n'
    )


def _waiting(scene: Scene) -> float:
    """Return how many records wait for the group; endlessly many while Kafka does not answer."""
    counts = AdminClient({**base_config(scene.kafka), "socket.timeout.ms": 2_000})
    try:
        known = counts.list_topics(scene.topics.records, timeout=2).topics[scene.topics.records].partitions
        return records_waiting(scene.kafka, scene.topics.records, len(known), "faults")
    except Exception:  # noqa: BLE001 - a broker that is away is what is looked at
        return float("inf")


def _committed(port: int) -> float:
    return told(port, "winnow_records_total")


def _keeps_up(count: Callable[[], float], per_second: float) -> Callable[[], bool]:
    """Return what says, asked again and again, whether as much was counted in the last few seconds as comes."""
    seen: deque[tuple[float, float]] = deque()

    def is_so() -> bool:
        seen.append((time.monotonic(), count()))
        while len(seen) > 1 and seen[-1][0] - seen[1][0] >= _RATE_SECONDS:
            seen.popleft()
        seconds, counted = (last - first for last, first in zip(seen[-1], seen[0], strict=True))
        return seconds >= _RATE_SECONDS and counted >= per_second * seconds

    return is_so


def _alerts(address: str | None, seconds: float) -> list[str] | None:
    """Return the alerts of gates that were pending or firing in the last so many seconds; None without Prometheus."""
    if address is None:
        return None
    over = f'max_over_time(ALERTS{{alertname!~"Winnow(Review|Trainer).*"}}[{max(1, round(seconds))}s])'
    return sorted({sample.labels["alertname"] for sample in ask(address, over)})


def with_a_gate(place: Path, chosen: set[str], gigabytes: float) -> list[dict[str, Any]]:
    """Return what came of the faults that a gate meets."""
    registry = published_starter(place, readable(2_000, 0))
    per_second = bearable(registry)
    found = []
    for number, (name, cause) in enumerate(FAULTS.items()):
        if name in chosen:
            found.append(meet(name, cause, place / str(number), registry, per_second))
            print(json.dumps(found[-1]), flush=True)
    if _BACKLOG in chosen:
        found.append(backlog(place / "backlog", registry, gigabytes))
        print(json.dumps(found[-1]), flush=True)
    return found


def left_out(chosen: set[str]) -> dict[str, str]:
    """Return which of these faults cannot be brought about here, and what they need."""
    needs = {
        _DATABASE: (programs() is not None, "the Debian package postgresql"),
        STORE: (MOTO.is_dir(), f"moto in {MOTO}; `make bench-faults` installs it"),
        CLOCK: (compiler() is not None, "a C compiler: cc, from the Debian package gcc"),
    }
    return {name: what for name, (is_there, what) in needs.items() if name in chosen and not is_there}


def main() -> None:
    """Let a gate meet every fault, and print what came of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of the backlog")
    parser.add_argument("--only", choices=[*FAULTS, _DATABASE, _BACKLOG])
    asked = parser.parse_args()
    chosen = {asked.only} if asked.only is not None else {*FAULTS, _DATABASE, _BACKLOG}
    missing = left_out(chosen)
    for name, what in missing.items():
        print(f"{name}: left out, it needs {what}", file=sys.stderr, flush=True)
    chosen -= missing.keys()
    with tempfile.TemporaryDirectory(prefix="winnow-faults-") as directory:
        place = Path(directory)
        found = []
        if _DATABASE in chosen:  # which no model takes part in
            found.append(database_gone(place / "database"))
            print(json.dumps(found[-1]), flush=True)
        if chosen - {_DATABASE}:
            found += with_a_gate(place, chosen, asked.gigabytes)
    totals = {name: sum(each[name] for each in found) for name in ("records", "lost", "repeated", "disordered")}
    name = "faults" if asked.only is None else f"faults-{re.sub('[^a-z0-9]+', '-', asked.only)}"
    keep(name, {**totals, "left_out": missing, "faults": found})
    if totals["lost"] or totals["repeated"] or not found:
        sys.exit("a record was lost or repeated, or nothing was tried")


if __name__ == "__main__":
    main()
