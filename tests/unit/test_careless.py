"""What two careless people called wrong: how many there are is known from second looks, and so many count no more in a comparison."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from bench.promotion import PEOPLE, Known, answered
from stream.records import Verdict
from trainer.calibrate import auroc_of
from trainer.careless import Look, Looks, look_of, mistaken_chances, steps_of
from trainer.config import TrainSettings
from trainer.cycle import _compared
from trainer.datasets import is_held_out
from trainer.evaluate import Judged, compare, may_promote
from trainer.sort import sort
from trainer.verdicts import Settled, settle

AUDIT: dict[str, Any] = {"source": "audit", "propensity": 0.5, "lottery": "extra"}
FLAT: dict[str, Any] = {"source": "quarantine", "propensity": 0.1, "lottery": "flat", "blind": True}
NOBODY = np.zeros(len(Look))


def said(decision: int, *answers: bool, first: int = 0, **more: Any) -> list[Verdict]:
    """Return the events of a decision, each answer another person's."""
    fields = {
        "decision_id": f"t:0:{decision}", "topic_id": "", "time_ms": 1, "key": None, "value": b"record %d" % decision,
        "content_type": "text", "p_chosen": 0.5, "threshold": 0.5, "model_digest": None, "reason": "model", "source": "quarantine",
        "propensity": 1.0, "lottery": None, "blind": False, **more,
    }  # fmt: skip
    return [Verdict(**fields, is_right=each, reviewer=f"r{first + n}") for n, each in enumerate(answers)]


def many(decisions: range, *answers: bool, **more: Any) -> list[Verdict]:
    """Return the events of decisions of which people say the same."""
    return [event for n in decisions for event in said(n, *answers, **more)]


def test_what_each_person_said_before_the_next_came_is_kept() -> None:
    events = said(0, False, True)
    [settled] = settle([events[0]._replace(is_right=True), *events, events[0]])
    assert settled.answers == (("r0", False), ("r1", True), ("r0", False)), "who thinks better of it before the next one has one answer"
    [settled] = settle(said(0, False))
    assert settled.answers == (("r0", False),)


def test_how_people_came_to_a_verdict() -> None:
    looks = {
        (True,): Look.ONE, (False,): Look.ONE, (False, False): Look.AGREED, (False, True): Look.OPEN, (False, True, False): Look.SETTLED,
        (False, True, True): Look.SETTLED, (False, False, False): Look.CERTAIN, (False, True, False, False, False): Look.CERTAIN,
    }  # fmt: skip
    for answers, look in looks.items():
        for drawn in (AUDIT, FLAT):
            assert look_of(settle(said(0, *answers, **drawn))[0]) is look
        assert look_of(settle(said(0, *answers))[0]) is Look.HELD, "held and not blind"


def test_how_often_people_are_careless_is_seen_from_what_second_looks_saved() -> None:
    # each of four reviewers looks first at 10,000 right draws and errs in a tenth of all answers
    events = []
    for first in range(4):
        others = [(first + turn) % 4 for turn in (1, 2, 3)]
        for place in range(10_000):
            n = 100_000 * first + place
            if place < 9_000:
                events += said(n, True, first=first, **AUDIT)
            else:
                second = place % 10 == 0
                third = place % 10 == 1
                answers = (False, False) if second else (False, True, not third)
                events += by(n, [first, others[place % 3], others[(place + 1) % 3]], answers)
    chances = mistaken_chances(settle(events))
    assert chances[Look.AGREED] == pytest.approx(0.01, rel=0.12)
    assert chances[Look.SETTLED] == pytest.approx(0.01 * 0.9, rel=0.12)
    assert chances[Look.ONE] == chances[Look.OPEN] == chances[Look.HELD] == 0.0
    waiting = [event for n in range(500_000, 504_000) for event in said(n, False, first=n % 4, **AUDIT)]
    half = mistaken_chances(settle([*events, *waiting]))
    assert half[Look.ONE] == pytest.approx(0.5 * 0.2, rel=0.15), "as many were called wrong and wait: a fifth of what is looked at"
    misses = [event for n in range(600_000, 604_000) for event in by(n, [n % 4, (n + 1) % 4, (n + 2) % 4], (False, True, False))]
    same = mistaken_chances(settle([*events, *misses]))
    assert same[Look.AGREED] == pytest.approx(chances[Look.AGREED], rel=0.25), (
        "a second one who overlooks an error does not tell of the first"
    )


