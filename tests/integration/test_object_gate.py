"""What people do with a registry in a bucket: every verb, a gate that boots from it and follows it, and a store that is not there."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client import generate_latest
from typer.testing import CliRunner

import winnow as front
from demo.broker import free_port
from demo.stream import produce
from demo.twins import take
from foundation.errors import RegistryUnreachable, SettingInvalid
from model_registry.config import RegistrySettings
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from stream import wire
from stream.boot import run_gate
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decide import Lotteries
from stream.follow import Follower, Lasting, Service, make_service
from stream.live_model import load_live_model
from stream.metrics import GateMetrics
from stream.rules import Rules
from tests.integration.conftest import read_all, wait_until, winnow
from trainer.config import TrainSettings
from trainer.train import train_and_publish

pytestmark = pytest.mark.integration


@pytest.fixture
def published(s3_url: str, registry_url: str) -> Registry:
    """A champion and a challenger in the bucket: one trained model, published twice."""
    trained, found = Registry(RegistrySettings(url=registry_url)).verified(CHAMPION), Registry(RegistrySettings(url=s3_url))
    for alias, created in ((CHAMPION, "2026-01-01"), (CHALLENGER, "2026-01-02")):
        version = found.publish(trained.directory, trained.manifest.model_copy(update={"created": created}))
        found.point(alias, str(version.number), "test")
    assert found.aliases() == {CHALLENGER: 2, CHAMPION: 1}
    return found


def follower(registry: Registry, **gate: Any) -> Follower:
    settings = GateSettings(**gate)
    rules = Rules.load(None)

    def make(rules: Rules, model: object, like: Service | None = None) -> Service:
        return make_service(settings, Lasting({}, Lotteries()), rules, model, like)  # type: ignore[arg-type]

    current = make(rules, load_live_model(registry.verified(CHAMPION), settings))
    return Follower(registry, settings, make, current, GateMetrics(rules))


def shown(metrics: GateMetrics, line: str) -> bool:
    return line in generate_latest(metrics.registry).decode().splitlines()


def test_every_verb_works_on_a_bucket(published: Registry, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_REGISTRY__URL", s3_url)

    def said(*arguments: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(front.app, ["registry", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    assert [(each["version"], each["aliases"]) for each in said("list")] == [("winnow@1", ["champion"]), ("winnow@2", ["challenger"])]
    assert said("show", "challenger")[0]["digest"] == published.resolve("2").digest
    assert said("verify", "2")[0]["verified"]
    said("promote", "2")
    assert published.resolve(CHAMPION).number == 2
    assert said("rollback")[0]["version"] == "winnow@1"
    assert published.is_pinned()
    said("unpin")
    assert not published.is_pinned()
    said("export", "champion", str(tmp_path / "out"))
    assert said("import", str(tmp_path / "out"), "--template", "chat")[0]["version"] == "winnow@3"
    assert published.verified("3").manifest.method == "imported"


def test_train_publishes_to_the_bucket(s3_url: str, starter_directory: Path) -> None:
    settings = RegistrySettings(url=s3_url)
    tables = SimpleNamespace(kafka=KafkaSettings(), gate=GateSettings(), registry=settings)
    version = train_and_publish(tables, TrainSettings(), str(starter_directory), None, None)
    registry = Registry(settings)
    assert registry.aliases() == {CHAMPION: 1}
    assert load_live_model(registry.verified(CHAMPION), GateSettings()).digest == version.digest


def test_a_running_follower_takes_up_a_champion_from_the_bucket(published: Registry) -> None:
    it = follower(Registry(RegistrySettings(url=published._store.place)), watch_seconds=0.05, shadow_share=1.0)
    it.start()
    taken: list[Service] = []

    def has_taken(is_so: Callable[[Service], bool]) -> bool:
        service = it.take()
        if service is not None:
            taken.append(service)
        return bool(taken) and is_so(taken[-1])

    try:
        wait_until(lambda: has_taken(lambda service: service.shadow is not None), 30)
        published.promote("2")
        second = published.resolve("2").digest
        wait_until(lambda: has_taken(lambda service: service.judge.model.digest == second), 30)  # type: ignore[union-attr]
        assert taken[-1].shadow is None  # the challenger is champion now
        published.rollback()
        first = published.resolve("1").digest
        wait_until(lambda: has_taken(lambda service: service.judge.model.digest == first), 30)  # type: ignore[union-attr]
    finally:
        it.stop()


def test_an_outage_is_said_once_and_the_old_model_serves_on(
    published: Registry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    it = follower(published, shadow_share=1.0)
    it._look()
    before = it.take()
    assert before is not None
    assert before.shadow is not None
    bucket = published._store._bucket  # type: ignore[attr-defined]
    small = bucket._small
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    bucket._small = bucket._client({"timeout": "1s"})
    for _ in range(3):
        it._look()
    assert it.take() is None
    assert it._current is before
    assert shown(it._metrics, 'winnow_refused_total{what="unreachable"} 6.0')
    assert [record.message for record in caplog.records] == ["refused, the old one serves on"] * 2  # champion and challenger
    bucket._small = small
    published.promote("2")
    it._look()
    taken = it.take()
    assert taken is not None
    assert taken.judge.model is not None
    assert taken.judge.model.digest == published.resolve("2").digest


def test_a_gate_boots_from_the_bucket_and_swaps(kafka: KafkaSettings, topics: TopicSettings, published: Registry, s3_url: str) -> None:
    first, second = (published.resolve(number).digest for number in "12")
    port = free_port()
    settings = GateSettings(group=topics.records, metrics_port=port, instance="s3", watch_seconds=0.1, audit_rate=0.0, audit_extra_rate=0.0)
    produce(kafka, topics.records, take(50, 1, unreadable_share=0.0))
    steps: list[str] = []
    gate = threading.Thread(target=run_gate, args=(kafka, topics, settings, RegistrySettings(url=s3_url), 8.0, steps.append))
    gate.start()
    wait_until(lambda: "committed" in steps, 60)
    published.promote("2")
    wait_until(lambda: in_service(port) == second, 30)
    produce(kafka, topics.records, take(50, 2, unreadable_share=0.0))
    gate.join(120)
    out = [message for topic in (topics.clean, topics.quarantine) for message in read_all(kafka, topic)]
    assert len(out) == 100
    assert {wire.last(message.headers(), wire.MODEL_DIGEST) for message in out} - {None} == {first, second}


def in_service(port: int) -> str | None:
    """Return the digest that a gate's metrics name."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = re.search(r'winnow_model_info{digest="([^"]+)"', answer.read().decode())
    return found and found[1]


