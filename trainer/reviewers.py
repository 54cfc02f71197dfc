"""Reviewers do not err alike: how often each one does, and what that says of each verdict.

Enters: how probable each verdict is to a model that has not seen it, and who gave it. Leaves: the same, by the reviewer's own rate.
The model speaks of all reviewers together; for one of them the odds of a mistake are changed by the reviewer's own rate, which is the
mean of what then comes out: expectation maximisation for another prior (Saerens, Latinne and Decaestecker, Neural Computation 14, 2002).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

ENOUGH = 20.0
"""Verdicts of one reviewer that weigh as much as the mean of all."""
_STEPS = 50
_LEAST = 1e-4


def error_rates(reviewers: Sequence[str], probability_N: np.ndarray) -> dict[str, float]:
    """Return how often each reviewer is probably mistaken; one with few verdicts is taken to err as all do."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, reviewer in enumerate(reviewers):
        places[reviewer].append(place)
    mistaken_N = _mistaken(probability_N)
    usual = float(mistaken_N.mean())
    rates = {}
    for reviewer, its in places.items():
        rate = usual
        for _ in range(_STEPS):
            changed = _at_rate(mistaken_N[its], rate, usual)
            rate = float((ENOUGH * usual + changed.sum()) / (ENOUGH + len(its)))
        rates[reviewer] = rate
    return rates


def by_reviewer(reviewers: Sequence[str], probability_N: np.ndarray) -> np.ndarray:
    """Return how probable each verdict is, given how often the one who gave it errs."""
    rates = error_rates(reviewers, probability_N)
    mistaken_N = _mistaken(probability_N)
    its_rate_N = np.array([rates[reviewer] for reviewer in reviewers])
    found_N: np.ndarray = 1 - _at_rate(mistaken_N, its_rate_N, float(mistaken_N.mean()))
    return found_N


def _mistaken(probability_N: np.ndarray) -> np.ndarray:
    mistaken_N: np.ndarray = np.clip(1 - probability_N, _LEAST, 1 - _LEAST)
    return mistaken_N


def _at_rate(mistaken_N: np.ndarray, rate: float | np.ndarray, usual: float) -> np.ndarray:
    """Return the probabilities of a mistake where mistakes are as frequent as `rate` says instead of `usual`."""
    wrong_N = mistaken_N * rate / usual
    changed_N: np.ndarray = wrong_N / (wrong_N + (1 - mistaken_N) * (1 - rate) / (1 - usual))
    return changed_N