def by(decision: int, people: list[int], answers: tuple[bool, ...]) -> list[Verdict]:
    """Return the events of an extra draw, answered by these people one after the other."""
    return [said(decision, is_right, first=who, **AUDIT)[0] for who, is_right in zip(people, answers, strict=False)]


def test_open_disputes_tell_as_much_as_settled_ones_came_out() -> None:
    right = many(range(4_500), True, **AUDIT)
    alone = mistaken_chances(settle([*right, *many(range(5_000, 5_500), False, True, **AUDIT)]))
    assert alone[Look.OPEN] == pytest.approx(0.05, rel=0.2), "nobody has settled any: half of them may be right ones"
    assert alone[Look.AGREED] == 0.0, "of who looks second alone nothing is known, so he is believed"
    settled = [*many(range(6_000, 6_050), False, True, True, **AUDIT), *many(range(7_000, 7_450), False, True, False, **AUDIT)]
    few = mistaken_chances(settle([*right, *many(range(5_000, 5_500), False, True, **AUDIT), *settled]))
    assert few[Look.OPEN] < 0.4 * alone[Look.OPEN], "nine in ten of those that were settled are wrong"


def test_a_bad_reviewer_and_few_draws_take_little_off() -> None:
    events = [*many(range(1_000), False, True, True, first=0, **AUDIT)]  # r0 calls everything wrong
    for first in range(1, 9):
        events += many(range(1_000 * first, 1_000 * first + 1_000), True, first=first, **AUDIT)
    assert mistaken_chances(settle(events))[Look.AGREED] < 0.001
    three = [event for n in range(3) for event in by(n, [n % 2, 1 - n % 2, 2], (False, True, True))]
    assert mistaken_chances(settle(three))[Look.AGREED] < 0.2, "three draws of careless people say little"
    assert (mistaken_chances(settle(many(range(50), False, False))) == NOBODY).all(), "of what is held nothing is known"
    assert (mistaken_chances(settle(many(range(50), False, **AUDIT))) == NOBODY).all(), "nor where nobody has looked again"
    assert (mistaken_chances([]) == NOBODY).all()


def world(seed: int, careless: float) -> tuple[np.ndarray, np.ndarray, list[np.ndarray], Looks, np.ndarray]:
    """Return the truth, what people say, d of a better and of a worse model, how it was looked at and unlike weights; two look at each."""
    random = np.random.default_rng(seed)
    is_right = random.random(2_000) < 0.92
    common = random.normal(size=2_000)
    d = [common + random.normal(size=2_000) * 0.5 + strength * is_right for strength in (5.0, 4.0)]
    mistaken = random.random((2_000, 2)) < careless
    called_right = np.where(is_right, ~mistaken.all(axis=1), mistaken[:, 0])
    chances = NOBODY.copy()
    chances[Look.AGREED] = careless**2
    return is_right, called_right, d, Looks([Look.AGREED] * 2_000, chances), random.choice([1.0, 2.0, 4.0], 2_000)


def test_as_many_are_taken_off_as_carelessness_explains() -> None:
    is_right, called_right, d, looks, weight = world(0, 0.1)
    found = looks.believed(steps_of(called_right, weight, d), called_right, weight)
    mistaken = is_right & ~called_right
    assert mistaken.sum() > 10
    assert (found[called_right] == weight[called_right]).all(), "what people call right counts as before"
    assert (weight - found).sum() == pytest.approx(weight[called_right].sum() * 0.01, rel=0.35)
    assert found[mistaken].sum() < 0.4 * weight[mistaken].sum()
    really = ~is_right & ~called_right
    assert found[really].sum() > 0.95 * weight[really].sum()
    trusted = looks._replace(chances=NOBODY).believed(steps_of(called_right, weight, d), called_right, weight)
    assert (trusted == weight).all(), "people who are never careless are believed"


