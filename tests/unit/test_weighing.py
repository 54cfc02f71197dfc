"""How much stream, verdicts and text count beside each other."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from stream.evidence import Evidence
from stream.records import Rewards
from tests.unit.remembered import evidence_of, stream
from trainer.balance import Heard, balance
from trainer.choices import CHOICES, ENOUGH, Choice, Given, _shares


def test_few_verdicts_hear_every_choice_and_many_those_that_they_cannot_tell_from_the_best() -> None:
    alike = np.zeros((len(CHOICES), 12))
    few, many = _shares(alike), _shares(np.tile(alike, (1, 3 * ENOUGH)))
    assert [few.sum(), many.sum()] == pytest.approx([1, 1])
    assert few.min() > 0.7 / len(CHOICES), "each about as much as the next one"
    heard = many[many > 0]
    assert len(heard) > 3 and (np.diff(many) <= 0).all() and (np.diff(heard) < 0).all(), "what hears more of the stream goes before"
    improbable = np.tile(alike, (1, ENOUGH)) + np.linspace(0, 5, len(CHOICES))[::-1, None]
    assert np.flatnonzero(_shares(improbable)).tolist() == [len(CHOICES) - 1], "the others make every verdict improbable"


def test_a_sparse_choice_gives_weight_to_the_one_sign_that_tells() -> None:
    rng = np.random.default_rng(0)
    features = (rng.random((460, 30)) < 0.3).astype(float)
    is_right = np.array([1] * 200 + [0] * 200 + [0] * 60)
    is_right[400:] = features[400:, 7] == 0
    given = Given(csr_array(features), is_right, 200, 200, np.ones(60))
    sparse, pooled = (given.fit(Choice(0.02, 0.3, is_sparse=each), np.arange(60)) for each in (True, False))
    stream_alone = given.stream_alone.weights_S
    beside = sparse.weights_S - stream_alone * (sparse.weights_S @ stream_alone) / (stream_alone @ stream_alone)
    assert np.flatnonzero(np.abs(beside) > 0.3).tolist() == [7]
    assert abs(sparse.weights_S[7]) > 2 * abs(pooled.weights_S[7]) > 0
    said = sparse.of(given.features_NS[400:])
    assert ((said > 0) == (is_right[400:] == 1)).mean() > 0.9


def test_what_a_verdict_has_taught_is_heard_where_it_is_and_as_loud_however_often_it_is_copied() -> None:
    rng = np.random.default_rng(1)
    features = csr_array((rng.random((100, 12)) < 0.4).astype(float))
    is_right = np.array([1] * 40 + [0] * 40 + [1] * 5 + [0] * 5 + [0] * 10)
    taught_by = [8] * 4 + [9] * 6
    given, without = Given(features, is_right, 40, 40, np.ones(10), taught_by), Given(features[:90], is_right[:90], 40, 40, np.ones(10))
    thrice = np.concatenate([np.arange(90), np.tile(np.arange(90, 94), 3), np.arange(94, 100)])
    copied = Given(features[thrice], is_right[np.minimum(thrice, 99)], 40, 40, np.ones(10), [8] * 12 + [9] * 6)
    for kept, is_alike in ((np.arange(8), True), (np.array([0, 1, 8]), False), (np.arange(10), False)):
        weights = given.fit(Choice(0.3), kept).weights_S
        assert np.allclose(weights, without.fit(Choice(0.3), kept).weights_S) == is_alike
        assert np.allclose(weights, copied.fit(Choice(0.3), kept).weights_S, atol=1e-4)
    assert given._shares_of(np.arange(10)).tolist() == pytest.approx([2 / 7 / 8] * 4 + [2 / 7 / 12] * 6), "two verdicts, alike"
    assert given._shares_of(np.arange(4)).sum() == pytest.approx(1 / 6)
    assert given.verdicts.tolist() == [True] * 5 + [False] * 5
    assert given.judged_NS.shape == (10, 12)


def test_a_text_that_only_speaks_against_counts_no_more_than_nothing() -> None:
    evidence = evidence_of(stream()).scaled(2, 0.0)
    again = Evidence.from_text(evidence.text)
    assert again.most_text == 0.0
    assert Evidence.from_text(evidence_of(stream()).text).most_text == float("inf")
    assert Rewards(3.0, 1.0).with_evidence(0.5, 0.0).d == pytest.approx(0.5)
    assert Rewards(1.0, 3.0).with_evidence(0.5, 0.0).d == pytest.approx(-1.5)
    assert Rewards(3.0, 1.0).with_evidence(0.5, float("inf")).d == pytest.approx(2.5)


def heard(d: np.ndarray, evidence: np.ndarray, is_right: np.ndarray) -> Heard:
    return Heard(d, evidence, is_right, np.ones(len(d)))


def test_the_evidence_is_as_loud_as_the_text_is_useless() -> None:
    rng = np.random.default_rng(0)
    is_right = rng.random(600) < 0.7
    signal, noise = np.where(is_right, 1.0, -1.0), rng.normal(0, 1, (2, 600))
    both = balance(heard(signal + noise[0], signal + noise[1], is_right))
    assert both.factor < 1.3
    deaf = balance(heard(3 * noise[0], signal + noise[1], is_right))
    assert deaf.factor == 10
    assert both.temperature == pytest.approx(0.5, rel=0.2)
    assert deaf.factor / deaf.temperature == pytest.approx(2, rel=0.2), "two nats a unit, as it speaks for itself"
    assert balance(Heard.nothing()).factor == 2
    assert both.most_text == deaf.most_text == balance(Heard.nothing()).most_text == float("inf")
    is_odd = ~is_right & (rng.random(600) < 0.3)
    by_heart = np.where(is_odd, -3.0, np.where(is_right, 1.0, 2.5)) + 0.3 * noise[0]
    assert balance(heard(by_heart, signal + noise[1], is_right)).most_text == 0, "what it takes for right says nothing"