# a store that is not there, or says no


def answered(status: int, body: str) -> Iterator[str]:
    """Run a server that answers everything alike; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_PUT = do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def refusing() -> Iterator[str]:
    yield from answered(403, "<Error><Code>InvalidAccessKeyId</Code><Message>No such key</Message></Error>")


@pytest.fixture
def broken() -> Iterator[str]:
    yield from answered(500, "<Error><Code>InternalError</Code></Error>")


def refused(url: str, *asks: str) -> str:
    """Return the sentence of each way to ask, which must be one and soon."""
    sentences = set()
    for ask in asks or ("versions", "aliases", "resolve"):
        begun = time.monotonic()
        with pytest.raises(RegistryUnreachable) as caught:
            registry = Registry(RegistrySettings(url=url))
            registry.resolve(CHAMPION) if ask == "resolve" else getattr(registry, ask)()
        assert time.monotonic() - begun < 15
        assert caught.value.exit_code == 4
        assert caught.value.__cause__ is None
        sentences.add(str(caught.value))
    assert len(sentences) == 1, sentences
    sentence = sentences.pop()
    assert "\n" not in sentence
    assert len(sentence) < 300
    assert "not-a-secret" not in sentence
    return sentence


def test_a_store_that_is_not_there_is_one_sentence(s3_url: str, silent: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    for endpoint, asks in ((nowhere, ()), (silent, ("resolve",)), (broken, ())):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert refused(s3_url, *asks).startswith(f"the object store of registry.url = {s3_url} cannot be used at {endpoint}: ")


def test_a_bucket_that_is_missing_is_named(s3_url: str) -> None:
    assert refused("s3://nowhere/models") == "the object store of registry.url = s3://nowhere/models has no bucket nowhere"


def test_refused_and_missing_credentials_are_named(s3_url: str, refusing: str, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", refusing)
    assert "refuses the credentials of the environment; see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refused(s3_url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", broken)  # where a machine of Amazon's would give some
    assert "wants credentials, and the environment has none; set AWS_ACCESS_KEY_ID and AWS" in refused(s3_url)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    assert "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY" in refused("az://container/models")


def test_unencrypted_http_has_to_be_allowed(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP")
    assert refused(s3_url).endswith("is to be asked over http://, unencrypted; set AWS_ALLOW_HTTP=true to allow that")


def test_credentials_in_the_setting_are_refused_and_not_repeated() -> None:
    for url in ("s3://key:not-a-secret@bucket/models", "az://container/models?sig=not-a-secret", "gs://bucket/#not-a-secret"):
        with pytest.raises(SettingInvalid, match="holds more than a bucket and a prefix; credentials are environment names") as caught:
            Registry(RegistrySettings(url=url))
        assert "secret" not in str(caught.value)
    with pytest.raises(SettingInvalid, match="s3:/// names no bucket; use s3://BUCKET/PREFIX"):
        Registry(RegistrySettings(url="s3:///"))


def test_gate_and_registry_refuse_at_boot_with_exit_code_4(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINNOW_REGISTRY__URL", s3_url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    for verb in (["gate"], ["registry", "list"]):
        done = winnow(*verb, timeout=60)
        assert done.returncode == 4, done.stderr
        assert done.stderr.startswith(f"winnow: the object store of registry.url = {s3_url} cannot be used")
        assert len(done.stderr.splitlines()) == 1


def test_who_keeps_versions_in_a_directory_needs_no_client(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom model_registry.config import RegistrySettings\nfrom model_registry.registry import Registry\n"
        f"Registry(RegistrySettings(url={str(tmp_path)!r})).versions()\nsys.exit('obstore' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