def test_what_either_model_suspects_counts() -> None:
    is_right, _, d, looks, weight = world(1, 0.1)
    blind = np.where(is_right, d[1], np.median(d[1][is_right]))
    blind[np.flatnonzero(is_right)[0]] = -np.inf  # a champion that cannot read a record
    for models in ([d[0], blind], [blind, d[0]]):
        found = looks.believed(steps_of(is_right, weight, models), is_right, weight)
        assert found[~is_right].sum() > 0.95 * weight[~is_right].sum(), (
            "what one of them holds for wrong is no mistake, whoever is the champion"
        )
    both = looks.believed(steps_of(is_right, weight, [blind, blind]), is_right, weight)
    lost = weight[~is_right].sum() - both[~is_right].sum()
    assert 0 < lost <= 0.0101 * weight[is_right].sum(), "never more than carelessness explains"


def test_each_kind_of_look_pays_for_its_own_mistakes_at_the_weight_of_the_right_draws() -> None:
    d = np.array([0.0, 1.0, 2.0, 3.0, 1.5, 1.5, 1.5, 1.5])
    is_right = np.array([True] * 4 + [False] * 4)
    weight = np.array([1.0, 2.0, 2.0, 5.0, 4.0, 4.0, 2.0, 2.0])
    looks = Looks(
        [Look.ONE, Look.ONE, Look.HELD, Look.ONE, Look.AGREED, Look.SETTLED, Look.HELD, Look.OPEN], np.array([0.0, 0.0, 0.1, 0.5, 9.0, 0.0])
    )  # fmt: skip
    steps = np.array([0, 3, 3, 3, 3, 3, 3, 0])
    found = looks.believed(steps, is_right, weight)
    # of step 3 the right draws weigh 2 and 5: AGREED .1 of 7 off, SETTLED all; of step 0 they weigh 1: OPEN .5 of 1 off
    assert found.tolist() == pytest.approx([1.0, 2.0, 2.0, 5.0, 4.0 - 0.7, 0.0, 2.0, 2.0 - 0.5])
    assert looks.at(np.array([4, 7])).of_each == [Look.AGREED, Look.OPEN]
    assert steps_of(is_right, weight, [d]).tolist() == [2, 4, 5, 7, 4, 4, 4, 4]


def test_the_difference_of_two_models_is_seen_more_sharply_and_in_the_same_place() -> None:
    plain, taken_off, true = [], [], []
    for seed in range(60):
        is_right, called_right, (better, worse), looks, weight = world(seed, 0.1)
        fewer = looks.believed(steps_of(called_right, weight, [better, worse]), called_right, weight)

        def difference(truth: np.ndarray, by: np.ndarray, better: np.ndarray = better, worse: np.ndarray = worse) -> float:
            return auroc_of(better, truth, by) - auroc_of(worse, truth, by)

        plain.append(difference(called_right, weight))
        taken_off.append(difference(called_right, fewer))
        true.append(difference(is_right, weight))
    assert np.std(taken_off) < 0.85 * np.std(plain)
    assert np.mean(taken_off) == pytest.approx(np.mean(true), rel=0.2)


def judged(d: np.ndarray) -> Judged:
    return Judged(d, 1 / (1 + np.exp(-d)), 0.5)


def test_a_comparison_takes_mistakes_off_and_says_so() -> None:
    _, called_right, (better, worse), looks, weight = world(3, 0.1)
    believed = compare(judged(better), judged(worse), called_right, weight, 0)
    taken = compare(judged(better), judged(worse), called_right, weight, 0, looks)
    assert believed is not None
    assert taken is not None
    assert believed.taken_off == 0.0
    assert 0.05 < taken.taken_off < 0.2
    assert taken.auroc > believed.auroc + 0.02
    assert taken.auroc_high - taken.auroc_low < believed.auroc_high - believed.auroc_low
    assert taken.recall > believed.recall
    assert taken.auroc_champion > believed.auroc_champion
    assert taken.recall_champion > believed.recall_champion
    assert f"({taken.taken_off:.1%} of what people called wrong taken for carelessness)" in may_promote(taken).why
    assert "carelessness" not in may_promote(believed).why
    refused = may_promote(taken._replace(recall_high=-0.01))
    assert not refused.promoted
    assert "carelessness" in refused.why
    blind = judged(np.where(called_right, better, np.median(better)))
    everybody = looks._replace(chances=np.full(len(Look), 0.7))
    assert compare(blind, blind, called_right, weight, 0, looks) is not None
    assert compare(blind, blind, called_right, weight, 0, everybody) is None, "no wrong one is left to compare with"


