"""Drift: PSI of d and of fields, guards that raise the flat lottery, ADWIN over audited records, marks in the registry."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import entropy

from foundation.errors import ModelRefused
from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from stream.config import GateSettings
from stream.decide import Calibration, Lotteries
from stream.drift import Baseline, Drift, Sorter, load_baseline, psi
from stream.guards import Guards
from stream.judge import Judge
from stream.live_model import LiveModel
from stream.metrics import GateMetrics
from stream.read import Read
from stream.records import Content, Decision, Reason, Record, Rewards, Route, Verdict
from stream.render import Rendered, render
from stream.rules import Rules
from trainer.audited import AuditedErrors
from trainer.config import TrainSettings
from trainer.cycle import is_due


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
    found = Baseline.of(records(2_000, 0), d_of(2_000, 0))
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
    assert Baseline.of(records(199, 0), d_of(199, 0)) is None
    assert load_baseline(tmp_path) is None
    (tmp_path / "baseline.json").write_text(baseline.text)
    loaded = load_baseline(tmp_path)
    assert loaded is not None
    assert loaded.text == baseline.text
    secret = Baseline.of([render(Content(is_json=True, data={"name": f"secret-{n % 3}"})) for n in range(300)], d_of(300, 0))
    assert secret is not None
    assert "secret" not in secret.text
    for broken in ("{", '{"format": 2}', json.dumps({"format": 1, "d": [["number", [0.0], {}], [1]], "fields": {}})):
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


def test_drift_raises_the_flat_lottery_until_it_is_over(baseline: Baseline) -> None:
    model = LiveModel("m@1", "sha256:0", None, "fields@1", Calibration(), 0.5, 1.0, None, baseline)  # type: ignore[arg-type]
    judge = Judge(GateSettings(), Rules(), model, reads=SimpleNamespace(), lotteries=Lotteries(flat=0.01))  # type: ignore[arg-type]
    metrics, hears = GateMetrics(Rules()), Hears()
    guards = Guards(judge, hears, metrics, GateSettings(drift_share=1.0, drift_audit_rate=0.2))  # type: ignore[arg-type]

    def pass_on(seed: int, mean: float) -> None:
        values = [
            json.dumps({each.path: record.text[each.start : each.end] for each in record.fields}).encode()
            for record in records(1_000, seed, mean)
        ]
        given = [Record("t", 0, n, 1, None, value, []) for n, value in enumerate(values)]
        read = Read(given, "auto", [f"t:{seed}:{n}" for n in range(1_000)], SimpleNamespace(unread=[None] * 1_000))  # type: ignore[arg-type]
        decided = [Decision(Route.CLEAN, Reason.MODEL, "", Rewards(d, 0.0), 0.9) for d in d_of(1_000, seed)]
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
    pass_on(4, 20.0)
    assert judge.least_audit_rate == 0.0
    hears.is_drift_said = True
    pass_on(5, 20.0)
    assert judge.least_audit_rate == 0.2, "the registry says so"
    drawn = (
        Lotteries(flat=0.01)
        .raised(0.2)
        .draws([f"t:0:{n}" for n in range(2_000)], [Decision(Route.CLEAN, Reason.MODEL, p_chosen=0.9)] * 2_000, 0.5)
    )
    assert 300 < sum(each is not None and each.propensity == 0.2 for each in drawn) < 500
    guards.taken_up(judge)
    assert metrics.registry.get_sample_value("winnow_drift") == 0


def verdict(number: int, is_right: bool, source: str = "audit") -> Verdict:
    return Verdict(f"t:0:{number}", "", is_right, "r", number, None, b"{}", "json", 0.9, 0.5, None, "model", source, 0.01, "flat", True)


def test_adwin_hears_of_audited_records_that_become_worse() -> None:
    rng = np.random.default_rng(0)
    calm = [verdict(n, rng.random() > 0.03) for n in range(1_500)]
    worse = [verdict(2_000 + n, rng.random() > 0.2) for n in range(600)]
    audited = AuditedErrors(0.002)
    assert audited.risen(calm) is None
    assert audited.risen([each._replace(is_right=False) for each in calm]) is None, "a second look is no second record"
    assert audited.risen([verdict(9_000 + n, False, "quarantine") for n in range(500)]) is None
    before, now = audited.risen(worse) or (0.0, 0.0)
    assert before < 0.1 < now
    better = AuditedErrors(0.002)
    assert better.risen([verdict(n, rng.random() > 0.3) for n in range(1_000)]) is None
    assert better.risen([verdict(1_000 + n, True) for n in range(1_000)]) is None, "fewer errors ask for nothing"


def test_marks_stay_until_they_are_answered(tmp_path: Path) -> None:
    registry = Registry(RegistrySettings(url=str(tmp_path)))
    assert registry.drift() is None
    registry.say_drift("sha256:1", "first")
    registry.say_drift("sha256:1", "again")
    said = registry.drift()
    assert said is not None
    assert (said.digest, said.why) == ("sha256:1", "first")
    registry.say_drift("sha256:2", "another version")
    registry.answer_drift(said)
    now = registry.drift()
    assert now is not None
    assert now.why == "another version"
    registry.answer_drift(now)
    assert registry.drift() is None
    assert registry.aliases() == {}


def test_drift_asks_for_a_training_sooner() -> None:
    settings = TrainSettings(retrain_verdicts=100, drift_verdicts=30)
    assert is_due(30, 0, 0.0, settings, is_drifting=True)
    assert not is_due(30, 0, 0.0, settings)
    assert not is_due(60, 31, 0.0, settings, is_drifting=True)
