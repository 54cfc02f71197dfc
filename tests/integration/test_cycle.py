"""One retraining from the verdict topic: what it learns from, what it certifies, what it promotes, and what it refuses."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.twins import Twin, take
from foundation.errors import DataRefused, SettingInvalid
from model_registry.config import RegistrySettings
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from model_registry.report import REPORT_HTML, REPORT_JSON
from review.config import ReviewSettings
from stream import wire
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decide import ticket
from stream.records import Lottery, Verdict
from stream.tail import latest
from tests.integration.conftest import send
from trainer.audited import AuditedErrors
from trainer.bases import load_base
from trainer.config import TrainSettings
from trainer.cycle import _base_of, _unread, as_fields, run_cycle
from trainer.train import train_and_publish
from trainer.unlabelled import stream_of_cycle
from trainer.verdicts import read_snapshot
from trainer.watch import new_verdicts

pytestmark = pytest.mark.integration


@pytest.fixture
def tables(kafka: KafkaSettings, topics: TopicSettings, tmp_path: Path) -> Any:
    train = TrainSettings(epochs=1, batch_size=8, contrastive_per_verdict=1)
    registry = RegistrySettings(url=str(tmp_path / "registry"))
    return SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), registry=registry, train=train, review=ReviewSettings())


def say(tables: Any, twins: Sequence[Twin], first: int = 0, **more: object) -> None:
    """Put verdicts on the topic as the review service would."""
    messages = []
    for number, twin in enumerate(twins, start=first):
        said = {
            "decision_id": f"t:0:{number}", "topic_id": "", "is_right": not twin.truth.is_wrong, "reviewer": "mei", "time_ms": number,
            "key": twin.key, "value": twin.value, "content_type": "json", "p_chosen": 0.5, "threshold": 0.5, "model_digest": None,
            "reason": "model", "source": "quarantine", "propensity": 1.0, "lottery": None, "blind": False, **more,
        }  # fmt: skip
        verdict = Verdict(**said)  # type: ignore[arg-type]
        messages.append({"key": verdict.decision_id.encode(), "value": wire.verdict_event(verdict)})
    send(tables.kafka, tables.topics.verdicts, messages)  # type: ignore[arg-type]


def twins(count: int, seed: int) -> list[Twin]:
    return take(count, seed, wrong_share=0.4, unreadable_share=0.0)


def test_a_cycle_learns_compares_and_says_why(tables: Any, starter_directory: Path) -> None:
    base = str(starter_directory)
    first = train_and_publish(tables, tables.train, base, None, None)
    with pytest.raises(DataRefused, match="holds no verdict to learn from"):
        run_cycle(tables, tables.train, base, None)
    say(tables, twins(200, 1))
    say(tables, twins(70, 2), 1_000, source="audit", propensity=0.1, lottery="flat", blind=True)
    send(tables.kafka, tables.topics.verdicts, [{"value": b"unreadable"}])
    registry = Registry(tables.registry)
    assert new_verdicts(registry, tables) == 270
    cycle = run_cycle(tables, tables.train, base, None)
    manifest = cycle.version.manifest
    assert manifest.parent == first.label
    assert 40 < manifest.data_counts["flat"] < 70, "some of the draws are in the hold-out"
    assert manifest.data_counts["train"] + manifest.data_counts["suspects"] + manifest.data_counts["held_out"] == 270
    assert sum(manifest.verdict_offsets.values()) >= 271
    assert manifest.threshold.certified is False
    assert "audit draws" in manifest.threshold.reason
    assert cycle.comparison is not None
    assert registry.aliases()[CHALLENGER] == cycle.version.number
    assert (registry.aliases()[CHAMPION] == cycle.version.number) == cycle.promotion.promoted
    assert new_verdicts(registry, tables) == 0
    report = json.loads((cycle.version.directory / REPORT_JSON).read_text())
    assert report["losses"]
    assert len(report["p_flat"]) == manifest.data_counts["flat"]
    html = (cycle.version.directory / REPORT_HTML).read_text()
    assert {REPORT_HTML, REPORT_JSON} <= set(manifest.files)
    for twin in twins(200, 1)[:20]:
        assert twin.value.decode()[:40] not in html, "a report holds no record"
    assert json.loads(json.dumps(as_fields(cycle)))["certificate"] is None
    registry.verified(str(cycle.version.number))


def test_the_same_snapshot_again_gives_the_same_data_and_a_pin_holds(tables: Any, starter_directory: Path) -> None:
    base = str(starter_directory)
    train_and_publish(tables, tables.train, base, None, None)
    train_and_publish(tables, tables.train, base, None, None)
    say(tables, twins(500, 3))
    registry = Registry(tables.registry)
    registry.promote("2")
    registry.rollback()
    once = run_cycle(tables, tables.train, base, None)
    assert not once.promotion.promoted
    assert "pinned" in once.promotion.why
    snapshot = read_snapshot(tables.kafka, tables.topics.verdicts)
    say(tables, twins(20, 4), 1_000)
    frozen = read_snapshot(tables.kafka, tables.topics.verdicts, until=snapshot.offsets)
    assert (frozen.digest, len(frozen.verdicts)) == (snapshot.digest, 500)
    again = run_cycle(tables, tables.train, base, None)
    assert again.version.manifest.data_digest != once.version.manifest.data_digest
    assert registry.aliases()[CHAMPION] == 1


def test_the_champion_itself_can_be_trained_on(tables: Any, starter_directory: Path) -> None:
    first = train_and_publish(tables, tables.train, str(starter_directory), None, None)
    say(tables, twins(60, 5))
    settings = tables.train.model_copy(update={"noise": "smooth"})
    with pytest.raises(DataRefused, match="no unlabelled record in .* to mix in"):
        run_cycle(tables, settings, None, None)
    send(tables.kafka, tables.topics.records, [{"value": twin.value} for twin in twins(300, 15)])
    cycle = run_cycle(tables, settings, None, None)
    manifest = cycle.version.manifest
    assert manifest.base == first.label
    assert manifest.data_counts["contrastive"] == manifest.data_counts["train"], "verdicts are never trained on alone"
    registry = Registry(tables.registry)
    learned, base = _base_of(None, cycle.version), load_base(str(starter_directory))
    judge = _unread(registry, learned, cycle.version)
    assert judge is not None
    assert judge.name == first.label, "what a verdict has taught finds it probable"
    assert _unread(registry, base, cycle.version) is base
    with pytest.raises(SettingInvalid, match=f"{first.label} was made with"):
        run_cycle(tables, settings.model_copy(update={"verdict_words": ("right", "wrong")}), None, None)


def test_drift_is_heard_of_in_the_verdicts_and_a_cycle_answers_it(tables: Any, starter_directory: Path) -> None:
    base = str(starter_directory)
    champion = train_and_publish(tables, tables.train, base, None, None)
    registry = Registry(tables.registry)
    drawn = {"source": "audit", "propensity": 0.1, "lottery": "flat", "blind": True, "model_digest": champion.digest}
    audited = AuditedErrors(0.002)
    right, wrong = ([twin for twin in twins(900, 8) if twin.truth.is_wrong is is_wrong] for is_wrong in (False, True))
    say(tables, right[:400], **drawn)
    audited.look(registry, tables)
    assert registry.drift(champion.digest) is None
    for reviewer in ("mei", "li"):
        say(tables, wrong[:100], 400, **{**drawn, "reviewer": reviewer})
    audited.look(registry, tables)
    said = registry.drift(champion.digest)
    assert said is not None
    assert said.why.startswith("audited records are wrong in ")
    say(tables, [*right[400:500], *wrong[100:200]], 1_000)
    cycle = run_cycle(tables, tables.train, base, None)
    assert registry.drift(champion.digest) is None
    audited.look(registry, tables)
    assert (registry.drift(champion.digest) is None) == cycle.promotion.promoted, "who still serves is still spoken of"


def test_the_stream_of_a_cycle_is_the_latest_without_what_the_flat_lottery_draws(tables: Any, starter_directory: Path) -> None:
    values = [b"record %d" % n for n in range(400)]
    send(tables.kafka, tables.topics.records, [{"value": value, "partition": 0} for value in values])
    tables.gate = GateSettings(audit_rate=0.25)
    drawn = {n for n in range(400) if ticket(f"{tables.topics.records}:0:{n}", Lottery.FLAT) < 0.25}
    assert drawn
    base = load_base(str(starter_directory / "reward"))
    found = stream_of_cycle(base, None, tables, tables.train)
    assert found == [f"record {n}" for n in range(400) if n not in drawn]
    assert [record.value for record in latest(tables.kafka, tables.topics.records, 30)] == values[-10:], "three partitions, ten of each"


def test_two_records_again_and_again_are_refused(tables: Any, starter_directory: Path) -> None:
    train_and_publish(tables, tables.train, str(starter_directory), None, None)
    say(tables, twins(2, 6) * 50)
    with pytest.raises(DataRefused, match="100 records say only 2 different things"):
        run_cycle(tables, tables.train, str(starter_directory), None)
    assert Registry(tables.registry).versions() == [1]
