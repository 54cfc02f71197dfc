"""Trees over what a memory sees: what two signs say together, the same in a gate as in training, and nothing where people say nothing."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesClassifier

from foundation.errors import ModelRefused
from stream.evidence import Evidence
from stream.forest import PARTS, Figures, Looked
from stream.memory import Common, Seen
from stream.records import Content
from stream.render import Rendered, render
from tests.unit.remembered import evidence_of
from trainer.grow import FEWEST_OF_EACH, _nodes_of, grown
from trainer.weigh import Said

Judged = tuple[Rendered, bool]


def crossed(count: int, seed: int = 1) -> list[Judged]:
    """Return records that are wrong where exactly one of two fields has its second value: a sum of signs knows nothing of that."""
    rng = Random(seed)
    found = []
    for _ in range(count):
        a, b = rng.choice("pq"), rng.choice("rs")
        found.append((render(Content(True, {"a": a, "b": b, "name": f"name{rng.randrange(10**6)}"})), (a == "p") == (b == "r")))
    return found


def with_verdicts(made: list[Judged], verdicts: int) -> Evidence:
    return evidence_of([shown for shown, _ in made], [Said(shown, right) for shown, right in made[:verdicts]])


def told_apart(said_N: np.ndarray, judged: list[Judged]) -> float:
    """Return how often a right record is believed more than a wrong one."""
    is_right_N = np.array([right for _, right in judged])
    return float(np.mean(np.sign(said_N[is_right_N][:, None] - said_N[~is_right_N][None]) / 2 + 0.5))


def field(path: str, rare: int = 0, value: str | None = None) -> Seen:
    return Seen(path, rare, 0, None, 0, is_empty=False, amid=0, common=Common(value, None))


def test_trees_know_what_two_signs_say_together() -> None:
    made = crossed(900)
    evidence, strangers = with_verdicts(made[:600], 200), made[600:]
    records = [shown for shown, _ in strangers]
    of_sum_N = np.array([evidence._sum(*evidence._memory.look(shown)) for shown in records])
    assert told_apart(of_sum_N, strangers) < 0.7
    assert told_apart(evidence.of_all(records), strangers) > 0.98


def test_trees_are_silent_where_there_are_few_of_a_kind() -> None:
    made = crossed(600)
    stream = [shown for shown, _ in made]
    wrong = [Said(shown, False) for shown, right in made if not right]
    right = [Said(shown, True) for shown, right in made if right][:80]
    assert evidence_of(stream, [*right, *wrong[: FEWEST_OF_EACH - 1]])._forest is None
    assert evidence_of(stream, [*right, *wrong[: FEWEST_OF_EACH - 1], *wrong[:3]])._forest is None, "the same said twice is one"
    assert evidence_of(stream, [*right, *wrong[:40]])._forest is not None


@pytest.mark.parametrize("seed", range(4))
def test_what_people_throw_makes_evidence_no_louder_even_where_each_record_comes_twice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    once = [([field("a", int(rng.integers(5)), str(rng.integers(40))), field("b", int(rng.integers(5)))], 0) for _ in range(60)]
    thrown_N, of_sum_N = rng.random(60) < 0.5, rng.normal(size=60)
    texts = [str(place) for place in range(60)]
    found = grown(["a", "b"], [*once, *once], [*texts, *texts], np.tile(thrown_N, 2), np.ones(120), np.tile(of_sum_N, 2), seed)
    if found is not None:
        assert found.left_out_N.std() <= 1.05 * of_sum_N.std()
        of_trees_N = found.left_out_N - found.of_sum * np.tile(of_sum_N, 2)
        assert np.mean((of_trees_N > np.median(of_trees_N)) == np.tile(thrown_N, 2)) < 0.7, "a record must not be told by its twin"


def test_nothing_is_grown_of_records_that_look_alike() -> None:
    looked: list[Looked] = [([field("a")], 0)] * 60
    is_right_N = np.array([True] * 40 + [False] * 20)
    texts = [str(place) for place in range(60)]
    assert grown(["a"], looked, texts, is_right_N, np.ones(60), np.linspace(-1, 1, 60), 0) is None


def test_a_version_keeps_its_trees_and_says_the_same_alone_and_among_others() -> None:
    made = crossed(700)
    evidence = with_verdicts(made[:500], 200)
    assert evidence._forest is not None
    assert evidence.text.startswith('{"format":4,'), "a gate that knows no trees must not take it up"
    records = [shown for shown, _ in made]
    again = Evidence.from_text(evidence.text)
    assert again.text == evidence.text
    assert (again.of_all(records) == evidence.of_all(records)).all()
    assert [again.of(record) for record in records[:50]] == evidence.of_all(records[:50]).tolist()
    assert evidence.scaled(2).of_all(records) == pytest.approx(2 * evidence.of_all(records), abs=1e-4)
    assert evidence.of_all([]).tolist() == []


def test_a_field_that_comes_twice_counts_once_known_or_not() -> None:
    figures = Figures(["a", "b"], [("a", "is", "0a")])
    known, unknown = field("a", 2, "0a"), field("z", 4)
    once, twice, beside, beside_twice = figures.of(
        [([known], 1), ([known, known], 1), ([known, unknown], 1), ([known, unknown, unknown], 1)]
    ).tolist()
    assert once == twice
    assert beside == beside_twice
    assert sum(beside) == sum(once) + 1, "that there is a field which nobody knows"
    assert once[len(once) - 2 * 11 :] == [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0] * 2, "the most and the sum over fields"
    assert figures.of([([field(f"x{place}") for place in range(400)], 4)]).max() == 255
    assert Figures([], []).of([([known], 3)]).shape == (1, Figures([], []).width)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_gate_reads_trees_as_scikit_learn_does(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    figures_NF = rng.integers(0, 5, size=(120, 9))
    is_right_N = rng.random(120) < 0.3 + 0.1 * figures_NF[:, 0]
    is_right_N[:2] = (True, False)
    trees = ExtraTreesClassifier(8, max_depth=depth, random_state=seed).fit(figures_NF, is_right_N, sample_weight=rng.random(120) + 0.1)
    others_KF = rng.integers(0, 6, size=(50, 9))
    assert _nodes_of(trees).depth() <= depth
    assert _nodes_of(trees).shares(others_KF) == pytest.approx(trees.predict_proba(others_KF)[:, 1], abs=0.5 / PARTS + 1e-9)


@pytest.fixture(scope="module")
def grown_once() -> Evidence:
    return with_verdicts(crossed(300), 100)


def first(changed: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda each: [changed, *each[1:]]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("next_M2", first([10**6, 0])), ("next_M2", first([0.5])),
        ("next_M2", lambda each: [[(at + 1) % len(each)] * 2 for at in range(len(each))]),
        ("figure_M", first(-1)), ("figure_M", first([0, 0])), ("figure_M", first(10**30)), ("figure_M", lambda each: [[] for _ in each]),
        ("share_M", lambda each: each[1:]), ("share_M", first(PARTS + 1)), ("most_M", first("x")),
        ("roots_T", lambda each: [[root] for root in each]), ("roots_T", lambda _: []), ("roots_T", lambda each: each * 1_000),
        ("loudness", lambda _: float("nan")), ("middle_nats", lambda _: float("inf")), ("of_a_field", lambda each: each[::-1]),
    ],
)  # fmt: skip
def test_trees_that_cannot_be_read_are_refused_before_they_serve(grown_once: Evidence, name: str, change: Callable[[Any], Any]) -> None:
    evidence = grown_once
    assert evidence._forest is not None
    state = evidence._forest.as_state()
    whole, part = evidence.text, evidence._forest.as_state()[name]
    state[name] = change(list(part) if isinstance(part, (list, tuple)) else part)
    memory = {key: value for key, value in json.loads(whole).items() if key not in ("forest", "format")}
    with pytest.raises(ModelRefused, match="evidence.json cannot be read"):
        Evidence.from_text(json.dumps({"format": 4, **memory, "forest": state}))
    assert Evidence.from_text(json.dumps({"format": 4, **memory, "forest": evidence._forest.as_state()})).text == whole
