"""Shared parts of the tests: a real Kafka by address, Docker or the embedded one, and a tiny real model.

A skip that apt, pip, npm, Maven or Go could mend is a failure under WINNOW_REQUIRE_ALL=1.
"""

import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from demo.broker import temporary_broker
from demo.twins import UNREADABLE, take
from foundation.logs import quiet_libraries
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decode import decode_value
from stream.records import Content
from stream.render import Rendered, render

quiet_libraries()

WORDS = ("正确", "错误")


def skip_or_fail(reason: str) -> None:
    """Skip with a reason; fail instead where everything installable must run."""
    if os.environ.get("WINNOW_REQUIRE_ALL") == "1":
        pytest.fail(f"WINNOW_REQUIRE_ALL=1 and {reason}")
    pytest.skip(reason)


def kafka_choice(environment: dict[str, str], has_docker: bool) -> str:
    """Return where tests take Kafka from: an address, `docker` or `embedded`."""
    return environment.get("WINNOW_TEST_BOOTSTRAP") or ("docker" if has_docker else "embedded")


def _has_docker() -> bool:
    """Whether a Docker engine answers; a client alone, which many machines have, cannot run Kafka."""
    if not Path("/var/run/docker.sock").exists() and "DOCKER_HOST" not in os.environ:
        return False
    import docker

    client = docker.DockerClient(timeout=2)
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


@pytest.fixture(scope="session")
def bootstrap() -> Iterator[str]:
    """Address of a real Apache Kafka."""
    choice = kafka_choice(dict(os.environ), _has_docker())
    if choice == "docker":
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer("apache/kafka:4.1.0") as container:
            yield container.get_bootstrap_server()
    elif choice == "embedded":
        with temporary_broker() as broker:
            yield broker.address
    else:
        yield choice


@pytest.fixture
def kafka(bootstrap: str) -> KafkaSettings:
    return KafkaSettings(bootstrap_servers=bootstrap, connect_timeout_seconds=20)


@pytest.fixture
def topics(kafka: KafkaSettings) -> TopicSettings:
    """Six fresh topics with three partitions."""
    prefix = f"t{uuid.uuid4().hex[:8]}"
    names = ("records", "clean", "quarantine", "dead_letter", "audit", "verdicts")
    settings = TopicSettings(**{name: f"{prefix}.{name.replace('_', '-')}" for name in names})
    make_topics(kafka, settings, 3)
    return settings


@pytest.fixture(scope="session")
def twin_texts() -> list[Rendered]:
    """Rendered records of the generator."""
    readings = (decode_value(twin.value, "auto") for twin in take(400, 5))
    return [render(reading) for reading in readings if isinstance(reading, Content)]


@pytest.fixture(scope="session")
def starter_directory(twin_texts: list[Rendered], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny starter that has really been trained, for a few steps."""
    from trainer.starter import Plan, Shape, save_starter, train_starter

    directory = tmp_path_factory.mktemp("starter") / "starter"
    shape = Shape(hidden=32, layers=2, heads=2, inner=64, vocabulary=600, max_length=512)
    made = train_starter(twin_texts, WORDS, Plan(steps=5, pairs_per_batch=8), shape)
    contents = [twin.value.decode() for twin in take(400, 5) if twin.truth.kind != UNREADABLE]
    save_starter(made, contents, directory, {"verdict_words": list(WORDS), "steps": made.steps})
    return directory


@pytest.fixture(scope="session")
def registry_url(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry with one published version, the champion."""
    from types import SimpleNamespace

    from model_registry.config import RegistrySettings
    from trainer.config import TrainSettings
    from trainer.train import train_and_publish

    url = str(tmp_path_factory.mktemp("registry"))
    tables = SimpleNamespace(kafka=KafkaSettings(), gate=GateSettings(), registry=RegistrySettings(url=url))
    train_and_publish(tables, TrainSettings(), str(starter_directory), None, None)
    return url


def shown_on_a_terminal(what: RenderableType) -> str:
    """Return what rich would write to a terminal a hundred characters wide, without colours."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    console.print(what)
    return str(console.file.getvalue())  # type: ignore[attr-defined]
