"""Drift: PSI of d and of fields, guards that raise the flat lottery, ADWIN over audited records, marks in the registry."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import entropy

from foundation.errors import ModelRefused
from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from stream.config import GateSettings
from stream.decide import Calibration, Lotteries
from stream.drift import Baseline, Drift, Sorter, by_chance, load_baseline, psi
from stream.follow import Follower, Service
from stream.guards import Guards
from stream.judge import Judge
from stream.live_model import LiveModel
from stream.metrics import GateMetrics
from stream.read import Read
from stream.records import Content, Decision, Reason, Rewards, Route, Verdict
from stream.render import Rendered, render
from stream.rules import Rules
from tests.integration.conftest import wait_until
from trainer.audited import AuditedErrors, Risen
from trainer.config import TrainSettings
from trainer.watch import is_due


def records(count: int, seed: int, mean: float = 20.0, cities: str = "abc", phone: str = "138{:08d}") -> list[Rendered]:
    rng = np.random.default_rng(seed)
    return [
        render(
            Content(
                is_json=True,
                data={
                    "city": cities[rng.integers(len(cities))],
                    "temperature": round(float(rng.normal(mean, 3)), 2),
                    "phone": phone.format(rng.integers(10**8)),
                    **({"note": "x"} if rng.random() < 0.5 else {}),
                },
            )
        )
        for _ in range(count)
    ]


def d_of(count: int, seed: int, mean: float = 2.0) -> list[float]:
    return [float(each) for each in np.random.default_rng(seed).normal(mean, 1, count)]


def drift_of(baseline: Baseline, came: list[Rendered], d: list[float]) -> Drift:
    drift = Drift(baseline, 1_000)
    for record, each in zip(came, d, strict=True):
        drift.add(record, each)
    return drift


@pytest.fixture(scope="module")
def baseline() -> Baseline:
    found = Baseline.of(records(2_000, 0), d_of(2_000, 0), 0.5)
    assert found is not None
    return found


def test_psi_is_the_divergence_both_ways() -> None:
    then, now = np.array([400.0, 300, 300]), np.array([100.0, 300, 600])
    both = entropy(then / 1_000, now / 1_000) + entropy(now / 1_000, then / 1_000)
    assert psi(then, now) == pytest.approx(both, rel=0.01)
    assert psi(then, then * 2) == pytest.approx(0, abs=1e-4)


def test_what_has_not_changed_stays_far_below_the_limit(baseline: Baseline) -> None:
    for seed in range(1, 6):
        found = drift_of(baseline, records(1_000, seed), d_of(1_000, seed)).found()
        assert found is not None
        assert found.most < 0.1


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("temperature", {"mean": 24.0}),
        ("city", {"cities": "abcxy"}),
        ("phone", {"phone": "+86-{}"}),
    ],
)
def test_a_changed_field_is_named(baseline: Baseline, path: str, changed: dict[str, object]) -> None:
    found = drift_of(baseline, records(1_000, 3, **changed), d_of(1_000, 3)).found()  # type: ignore[arg-type]
    assert found is not None
    assert (found.path, found.fields > 0.25, found.d < 0.1) == (path, True, True)


def test_a_small_baseline_raises_no_alarm_by_chance() -> None:
    for seed in range(20):
        few = Baseline.of(records(250, seed), d_of(250, seed), 0.5)
        assert few is not None
        found = drift_of(few, records(1_000, 100 + seed), d_of(1_000, 100 + seed)).found()
        assert found is not None
        assert found.most < 0.12
    counts = np.random.default_rng(0).multinomial(250, [1 / 22] * 22, 400), np.random.default_rng(1).multinomial(1_000, [1 / 22] * 22, 400)
    left = [psi(then, now) - by_chance(then, now) for then, now in zip(*counts, strict=True)]
    assert abs(float(np.mean(left))) < 0.01
    assert float(np.mean([psi(then, now) for then, now in zip(*counts, strict=True)])) > 0.1


def test_a_missing_field_and_lower_d_are_seen_and_the_window_moves_on(baseline: Baseline) -> None:
    without = [Rendered(record.text, tuple(f for f in record.fields if f.path != "note")) for record in records(1_000, 4)]
    found = drift_of(baseline, without, d_of(1_000, 4, 0.5)).found()
    assert found is not None
    assert found.path == "note"
    assert found.d > 0.25
    drift = drift_of(baseline, without, d_of(1_000, 4, 0.5))
    for record, d in zip(records(1_000, 5), d_of(1_000, 5), strict=True):
        drift.add(record, d)
    again = drift.found()
    assert again is not None
    assert again.most < 0.1


def test_nothing_is_said_of_few_records_and_no_value_is_kept(baseline: Baseline, tmp_path: Path) -> None:
    assert drift_of(baseline, records(999, 1), d_of(999, 1)).found() is None
    assert Baseline.of(records(199, 0), d_of(199, 0), 0.5) is None
    assert load_baseline(tmp_path) is None
    (tmp_path / "baseline.json").write_text(baseline.text)
    loaded = load_baseline(tmp_path)
    assert loaded is not None
    assert loaded.text == baseline.text
    secret = Baseline.of([render(Content(is_json=True, data={"name": f"secret-{n % 3}"})) for n in range(300)], d_of(300, 0), 0.5)
    assert secret is not None
    assert "secret" not in secret.text
    for broken in ("{", '{"format": 2}', json.dumps({"format": 1, "threshold": 0.5, "d": [["number", [0.0], {}], [1]], "fields": {}})):
        with pytest.raises(ModelRefused, match=r"baseline\.json"):
            Baseline.from_text(broken)


def test_numbers_that_are_none_have_a_category_of_their_own() -> None:
    sorter = Sorter.for_values([str(n) for n in range(100)])
    assert sorter.kind == "number"
    assert (sorter.of(None), sorter.of("n/a"), sorter.of("nan"), sorter.of("-5"), sorter.of("1e9")) == (0, 1, 1, 2, sorter.categories - 1)


class Hears:
    """Stands where the follower does: keeps what the guards ask for."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.is_drift_said = False

    def drifted(self, digest: str, why: str) -> None:
        self.said.append((digest, why))
        self.is_drift_said = True


