"""An upgrade and its way back: what an older winnow left on its topics and in its registry is read by this one, and goes on.

The older one is of contract version 2; tests/golden/older/record.py says how its traces were recorded.
"""

import base64
import gzip
import io
import json
import tarfile
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_registry.config import RegistrySettings
from model_registry.registry import CHAMPION, Registry
from review.config import ReviewSettings
from review.serve import service
from stream import wire
from stream.boot import run_gate
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.schemas import Schemas
from tests.integration.conftest import read_all, send
from tests.integration.reviewing import Page, events, released
from trainer.config import TrainSettings
from trainer.train import train_and_publish
from trainer.verdicts import read_snapshot, settle

pytestmark = pytest.mark.integration

OLDER = Path(__file__).parents[1] / "golden" / "older"
Left = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def left() -> Left:
    """What lay on the older winnow's topics."""
    found: Left = json.loads(gzip.decompress((OLDER / "topics.json.gz").read_bytes()))
    for kept in found.values():
        for message in kept:
            message |= {name: None if message[name] is None else base64.b64decode(message[name]) for name in ("key", "value")}
            message["headers"] = [(name, None if value is None else base64.b64decode(value)) for name, value in message["headers"]]
    return found


@pytest.fixture
def registry(tmp_path: Path) -> RegistrySettings:
    """A copy of the older winnow's registry."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress((OLDER / "registry.tar.gz").read_bytes()))) as archive:
        archive.extractall(tmp_path, filter="data")
    return RegistrySettings(url=str(tmp_path / "registry"))


def put(kafka: KafkaSettings, topics: TopicSettings, left: Left, *kinds: str) -> None:
    """Write what lay on these topics, each message as it was."""
    for kind in kinds:
        send(kafka, getattr(topics, kind), left[kind])


def said_of(found: list[Any]) -> dict[str, tuple[str | None, str | None, bytes]]:
    """Return reason, p_chosen and value of every decision of a gate."""
    decided = [(headers, value) for headers, value in found if wire.last(headers, wire.ORIGIN) == "gate"]
    return {
        str(wire.last(headers, wire.DECISION_ID)).partition(":")[2]: (
            wire.last(headers, wire.REASON),
            wire.last(headers, wire.P_CHOSEN),
            value,
        )
        for headers, value in decided
    }


def test_the_gate_judges_with_the_older_registry_as_the_older_gate_did(
    kafka: KafkaSettings, topics: TopicSettings, registry: RegistrySettings, left: Left
) -> None:
    put(kafka, topics, left, "records")
    run_gate(kafka, topics, GateSettings(group=topics.records, metrics_port=0, precision="float32"), registry, until_idle_seconds=1.0)
    for kind in ("clean", "quarantine", "dead_letter"):
        before = said_of([(message["headers"], message["value"]) for message in left[kind]])
        now = said_of([(m.headers(), m.value()) for m in read_all(kafka, getattr(topics, kind))])
        assert set(now) == set(before), kind
        for name, (reason, p_chosen, value) in before.items():
            assert (now[name][0], now[name][2]) == (reason, value)
            assert p_chosen is None or abs(float(now[name][1] or "nan") - float(p_chosen)) < 2e-5


def test_people_go_on_where_they_were_and_the_trainer_knows_what_they_said(
    kafka: KafkaSettings, topics: TopicSettings, registry: RegistrySettings, left: Left, tmp_path: Path
) -> None:
    put(kafka, topics, left, "clean", "quarantine", "audit", "verdicts")
    review = ReviewSettings(database_url=f"sqlite:///{tmp_path}/review.sqlite3", second_share=0.0)
    tables = SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), review=review, registry=registry)
    answered = {json.loads(message["value"])["decision_id"] for message in left["verdicts"]}
    shown = {wire.last(m["headers"], wire.DECISION_ID) for kind in ("quarantine", "audit") for m in left[kind]}
    with service(tables) as running:
        page = Page(running)
        counts = page.get("/api/counts")
        assert counts["done"] == len(answered) == 7
        assert counts["open"] == len(shown - answered) > 0
        lease = page.lease()
        assert lease["decision_id"] in shown - answered
        assert lease["record"]["fields"], "it can be read"
        page.answer(lease, "right")
        releases = [m for m in released(tables, len(left["clean"]) + 1) if wire.last(m.headers(), wire.ORIGIN) == "release"]
        assert len({wire.last(m.headers(), wire.DECISION_ID) for m in releases}) == len(releases)
    *older, new = events(tables)
    assert len(older) == 7
    for name, value in older[0].items():
        assert name in new, "what an older reader looks for is there"
        assert value is None or new[name] is None or type(new[name]) is type(value), name
    with closing(Schemas(kafka)) as schemas:
        snapshot = read_snapshot(kafka, topics.verdicts, schemas=schemas)
    settled = settle(snapshot.verdicts)
    assert (len(settled), snapshot.unreadable) == (8, 0)
    assert sum(each.correction is not None for each in settled) == 1


def test_a_version_of_now_is_promoted_over_an_older_one_and_taken_back(
    kafka: KafkaSettings,
    topics: TopicSettings,
    registry: RegistrySettings,
    starter_directory: Path,
    left: Left,
) -> None:
    versions = Registry(registry)
    older = versions.verified(CHAMPION)
    tables = SimpleNamespace(kafka=kafka, gate=GateSettings(), registry=registry)
    made = train_and_publish(tables, TrainSettings(), str(starter_directory), None, None)
    versions.point(CHAMPION, str(made.number), "test")
    assert versions.verified(CHAMPION).digest == made.digest
    versions.rollback()
    assert versions.verified(CHAMPION).digest == older.digest, "the older version serves again, and its files are untouched"
    put(kafka, topics, left, "records")
    run_gate(kafka, topics, GateSettings(group=topics.records, metrics_port=0), registry, until_idle_seconds=1.0)
    labels = {wire.last(m.headers(), wire.MODEL_DIGEST) for m in read_all(kafka, topics.clean)}
    assert older.digest in labels <= {older.digest, None}
