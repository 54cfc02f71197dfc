"""What two careless people called wrong: how many there are is known from second looks, and so many count no more in a comparison."""

import numpy as np
import pytest

from stream.records import Verdict
from trainer.calibrate import auroc_of
from trainer.careless import Looks, counted, looks_of
from trainer.verdicts import settle

AUDIT = {"source": "audit", "propensity": 0.5, "lottery": "extra"}


def said(decision: int, *answers: bool, **more: object) -> list[Verdict]:
    """Return the events of a decision, each answer another person's."""
    fields = {
        "decision_id": f"t:0:{decision}", "topic_id": "", "time_ms": 1, "key": None, "value": b"r", "content_type": "text", "p_chosen": 0.5,
        "threshold": 0.5, "model_digest": None, "reason": "model", "source": "quarantine", "propensity": 1.0, "lottery": None,
        "blind": False, **more,
    }  # fmt: skip
    return [Verdict(**fields, is_right=each, reviewer=f"r{n}") for n, each in enumerate(answers)]  # type: ignore[arg-type]


def test_what_each_person_says_last_is_kept_in_the_order_of_their_coming() -> None:
    [settled] = settle([*said(0, False, True, True), said(0, True)[0]._replace(reviewer="r0")])
    assert settled.answers == (True, True, True)
    assert not settled.was_disputed
    [settled] = settle(said(0, False, True, False, **AUDIT))
    assert (settled.is_right, settled.was_disputed, settled.is_disputed, settled.is_pending) == (False, True, False, False)
    [settled] = settle(said(0, False, True, **AUDIT))
    assert settled.is_disputed
    assert settled.is_pending


def test_how_often_people_are_careless_is_seen_from_what_second_looks_saved() -> None:
    events = [event for n in range(90) for event in said(n, True, **AUDIT)]
    events += [event for n in range(90, 100) for event in said(n, False, True, True, **AUDIT)]
    events += [event for n in range(100, 104) for event in said(n, False, False, **AUDIT)]
    events += said(104, True) + said(105, False, False) + said(106, False, True, False, **AUDIT)
    found = looks_of(settle(events))
    assert found["t:0:0"] == found["t:0:95"]._replace(was_disputed=False)
    assert found["t:0:0"].chance == pytest.approx(0.1**2)
    assert found["t:0:104"] == Looks(0.1, was_disputed=False)
    assert found["t:0:105"].chance == pytest.approx(0.1**2), "two have looked at a held record, too"
    assert found["t:0:106"].was_disputed
    waiting = looks_of(settle([*events, *[event for n in range(200, 215) for event in said(n, False, **AUDIT)]]))
    assert waiting["t:0:0"].chance == pytest.approx(0.1 * (0.5 + 0.5 * 0.1)), "half of what was first called wrong has one look"
    assert looks_of(settle(said(0, False)))["t:0:0"].chance == 0.0


def world(seed: int, careless: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], list[Looks], np.ndarray]:
    """Return the truth, what people say, d of a better and of a worse model, how it was looked at and weights; two look at each."""
    random = np.random.default_rng(seed)
    is_right = random.random(2_000) < 0.92
    common = random.normal(size=2_000)
    d = [common + random.normal(size=2_000) * 0.5 + strength * is_right for strength in (5.0, 4.0)]
    mistaken = random.random((2_000, 2)) < careless
    called_right = np.where(is_right, ~mistaken.all(axis=1), mistaken[:, 0])
    looks = [Looks(careless**2, was_disputed=False)] * 2_000
    return is_right, called_right, d, looks, np.full(2_000, 2.0)


def test_as_many_are_taken_off_as_carelessness_explains_and_where_both_models_call_them_right() -> None:
    is_right, called_right, d, looks, weight = world(0, 0.1)
    found = counted(weight, called_right, looks, d)
    mistaken = is_right & ~called_right
    assert mistaken.sum() > 10
    assert (found[called_right] == weight[called_right]).all(), "what people call right counts as before"
    assert (weight - found).sum() == pytest.approx(weight[called_right].sum() * 0.01, rel=0.35)
    assert found[mistaken].mean() < 0.4 * weight[0]
    assert found[~is_right & ~called_right].mean() > 0.95 * weight[0]
    trusted = counted(weight, called_right, [Looks(0.0, was_disputed=False)] * 2_000, d)
    assert (trusted == weight).all(), "people who are never careless are believed"


def test_what_either_model_suspects_counts() -> None:
    is_right, _, d, looks, weight = world(1, 0.0)
    blind = np.where(is_right, d[1], np.median(d[1][is_right]))
    careless = [Looks(0.01, was_disputed=False)] * len(looks)
    for models in ([d[0], blind], [blind, d[0]]):
        found = counted(weight, is_right, careless, models)
        assert found[~is_right].mean() > 0.95 * weight[0], "what one of them holds for wrong is no mistake, whoever is the champion"
    both = counted(weight, is_right, careless, [blind, blind])
    assert weight[~is_right].sum() - both[~is_right].sum() < 0.011 * weight[is_right].sum(), "never more than carelessness explains"


def test_a_wrong_on_which_people_disagreed_is_left_out() -> None:
    _, called_right, d, looks, weight = world(2, 0.1)
    disputed = [each._replace(was_disputed=n % 2 == 0) for n, each in enumerate(looks)]
    found = counted(weight, called_right, disputed, d)
    even = np.arange(len(weight)) % 2 == 0
    assert (found[even & ~called_right] == 0).all()
    assert (found[even & called_right] == weight[0]).all()
    assert counted(weight, np.ones(2_000, dtype=bool), disputed, d) is weight


def test_the_difference_of_two_models_is_seen_more_sharply_and_in_the_same_place() -> None:
    plain, taken_off, true = [], [], []
    for seed in range(60):
        is_right, called_right, (better, worse), looks, weight = world(seed, 0.1)
        fewer = counted(weight, called_right, looks, [better, worse])

        def difference(truth: np.ndarray, by: np.ndarray, better: np.ndarray = better, worse: np.ndarray = worse) -> float:
            return auroc_of(better, truth, by) - auroc_of(worse, truth, by)

        plain.append(difference(called_right, weight))
        taken_off.append(difference(called_right, fewer))
        true.append(difference(is_right, weight))
    assert np.std(taken_off) < 0.85 * np.std(plain)
    assert np.mean(taken_off) == pytest.approx(np.mean(true), rel=0.2)
