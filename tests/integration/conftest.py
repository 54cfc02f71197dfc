"""Helpers of the integration tests: producing raw records and running a gate until it is idle."""

import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from bench.postgresql import postgresql
from bench.s3 import S3Server, s3_server
from demo.ledger import messages
from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from stream.boot import run_gate
from stream.config import GateSettings, KafkaSettings, TopicSettings
from tests.debian import postgres
from tests.s3 import moto_python

WINNOW = [sys.executable, "-m", "winnow"]


def send(kafka: KafkaSettings, topic: str, records: list[dict[str, object]], **config: object) -> None:
    """Produce records given as produce()'s own arguments, and fail on any that is not acknowledged."""
    failed: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "message.max.bytes": 10_000_000,
            "linger.ms": 5,
            "on_delivery": lambda error, _message: failed.append(error.str()) if error else None,
            **config,
        }
    )
    for record in records:
        producer.produce(topic, **record)  # type: ignore[arg-type]
        producer.poll(0)
    assert producer.flush(30) == 0
    assert failed == []


def limit(kafka: KafkaSettings, topic: str, entries: dict[str, str]) -> None:
    """Set a topic's settings."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    changes = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in entries.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=changes)
    admin.incremental_alter_configs([resource])[resource].result(20)


def wait_until(is_so: Callable[[], bool], seconds: float = 90) -> None:
    """Ask again and again; fail when it is not so in time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {seconds:g} seconds"
        time.sleep(0.1)


def read_all(kafka: KafkaSettings, topic: str) -> list[Message]:
    return list(messages(kafka.bootstrap_servers, topic))


@pytest.fixture
def write_config(tmp_path: Path, kafka: KafkaSettings, topics: TopicSettings, registry_url: str) -> Callable[..., Path]:
    """Write a winnow.toml for these topics; keyword arguments add to [gate]."""

    def write(**gate: object) -> Path:
        path = tmp_path / "winnow.toml"
        named = "".join(f'{name} = "{value}"\n' for name, value in topics.model_dump().items())
        more = "".join(f"{name} = {value!r}\n" for name, value in gate.items())
        path.write_text(
            f'[kafka]\nbootstrap_servers = "{kafka.bootstrap_servers}"\nconnect_timeout_seconds = 5\n[topics]\n{named}'
            f'[registry]\nurl = "{registry_url}"\n[gate]\ngroup = "{topics.records}"\nmetrics_port = 0\n{more}'
        )
        return path

    return write


@pytest.fixture
def run_until_idle(kafka: KafkaSettings, topics: TopicSettings, registry_url: str) -> Callable[..., None]:
    """Run a gate in this process until its group is idle."""

    def run(**gate: object) -> None:
        settings = GateSettings.model_validate({"group": topics.records, "metrics_port": 0, **gate})
        run_gate(kafka, topics, settings, RegistrySettings(url=registry_url), until_idle_seconds=1.0)

    return run


def winnow(*arguments: str | Path, timeout: float = 300, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line and return what it said."""
    return subprocess.run([*WINNOW, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A real PostgreSQL on a free port of 127.0.0.1; yields its URL without a database."""
    # not below pytest's own directory, which every pytest that starts closes to others, PostgreSQL's user among them
    with tempfile.TemporaryDirectory(prefix="winnow-postgresql-") as place, postgresql(postgres(), Path(place)) as server:
        yield server.url


@pytest.fixture
def postgresql_url(postgresql_server: str) -> str:
    """A new database on the PostgreSQL of this run."""
    name = f"t{uuid.uuid4().hex[:8]}"
    engine = sqlalchemy.create_engine(f"{postgresql_server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{postgresql_server}/{name}"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server process on a free port of 127.0.0.1."""
    with s3_server(moto_python(), tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def s3_url(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a registry in a new bucket; the environment says how to reach it, and copies go to a cache of this test."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    bucket = f"b{uuid.uuid4().hex[:8]}"
    s3.make_bucket(bucket)
    return f"s3://{bucket}/models/winnow"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database for the review service, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/review.sqlite3"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def tables(kafka: KafkaSettings, topics: TopicSettings, database_url: str, tmp_path: Path) -> SimpleNamespace:
    """Settings of a review service of its own."""
    review = ReviewSettings(database_url=database_url, second_share=0.0, lease_seconds=60)
    registry = RegistrySettings(url=str(tmp_path / "registry"))
    return SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), review=review, registry=registry)


@pytest.fixture
def page(tables: SimpleNamespace) -> Iterator[Any]:
    """A reviewer's browser at a review service of its own."""
    from review.serve import service
    from tests.integration.reviewing import Page

    with service(tables) as running:
        yield Page(running)
