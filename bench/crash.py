"""Kill test: gates killed with SIGKILL at every step and started again, two in the group, members coming and going.

A read_committed reader runs throughout and another one counts at the end: every input offset on exactly one output
topic, once, order per key kept. The last line is one JSON object.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer

from bench.constant import save_tokenizer
from bench.crash_gate import STEPS, run, victims
from bench.machine import keep
from demo.broker import temporary_broker
from demo.ledger import read_ledger
from demo.run import RULES
from demo.stream import produce
from demo.twins import take
from stream.cluster import make_topics
from stream.config import KafkaSettings, TopicSettings
from stream.decode import decode_value
from stream.records import Content
from stream.render import render

PARTITIONS = 6
_GIVE_UP_SECONDS = 900


class Watcher(threading.Thread):
    """Reads the outputs with read_committed while gates die, and remembers every decision id it saw twice."""

    def __init__(self, bootstrap: str, topics: TopicSettings) -> None:
        """Subscribe to the three outputs from their beginning."""
        super().__init__(daemon=True)
        self.seen: set[str] = set()
        self.twice: list[str] = []
        self._over = threading.Event()
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "watcher", "isolation.level": "read_committed", "auto.offset.reset": "earliest"}
        )
        self._consumer.subscribe([topics.clean, topics.quarantine, topics.dead_letter])

    def run(self) -> None:
        """Read until told to stop."""
        while not self._over.is_set():
            for message in self._consumer.consume(500, 0.2):
                if message.error() is None:
                    decision_id = dict(message.headers() or [])["winnow.decision-id"].decode()
                    if decision_id in self.seen:
                        self.twice.append(decision_id)
                    self.seen.add(decision_id)
        self._consumer.close()

    def stop(self) -> None:
        """End the reading."""
        self._over.set()
        self.join()


def crash(bootstrap: str, topics: TopicSettings, records: int, kills: int, seed: int, protocol: str, slow: int) -> dict[str, Any]:
    """Run the kill test on a broker whose topics exist; `slow` limits records per poll so that kills find work."""
    rng = random.Random(seed)
    kafka = KafkaSettings(bootstrap_servers=bootstrap)
    twins = take(records, seed)
    texts = [render(c).text for twin in twins[:500] if isinstance(c := decode_value(twin.value, "auto"), Content)]
    with tempfile.TemporaryDirectory() as place:
        save_tokenizer(texts, Path(place))
        asked: dict[str, Any] = {
            "kafka": {"bootstrap_servers": bootstrap, "group_protocol": protocol},
            "topics": topics.model_dump(),
            "gate": {"group": topics.records, "metrics_port": 0, "max_poll_records": slow},
            "rules": str(RULES),
            "tokenizer": place,
        }
        watcher = Watcher(bootstrap, topics)
        watcher.start()
        feeder = threading.Thread(target=lambda: [produce(kafka, topics.records, twins[at : at + 500]) for at in range(0, records, 500)])
        feeder.start()
        killed = _kill(asked, kills, rng)
        feeder.join()
        final = [_start({**asked, "until_idle": 3.0}) for _ in range(2)]
        for process in final:
            process.join(_GIVE_UP_SECONDS)
        watcher.stop()
    ledger = read_ledger(bootstrap, topics)
    return {
        "records": ledger.records,
        "kills": sum(killed.values()),
        "kills_by_step": killed,
        "lost": len(ledger.lost),
        "repeated": len(ledger.repeated) + len(watcher.twice),
        "disordered": ledger.disordered,
        "protocol": protocol,
        "by_topic": ledger.by_topic,
    }


def _kill(asked: dict[str, Any], kills: int, rng: random.Random) -> dict[str, int]:
    """Keep two gates in the group; each is to die at a step in turn, and is started again when it has."""
    killed = dict.fromkeys([*STEPS, "any-moment"], 0)
    steps = [*STEPS, "any-moment"]
    turn = 0
    running: list[tuple[BaseProcess, str, float]] = []
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while sum(killed.values()) < kills and time.monotonic() < deadline:
        while len(running) < 2:
            step = steps[turn % len(steps)]
            turn += 1
            victim = {**asked, "die_at": step, "after": 1 if step == "joining" else rng.randint(1, 4)}
            running.append((_start(victim), step, time.monotonic() + rng.uniform(1, 4)))
        for entry in list(running):
            process, step, until = entry
            if process.is_alive() and time.monotonic() > until + (0 if step == "any-moment" else 10):
                process.kill()
                process.join()
                step = "any-moment"
            if not process.is_alive():
                killed[step] += 1
                running.remove(entry)
        time.sleep(0.05)
    for process, _, _ in running:
        process.terminate()
        process.join(30)
    return killed


def _start(asked: dict[str, Any]) -> BaseProcess:
    process = victims().Process(target=run, args=(asked,))
    process.start()
    return process


def main() -> None:
    """Run on an embedded broker and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=45)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--protocol", choices=("consumer", "classic"), default="consumer")
    given = parser.parse_args()
    with temporary_broker() as broker:
        topics = TopicSettings()
        make_topics(KafkaSettings(bootstrap_servers=broker.address), topics, PARTITIONS)
        found = crash(broker.address, topics, given.records, given.kills, given.seed, given.protocol, 300)
    keep(f"crash-{given.protocol}", found)
    sys.exit(0 if found["lost"] == found["repeated"] == found["disordered"] == 0 else 1)


if __name__ == "__main__":
    main()
