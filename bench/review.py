"""The review service under 10 reviewers while it is killed again and again, its speed at 100,000 open records and under many reviewers.

Every acknowledged verdict must lie on the verdict topic once, every release on clean once, and no record may have been
answered by two. The last line is one JSON object.
"""

import argparse
import http.client
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from confluent_kafka import Producer

from bench.machine import keep
from demo import processes
from demo.broker import free_port, temporary_broker
from demo.ledger import messages
from demo.reviewer import Connection, verdict_path
from foundation.settings import as_toml
from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from stream import wire
from stream.cluster import base_config, make_topics
from stream.config import KafkaSettings, TopicSettings

HEADER = "X-Reviewer"
REVIEWERS, ANSWERED = (8, 16), 1_500


class Acknowledged(NamedTuple):
    """What the service has said yes to."""

    decision_id: str
    reviewer: str
    is_right: bool


def hold(settings: KafkaSettings, topic: str, count: int) -> None:
    """Write records as the gate leaves them in quarantine."""
    failed: list[str] = []
    producer = Producer({**base_config(settings), "linger.ms": 20, "on_delivery": lambda e, _m: failed.append(e.str()) if e else None})
    for n in range(count):
        ours = {
            wire.DECISION_ID: f"in:0:{n}", wire.TOPIC_ID: "t", wire.ORIGIN: "gate", wire.ROUTE: "quarantine", wire.REASON: "model",
            wire.P_CHOSEN: f"{(n * 7919 % 1000) / 2000:.6f}", wire.THRESHOLD: "0.500000", wire.MODEL: "m@1", wire.SUSPECT: "[]",
        }  # fmt: skip
        value = json.dumps({"name": f"北京{n}公司", "phone": f"138{n:08d}"}, ensure_ascii=False).encode()
        producer.produce(topic, value, b"k%d" % (n % 997), headers=[(name, text.encode()) for name, text in ours.items()])
        producer.poll(0)
    assert producer.flush(60) == 0
    assert not failed, failed[:1]


