"""Trees over what a memory sees: what two signs say together, the same in a gate as in training, and nothing where people say nothing."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesClassifier

from foundation.errors import ModelRefused
from stream.evidence import Evidence
from stream.forest import Figures, Forest
from stream.memory import Common, Seen
from stream.records import Content
from stream.render import Rendered, render
from tests.unit.remembered import evidence_of
from trainer.grow import _nodes_of, grown
from trainer.weigh import Said


def measured(rng: Random) -> tuple[Rendered, bool]:
    """A reading in C or F of a site that is warm or cold: only a warm site that writes F is wrong, neither by itself is."""
    site, unit = rng.choice(("warm", "cold")), rng.choice("CF")
    return render(Content(True, {"site": site, "unit": unit, "name": f"name{rng.randrange(10**6)}"})), not (site == "warm" and unit == "F")


def cross(rng: Random) -> tuple[Rendered, bool]:
    """A record that is wrong where exactly one of two fields has its second value: a sum of signs knows nothing of that."""
    a, b = rng.choice("pq"), rng.choice("rs")
    return render(Content(True, {"a": a, "b": b, "name": f"name{rng.randrange(10**6)}"})), (a == "p") == (b == "r")


def apart(evidence: Evidence, judged: list[tuple[Rendered, bool]], trees: bool = True) -> float:
    """Return how often a right record is believed more than a wrong one."""
    memory = evidence._memory
    of_sum = np.array([evidence._sum(*memory.look(shown)) for shown, _ in judged])
    said = evidence.of_all([shown for shown, _ in judged]) if trees else of_sum
    is_right = np.array([right for _, right in judged])
    return float(np.mean(np.sign(said[is_right][:, None] - said[~is_right][None]) / 2 + 0.5))


def test_trees_know_what_two_signs_say_together() -> None:
    rng = Random(1)
    made = [cross(rng) for _ in range(900)]
    evidence = evidence_of([shown for shown, _ in made[:600]], [Said(shown, right) for shown, right in made[:200]])
    assert apart(evidence, made[600:], trees=False) < 0.7
    assert apart(evidence, made[600:]) > 0.98


def test_trees_are_silent_where_there_are_few_of_a_kind_and_where_verdicts_are_thrown() -> None:
    rng = Random(2)
    made = [measured(rng) for _ in range(600)]
    few = evidence_of([shown for shown, _ in made], [Said(shown, place >= 9) for place, (shown, _) in enumerate(made[:150])])
    assert few._forest is None
    thrown = evidence_of([shown for shown, _ in made], [Said(shown, rng.random() < 0.5) for shown, _ in made[:150]])
    assert thrown._forest is None or thrown._forest._loudness < 0.5


def test_a_version_keeps_its_trees_and_says_the_same_alone_and_among_others() -> None:
    rng = Random(1)
    made = [cross(rng) for _ in range(700)]
    evidence = evidence_of([shown for shown, _ in made[:500]], [Said(shown, right) for shown, right in made[:200]])
    assert evidence._forest is not None
    records = [shown for shown, _ in made]
    again = Evidence.from_text(evidence.text)
    assert (again.of_all(records) == evidence.of_all(records)).all()
    assert [again.of(record) for record in records[:50]] == evidence.of_all(records[:50]).tolist()
    assert evidence.scaled(2).of_all(records) == pytest.approx(2 * evidence.of_all(records), abs=1e-4)
    assert evidence.of_all([]).tolist() == []


def test_a_field_that_comes_twice_or_that_nobody_knows_counts_once() -> None:
    figures = Figures(["a", "b"], [("a", "is", "0a")])
    known = Seen("a", 2, 1, 3, 0, is_empty=True, amid=1, common=Common("0a", None), denied=1)
    unknown = Seen("z", 4, 4, None, 0, is_empty=False, amid=0, common=Common())
    row, twice, beside = figures.of([([known], 1), ([known, known], 1), ([known, unknown], 1)])
    assert row.tolist() == twice.tolist()
    assert row[: len(row) // 2].sum() > 0
    assert (beside - row).tolist().count(1) == 1
    assert (beside - row).sum() == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_gate_reads_trees_as_scikit_learn_does(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    figures_NF = rng.integers(0, 5, size=(120, 9))
    is_right = rng.random(120) < 0.3 + 0.1 * figures_NF[:, 0]
    is_right[:2] = (True, False)
    trees = ExtraTreesClassifier(8, max_depth=depth, random_state=seed).fit(figures_NF, is_right, sample_weight=rng.random(120) + 0.1)
    others = rng.integers(0, 6, size=(50, 9))
    assert _nodes_of(trees).shares(others) == pytest.approx(trees.predict_proba(others)[:, 1], abs=6e-4)


@pytest.mark.parametrize(
    ("name", "change"),
    [("next_M2", lambda each: [[10**6, 0], *each[1:]]), ("figure_M", lambda each: [-1, *each[1:]]), ("share_M", lambda each: each[1:])],
)
def test_trees_that_lead_out_of_themselves_are_refused_before_they_serve(name: str, change: object) -> None:
    rng = Random(1)
    made = [cross(rng) for _ in range(300)]
    evidence = evidence_of([shown for shown, _ in made], [Said(shown, right) for shown, right in made[:100]])
    assert evidence._forest is not None
    state = evidence._forest.as_state()
    assert Forest.from_state(state).as_state() == state
    state[name] = change(state[name])  # type: ignore[operator]
    text = evidence.text.replace(f'"{name}":', f'"{name}":{str(state[name])},"was":', 1)
    with pytest.raises(ModelRefused, match="evidence.json cannot be read"):
        Evidence.from_text(text)


def test_nothing_is_grown_of_records_that_look_alike() -> None:
    looked = [([Seen("a", 0, 0, None, 0, is_empty=False, amid=0, common=Common())], 0)] * 25
    is_right = np.array([True] * 15 + [False] * 10)
    assert grown(["a"], looked, is_right, np.ones(25), np.linspace(-1, 1, 25), 0) is None


def test_a_long_record_with_many_unknown_fields_is_looked_at() -> None:
    seen = [Seen(f"x{place}", 4, 4, None, 0, is_empty=False, amid=0, common=Common()) for place in range(400)]
    figures = Figures(["a"], [])
    assert figures.of([(seen, 4)]).max() == 255
