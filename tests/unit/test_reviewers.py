"""Whoever errs often is found out by a model that errs itself, and their verdicts are doubted more."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer.reviewers import by_reviewer, error_rates

RATES = {"careful": 0.02, "usual": 0.1, "careless": 0.4}


def world(count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return who gave each verdict, how probable a model that has not seen it finds it, and whether it is a mistake."""
    random = np.random.default_rng(seed)
    reviewers = random.choice(list(RATES), count)
    is_mistake = random.random(count) < np.array([RATES[each] for each in reviewers])
    usual = is_mistake.mean()
    says = random.normal(np.where(is_mistake, 1.2, -1.2), 1.5)  # log-odds 2 * 1.2 / 1.5² of what it sees, beside the prior
    odds = np.exp(2 * 1.2 / 1.5**2 * says) * usual / (1 - usual)
    return list(reviewers), 1 / (1 + odds), is_mistake


def test_the_rates_come_out_and_mistakes_are_found_better() -> None:
    reviewers, probability, is_mistake = world(3_000, 1)
    rates = error_rates(reviewers, probability)
    assert rates == pytest.approx(RATES, abs=0.04)
    before = roc_auc_score(is_mistake, 1 - probability)
    after = roc_auc_score(is_mistake, 1 - by_reviewer(reviewers, probability))
    assert after > before + 0.02


def test_who_all_err_alike_are_doubted_as_before() -> None:
    _, probability, _ = world(2_000, 2)
    alone = by_reviewer(["one"] * 2_000, probability)
    assert np.abs(alone - probability).max() < 0.02
    assert (np.argsort(alone) == np.argsort(probability)).all()


def test_a_newcomer_errs_as_all_do() -> None:
    reviewers, probability, _ = world(500, 3)
    rates = error_rates([*reviewers, "new"], np.append(probability, 0.001))
    assert rates["new"] < 0.25
    assert 0 < rates["new"] < 1