class Client:
    """One reviewer's connection; a service that is away is asked again."""

    def __init__(self, port: int, reviewer: str, over: threading.Event) -> None:
        """Take the address."""
        self._port, self.reviewer, self._over = port, reviewer, over
        self._connection: Connection | None = None

    def ask(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and answer; (0, {}) when the bench is over."""
        while not self._over.is_set():
            try:
                if self._connection is None:
                    self._connection = Connection(f"http://127.0.0.1:{self._port}", {HEADER: self.reviewer})
                return self._connection.ask("POST", path, body)
            except (OSError, http.client.HTTPException, ValueError):
                self.close()
                time.sleep(0.05)
        return 0, {}

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def review(client: Client, said: list[Acknowledged], left: threading.Semaphore) -> None:
    """Answer until nothing is left, asking again with the same lease whenever an answer did not come through."""
    try:
        _answer_all(client, said, left)
    finally:
        client.close()


def _answer_all(client: Client, said: list[Acknowledged], left: threading.Semaphore) -> None:
    dice = random.Random(client.reviewer)
    while True:
        status, lease = client.ask("/api/lease", {})
        if status == 0:
            return
        if status != 200 or lease["decision_id"] is None:  # noqa: PLR2004
            if not left.acquire(blocking=False):
                return
            time.sleep(0.2)
            continue
        is_right = dice.random() < 0.5
        verdict = "right" if is_right else "wrong"
        path = verdict_path(lease["decision_id"])
        status, _ = client.ask(path, {"lease": lease["lease"], "verdict": verdict})
        while status == 503:  # noqa: PLR2004
            status, _ = client.ask(path, {"lease": lease["lease"], "verdict": verdict})
        if status == 200:  # noqa: PLR2004
            said.append(Acknowledged(lease["decision_id"], client.reviewer, is_right))


def start(tables: SimpleNamespace, place: Path, port: int) -> "subprocess.Popen[str]":
    """Start `winnow review` and wait until it says that it is ready."""
    config = place / "winnow.toml"
    database_url = tables.database_url or f"sqlite:///{place}/review.sqlite3"
    review = ReviewSettings(port=port, proxy_header=HEADER, second_share=0.0, database_url=database_url)
    registry = RegistrySettings(url=f"{place}/registry")
    config.write_text(as_toml({"kafka": tables.kafka, "topics": tables.topics, "registry": registry, "review": review}))
    service = processes.start("review", config)
    processes.wait_ready(service, "the review service")
    return service


def durability(
    bootstrap: str, topics: TopicSettings, place: Path, records: int, kills: int, reviewers: int, database_url: str | None
) -> dict[str, Any]:
    """Kill the service `kills` times while reviewers answer, then compare what was acknowledged with the topics."""
    tables = SimpleNamespace(kafka=KafkaSettings(bootstrap_servers=bootstrap), topics=topics, database_url=database_url)
    hold(tables.kafka, topics.quarantine, records)
    port, over, dice = free_port(), threading.Event(), random.Random(0)
    said: list[Acknowledged] = []
    left = threading.Semaphore(reviewers * 25)
    threads = [threading.Thread(target=review, args=(Client(port, f"r{n}", over), said, left), daemon=True) for n in range(reviewers)]
    service = start(tables, place, port)
    try:
        for thread in threads:
            thread.start()
        done = 0
        while done < kills:
            time.sleep(dice.uniform(0.2, 1.2))
            service.send_signal(signal.SIGKILL)
            service.wait()
            assert service.stdout is not None
            service.stdout.close()
            done += 1
            service = start(tables, place, port)
        for thread in threads:
            thread.join(300)
        assert not any(thread.is_alive() for thread in threads), "reviewers are still waiting"
        service.terminate()
        assert service.wait(60) == 0
    finally:
        over.set()
        service.kill()
        service.wait()
        if service.stdout is not None:
            service.stdout.close()
    return {"records": records, "kills": kills, **compared(bootstrap, topics, said)}


def compared(bootstrap: str, topics: TopicSettings, said: list[Acknowledged]) -> dict[str, int]:
    """Compare what was acknowledged with the verdict topic and clean."""
    events = [v for m in messages(bootstrap, topics.verdicts) if (v := wire.read_verdict(m.value())) is not None]
    on_topic = Counter((v.decision_id, v.reviewer, v.is_right) for v in events)
    clean = Counter(wire.last(m.headers(), wire.DECISION_ID) for m in messages(bootstrap, topics.clean))
    right = {v.decision_id for v in events if v.is_right}
    return {
        "acknowledged": len(said),
        "events": len(events),
        "acknowledged_not_once": sum(on_topic[each] != 1 for each in said),
        "events_repeated": sum(count - 1 for count in on_topic.values()),
        "answered_by_two": sum(count > 1 for count in Counter(v.decision_id for v in events).values()),
        "releases_missing": len(right - set(clean)),
        "releases_repeated": sum(count - 1 for count in clean.values()),
        "releases_unasked": len(set(clean) - right),
    }


def speed(bootstrap: str, topics: TopicSettings, place: Path, records: int, asked: int, database_url: str | None) -> dict[str, float]:
    """Return milliseconds to the next record and of an answer with many records open: median and 95th percentile."""
    tables = SimpleNamespace(kafka=KafkaSettings(bootstrap_servers=bootstrap), topics=topics, database_url=database_url)
    hold(tables.kafka, topics.quarantine, records)
    port = free_port()
    begun = time.perf_counter()
    service = start(tables, place, port)
    ready_seconds = time.perf_counter() - begun
    times: dict[str, list[float]] = {"lease": [], "verdict": []}
    client = Client(port, "mei", threading.Event())
    try:
        for number in range(asked):
            assert answered(client, times, {"order": ("uncertainty", "age", "reason")[number % 3]}, "wrong")
    finally:
        client.close()
        processes.end(service)
    return {"open_records": float(records), "ready_seconds": round(ready_seconds, 1), **in_ms(times)}


def answers(bootstrap: str, topics: TopicSettings, place: Path, records: int, reviewers: int, database_url: str | None) -> dict[str, float]:
    """Return how many answers a second reviewers give who never pause, and milliseconds to the next record and of an answer."""
    tables = SimpleNamespace(kafka=KafkaSettings(bootstrap_servers=bootstrap), topics=topics, database_url=database_url)
    hold(tables.kafka, topics.quarantine, records)
    port = free_port()
    service = start(tables, place, port)
    times: dict[str, list[float]] = {"lease": [], "verdict": []}

    def answer(client: Client) -> None:
        with closing(client):
            while answered(client, times, {}, "right"):
                pass

    try:
        begun = time.perf_counter()
        with ThreadPoolExecutor(reviewers) as people:
            list(people.map(answer, [Client(port, f"r{n}", threading.Event()) for n in range(reviewers)]))
        seconds = time.perf_counter() - begun
    finally:
        processes.end(service)
    assert len(times["verdict"]) == records, f"{len(times['verdict'])} of {records} answered"
    return {"reviewers": reviewers, "a_second": round(records / seconds, 1), **in_ms(times)}


def in_ms(times: dict[str, list[float]]) -> dict[str, float]:
    """Return median and 95th percentile of seconds by name, in milliseconds."""
    found = {}
    for name, each in times.items():
        found[f"{name}_ms"] = round(statistics.median(each) * 1e3, 1)
        found[f"{name}_p95_ms"] = round(statistics.quantiles(each, n=20)[-1] * 1e3, 1)
    return found


def answered(client: Client, times: dict[str, list[float]], wanted: dict[str, Any], verdict: str) -> bool:
    """Take the next record and answer it, keeping how long both took; say whether there was one."""
    begun = time.perf_counter()
    _, lease = client.ask("/api/lease", wanted)
    if lease["decision_id"] is None:
        return False
    leased = time.perf_counter()
    status, said = client.ask(verdict_path(lease["decision_id"]), {"lease": lease["lease"], "verdict": verdict})
    assert status == 200, said  # noqa: PLR2004
    times["lease"].append(leased - begun)
    times["verdict"].append(time.perf_counter() - leased)
    return True


def main() -> None:
    """Run all and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=6_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--open", type=int, default=100_000)
    parser.add_argument("--database-url", help="of an empty PostgreSQL database, one for each part: {} is replaced by its name")
    given = parser.parse_args()
    found: dict[str, Any] = {"answers": []}
    for name in ("durability", "speed", *(f"answers{reviewers}" for reviewers in REVIEWERS)):
        url = given.database_url and given.database_url.replace("{}", name)
        with temporary_broker() as broker, tempfile.TemporaryDirectory() as place:
            topics = TopicSettings()
            make_topics(KafkaSettings(bootstrap_servers=broker.address), topics, 4)
            if name == "durability":
                found |= durability(broker.address, topics, Path(place), given.records, given.kills, 10, url)
            elif name == "speed":
                found |= speed(broker.address, topics, Path(place), given.open, 300, url)
            else:
                reviewers = int(name.removeprefix("answers"))
                found["answers"].append(answers(broker.address, topics, Path(place), ANSWERED, reviewers, url))
    keep("review", found)
    wrong = ("acknowledged_not_once", "events_repeated", "answered_by_two", "releases_missing", "releases_repeated", "releases_unasked")
    sys.exit(0 if not any(found[name] for name in wrong) and found["lease_p95_ms"] <= 100 else 1)  # noqa: PLR2004


if __name__ == "__main__":
    main()