def test_the_hold_out_s_verdicts_keep_their_looks_where_a_record_cannot_be_read() -> None:
    _, called_right, (better, worse), looks, weight = world(4, 0.1)
    readable = np.delete(np.arange(2_000), [0, 3, 700])
    of_flat = np.array([2_000, 2_001])
    places = [*readable.tolist(), *of_flat.tolist()]
    mixed = looks._replace(of_each=[Look.HELD if n % 3 else Look.AGREED for n in range(2_000)])

    def seen(values: np.ndarray, flat: float) -> np.ndarray:
        return np.append(values[readable], [flat, flat])

    learned = SimpleNamespace(
        test_set=SimpleNamespace(places=places),
        test_is_right=np.append(called_right[readable], [False, False]),
        test_weight=seen(weight, 100.0),
    )
    settings = TrainSettings(seed=0)
    found = _compared(judged(seen(better, 9.0)), judged(seen(worse, -9.0)), cast(Any, learned), mixed, settings)
    wanted = compare(
        judged(better[readable]), judged(worse[readable]), called_right[readable], weight[readable], 0, mixed.at(readable)
    )  # fmt: skip
    assert found == wanted
    assert found is not None
    assert found.taken_off > 0


def by_turn(n: int, place: int, drawn: dict[str, Any]) -> list[Verdict]:
    """Return events of three kinds in turn, the first reviewer another one each time."""
    answers = ((True,), (False, False), (False, True, True))[place % 3]
    return [said(n, each, first=(place + turn) % 5, **drawn)[0] for turn, each in enumerate(answers)]


def held_out_flat(n: int) -> list[Verdict]:
    """Return events of a flat draw if its record is held out."""
    return said(n, False, True, True, **FLAT) if is_held_out(f"record {n}", 0.5) else []


def test_looks_lie_beside_the_hold_out_and_certifying_draws_say_nothing_of_people() -> None:
    held_out = [n for n in range(4_000) if is_held_out(f"record {n}", 0.5)]
    others = [n for n in range(4_000) if not is_held_out(f"record {n}", 0.5)]
    events = []
    for place, n in enumerate(held_out):
        events += by_turn(n, place, (AUDIT if place % 2 else {}))
    settings = TrainSettings(held_out_share=0.5)
    found = sort(settle(events), settings)
    assert len(found.looks.of_each) == len(found.hold_out) == len(held_out)
    by_content = dict(zip((record.content for record in found.hold_out), found.looks.of_each, strict=True))
    for place, n in enumerate(held_out):
        look = (Look.ONE, Look.AGREED, Look.SETTLED)[place % 3] if place % 2 else Look.HELD
        assert by_content[f"record {n}"] is look
    flat = [event for n in others for event in said(n, False, True, True, **FLAT)]
    flat_held_out = sort(settle([*events, *[event for n in range(5_000, 6_000) for event in held_out_flat(n)]]), settings)
    assert (flat_held_out.looks.chances != found.looks.chances).any(), (
        "flat draws of the hold-out, and what is learned from, tell of people"
    )
    again = sort(settle([*events, *flat]), settings)
    assert len(again.flat) == len(others)
    assert (again.looks.chances == found.looks.chances).all()
    assert found.looks.chances[Look.AGREED] > 0


@pytest.mark.parametrize("kind", ["alike", "unlike", "two", "thrice", "overlook"])
def test_the_chances_are_those_of_simulated_people(kind: str) -> None:
    random = np.random.default_rng(5)
    is_wrong = random.random(40_000) < 0.04
    p = np.where(is_wrong, random.beta(2, 2, 40_000), random.beta(9, 1, 40_000))
    known = Known([str(n) for n in range(40_000)], is_wrong, np.array([""] * 40_000), p, 0.3)
    settled: list[Settled] = answered(known, np.arange(40_000), random, PEOPLE[kind])
    right = [each for each in settled if each.is_drawn and not is_wrong[int(each.decision_id)]]
    chances = mistaken_chances(settled)
    for look in Look:
        really = sum(look_of(each) is look and each.counts_as_wrong for each in right) / len(right)
        if look is Look.HELD:
            continue
        most = 1.35 * really + 3e-4
        assert chances[look] <= most, f"{look.name}: not much more is taken off than there is"
        if kind == "alike":
            assert chances[look] == pytest.approx(really, rel=0.25, abs=1e-6)