def test_drift_raises_the_flat_lottery_until_it_is_over(baseline: Baseline) -> None:
    model = LiveModel("m@1", "sha256:0", None, "fields@1", Calibration(), 0.5, 1.0, None, baseline)  # type: ignore[arg-type]
    judge = Judge(GateSettings(), Rules(), model, reads=SimpleNamespace(), lotteries=Lotteries(flat=0.01))  # type: ignore[arg-type]
    metrics, hears = GateMetrics(Rules()), Hears()
    guards = Guards(judge, hears, metrics, GateSettings(drift_share=1.0, drift_audit_rate=0.2))  # type: ignore[arg-type]

    def pass_on(seed: int, mean: float, route: Route = Route.CLEAN) -> None:
        values: list[bytes | None] = [
            json.dumps({each.path: record.text[each.start : each.end] for each in record.fields}).encode()
            for record in records(1_000, seed, mean)
        ]
        names, unread = [f"t:{seed}:{n}" for n in range(1_000)], SimpleNamespace(unread=[None] * 1_000)
        read = Read(values, "auto", names, unread)  # type: ignore[arg-type]
        decided = [Decision(route, Reason.MODEL, "", Rewards(d, 0.0), 0.9) for d in d_of(1_000, seed)]
        held = [Decision(Route.QUARANTINE, Reason.MODEL, "", Rewards(-9.0, 0.0), 0.1)] * 1_000
        guards.judged(judge, read, held)
        guards.judged(judge, read, decided)

    pass_on(1, 20.0)
    assert (judge.least_audit_rate, hears.said) == (0.0, [])
    pass_on(2, 24.0)
    assert judge.least_audit_rate == 0.2
    assert [(digest, why.startswith("PSI of field temperature is ")) for digest, why in hears.said] == [("sha256:0", True)]
    assert metrics.registry.get_sample_value("winnow_drift") == 1
    assert (metrics.registry.get_sample_value("winnow_drift_psi", {"of": "field"}) or 0) > 0.25
    pass_on(3, 24.0)
    assert len(hears.said) == 1, "said once"
    hears.is_drift_said = False
    pass_on(3, 24.0)
    assert len(hears.said) == 2, "and once more where a training has answered it, and this model serves on"
    pass_on(4, 20.0)
    assert judge.least_audit_rate == 0.2, "the registry says so"
    hears.is_drift_said = False
    pass_on(5, 20.0)
    assert judge.least_audit_rate == 0.0
    pass_on(6, 20.0, Route.QUARANTINE)
    assert len(hears.said) == 2, "what gate.threshold alone holds is compared all the same"
    drawn = (
        Lotteries(flat=0.01)
        .raised(0.2)
        .draws([f"t:0:{n}" for n in range(2_000)], [Decision(Route.CLEAN, Reason.MODEL, p_chosen=0.9)] * 2_000, 0.5)
    )
    assert 300 < sum(each is not None and each.propensity == 0.2 for each in drawn) < 500
    guards.taken_up(judge)
    assert metrics.registry.get_sample_value("winnow_drift") == 0


def said_of(
    number: int, is_right: bool, lottery: str = "flat", digest: str = "sha256:1", reviewers: int = 2, source: str = "audit"
) -> list[Verdict]:
    return [
        Verdict(
            f"t:0:{number}", "", is_right, f"r{each}", number, None, b"{}", "json", 0.9, 0.5, digest, "model", source, 0.01, lottery, True
        )
        for each in range(1 if is_right else reviewers)
    ]


def stream_of(first: int, count: int, wrong: float, **given: Any) -> list[Verdict]:
    rng = np.random.default_rng(first)
    return [each for n in range(count) for each in said_of(first + n, bool(rng.random() >= wrong), **given)]


def risen_of(audited: AuditedErrors, verdicts: list[Verdict], digest: str = "sha256:1") -> Risen | None:
    audited.hear(verdicts)
    return audited.risen(digest)


