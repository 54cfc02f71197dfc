"""`winnow demo`: a real Kafka, a generated stream, a model trained in front of you, a gate, reviewers, and a better model.

Every step is what the commands of the same name do. Each round people answer what was held or drawn, a cycle trains on their
verdicts, and the running gate takes the new version up while the next part of the stream comes. Progress and the summary go
to stderr, where the first line says where the review page is; the last line of stdout is one JSON object.
"""

import contextlib
import importlib
import json
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

from rich.console import Console

from demo.broker import free_port, temporary_broker
from demo.processes import running, wait_ready
from demo.reviewer import Account
from demo.scene import Scene
from demo.stream import produce
from demo.twins import take
from foundation.errors import WinnowError
from foundation.settings import as_toml
from model_registry.config import RegistrySettings
from review.auth import OPERATOR, REVIEWER, add_user
from review.config import ReviewSettings
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from trainer.config import TrainSettings

PART_RECORDS = 5_000
STARTER_MINUTES = 1.7
PARTITIONS = 4
REVIEWERS = 16
METRICS_PORT = 9464
YOU = "you"
RULES = Path(__file__).with_name("rules.toml")


def run_demo(records: int | None, *, keep: bool, seed: int, rounds: int = 1, starter_minutes: float = STARTER_MINUTES) -> None:
    """Run the whole loop and print the summary; raises WinnowError if a record was lost or repeated."""
    console = Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, soft_wrap=True, width=150)
    count = PART_RECORDS if records is None else records // (rounds + 1)
    begun = time.monotonic()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ended_by_sigterm())
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="winnow-demo-", ignore_cleanup_errors=True)))
        port = free_port()
        console.print(f"review page: http://127.0.0.1:{port} in a moment; log in as {YOU}, the password is in {place / 'password'}")
        beside = stack.enter_context(ThreadPoolExecutor(1))
        loaded = beside.submit(importlib.import_module, "demo.story")  # torch, transformers and TRL take as long as Kafka to come up
        accounts = _accounts(place)
        with console.status("starting Apache Kafka"):
            broker = stack.enter_context(temporary_broker())
        console.print(f"Kafka is ready at {broker.address}; {rounds + 1} parts of {count} records, seed {seed}")
        tables = _tables(broker.address, place, port, keep=keep)
        config = place / "winnow.toml"
        config.write_text(as_toml(vars(tables)), encoding="utf-8")
        make_topics(tables.kafka, tables.topics, PARTITIONS)
        page = stack.enter_context(running("review", config))
        truth = produce(tables.kafka, tables.topics.records, take(count, seed))
        console.print(f"{count} records of digital twins are on {tables.topics.records}; what is true of them stays here")
        scene = Scene(tables, config, wait_ready(page, "the review service"), accounts, place / "starter", starter_minutes, console, truth)
        loaded.result()
        from demo.story import tell  # noqa: PLC0415

        found = {**tell(scene, stack, count, rounds, seed), "seconds": round(time.monotonic() - begun, 1)}
        if keep:
            _stay(console, broker.address, port, config)
        print(json.dumps(found, ensure_ascii=False), flush=True)  # noqa: T201
        if found["lost"] or found["repeated"]:
            raise WinnowError(f"{found['lost']} records lost and {found['repeated']} repeated")


def _accounts(place: Path) -> list[Account]:
    """Write the users file, with passwords of this run alone, and return the simulated reviewers; the visitor's own lies in a file."""
    password = secrets.token_urlsafe(12)
    (place / "password").touch(mode=0o600)
    (place / "password").write_text(password + "\n", encoding="utf-8")
    add_user(place / "users.toml", YOU, password, (OPERATOR,))
    accounts = [Account(f"reviewer-{number}", secrets.token_urlsafe(12)) for number in range(1, REVIEWERS + 1)]
    for account in accounts:
        add_user(place / "users.toml", account.name, account.password, (REVIEWER,))
    return accounts


def _tables(address: str, place: Path, port: int, *, keep: bool) -> SimpleNamespace:
    # a day's stream goes by in seconds, so that much more of it must be looked at than anybody would of a real one
    lotteries = {"audit_rate": 0.1, "audit_extra_rate": 0.4, "audit_near": 4.0}
    gate = GateSettings(rules_file=RULES, metrics_port=METRICS_PORT if keep else 0, watch_seconds=0.5, **lotteries)
    return SimpleNamespace(
        kafka=KafkaSettings(bootstrap_servers=address),
        topics=TopicSettings(),
        gate=gate,
        registry=RegistrySettings(url=str(place / "registry")),
        train=TrainSettings(alpha=0.05, contrastive_per_verdict=1.0, epochs=2.5, held_out_share=0.5),
        review=ReviewSettings(port=port, users_file=place / "users.toml", database_url=f"sqlite:///{place}/review.sqlite3", wrong_looks=3),
    )


def _stay(console: Console, address: str, port: int, config: Path) -> None:
    """Stay up until Ctrl-C or SIGTERM, saying where everything is."""
    console.print(f"Kafka: {address}   metrics: http://127.0.0.1:{METRICS_PORT}/metrics   review page: http://127.0.0.1:{port}")
    console.print(f"Any command of winnow with --config {config}, such as: winnow produce --twins 1000 --topic twin.records; Ctrl-C ends")
    with contextlib.suppress(KeyboardInterrupt):
        signal.pause()


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind what was started, as Ctrl-C does."""

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