def test_adwin_hears_of_audited_records_that_become_worse() -> None:
    audited = AuditedErrors(0.002)
    assert risen_of(audited, stream_of(0, 1_500, 0.03)) is None
    assert risen_of(audited, stream_of(2_000, 600, 0.9, lottery="extra")) is None, "extra draws lie near the threshold"
    assert risen_of(audited, stream_of(3_000, 600, 0.9, digest="sha256:2")) is None, "another version judged these"
    assert risen_of(audited, stream_of(3_000, 600, 0.9, source="quarantine")) is None, "more that is held is no more that passes"
    assert risen_of(audited, stream_of(4_000, 600, 0.9, reviewers=1)) is None, "they wait for a second look"
    worse = risen_of(audited, stream_of(5_000, 600, 0.2))
    assert worse is not None
    assert worse.before < 0.1 < worse.now
    assert audited.risen("sha256:1") == worse, "as long as it is so"
    for more in (1, 2, 40):
        after = risen_of(audited, stream_of(6_000 + more, 1, 0.0))
        assert after is not None, "the draws right after a cut are too few to say otherwise"
        assert after.before == worse.before
    partly = risen_of(audited, stream_of(7_000, 1_500, 0.1))
    assert partly is not None, "fewer than they were, and still more than before"
    assert partly.before < 0.05
    assert risen_of(audited, [], "sha256:2") is None, "a new champion begins anew: its draws were always like this"
    again = AuditedErrors(0.002)
    heard = [*stream_of(5_000, 600, 0.2), *stream_of(0, 1_500, 0.03), *stream_of(4_000, 600, 0.9, reviewers=1)]
    assert risen_of(again, heard) == worse, "who hears it in another order comes to the same"
    better = AuditedErrors(0.002)
    assert risen_of(better, stream_of(0, 1_000, 0.3)) is None
    assert risen_of(better, stream_of(1_000, 1_000, 0.0)) is None, "fewer errors ask for nothing"
    assert risen_of(audited, stream_of(9_000, 2_000, 0.0)) is None, "it is over when they have become fewer"


def test_marks_stay_until_they_are_answered(tmp_path: Path) -> None:
    registry = Registry(RegistrySettings(url=str(tmp_path)))
    assert registry.drift("sha256:1") is None
    registry.say_drift("sha256:1", "first")
    registry.say_drift("sha256:1", "again")
    registry.say_drift("sha256:2", "another version")
    said, other = registry.drift("sha256:1"), registry.drift("sha256:2")
    assert said is not None
    assert other is not None
    assert (said.digest, said.why, other.why) == ("sha256:1", "first", "another version")
    registry.answer_drift(said)
    assert registry.drift("sha256:1") is None
    assert registry.drift("sha256:2") == other
    registry.say_drift("sha256:1", "still")
    registry.answer_drift(said)
    now = registry.drift("sha256:1")
    assert now is not None
    assert now.why == "still", "an answer to what was said before is none to this"
    assert registry.aliases() == {}
    for number in range(100):
        registry.say_drift(f"sha256:{number}", "many")
    assert registry.drift("sha256:99") is not None
    (tmp_path / "aliases" / "drift.json").write_text("{")
    assert registry.drift("sha256:99") is None, "what cannot be read keeps nobody from training"
    registry.say_drift("sha256:99", "again")
    assert registry.drift("sha256:99") is not None
    assert (tmp_path / "aliases" / "drift.json").stat().st_size < 3_000


def test_a_gate_says_what_it_sees_of_the_champion_alone(tmp_path: Path) -> None:
    registry = Registry(RegistrySettings(url=str(tmp_path)))
    judge = SimpleNamespace(rules=Rules(), model=SimpleNamespace(digest="sha256:1"))
    current = Service(judge, None, None)  # type: ignore[arg-type]

    def follower(model: str) -> Follower:
        settings = GateSettings(model=model, watch_seconds=0.02)
        return Follower(registry, settings, lambda *_: current, current, GateMetrics(Rules()))  # type: ignore[arg-type]

    champions, pinned = follower("champion"), follower("1")
    for each in (champions, pinned):
        each.start()
    try:
        pinned.drifted("sha256:1", "of a version that is no alias")
        champions.drifted("sha256:0", "of a version that has been replaced meanwhile")
        time.sleep(0.3)
        assert registry.drift("sha256:0") is registry.drift("sha256:1") is None
        champions.drifted("sha256:1", "seen")
        wait_until(lambda: champions.is_drift_said)
        said = registry.drift("sha256:1")
        assert said is not None
        assert said.why == "seen"
        registry.answer_drift(said)
        wait_until(lambda: not champions.is_drift_said)
        registry.say_drift("sha256:1", "by another gate")
        wait_until(lambda: champions.is_drift_said)
        assert not pinned.is_drift_said
    finally:
        champions.stop()
        pinned.stop()


def test_drift_asks_for_a_training_sooner() -> None:
    settings = TrainSettings(retrain_verdicts=100, drift_verdicts=30)
    assert is_due(30, 0, 0.0, settings, is_drifting=True)
    assert not is_due(30, 0, 0.0, settings)
    assert not is_due(60, 31, 0.0, settings, is_drifting=True)
