"""Thresholds with a guarantee, from the flat lottery; estimates of how many wrong records pass are stream/missed.py's.

A threshold is certified when an exact binomial bound (Clopper and Pearson 1934) on the wrong among the passing flat
draws, none of whose verdicts any training has seen, is at most α with confidence 1-δ. The grid is fixed before any verdict is
looked at and tested from its strictest end until the first failure, so many tests cost no confidence (fixed-sequence
testing, Maurer et al. 1995; as in Angelopoulos et al., "Learn then Test", arXiv 2110.01052).
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

HOLD_SHARES = (0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01, 0.0)
"""The grid: thresholds that hold these shares of the unlabelled stream."""
ROOM = 0.8
"""Share of the draws that should pass the first threshold that is tested."""

LEAST_STOOD_FOR = 0.05
"""Share of all records that a rate must have drawn for to count."""


class Certificate(NamedTuple):
    """At most α of what passes is wrong, with confidence 1-δ: `wrong` of `n` passing flat draws were."""

    alpha: float
    delta: float
    n: int
    wrong: int
    threshold: float


class Refused(NamedTuple):
    """Why there is no certificate."""

    reason: str


def upper_bound(wrong: int, n: int, delta: float) -> float:
    """Return the exact upper bound at confidence 1-δ on the share of which `wrong` of `n` were drawn."""
    return 1.0 if wrong >= n else float(beta.ppf(1 - delta, wrong + 1, n - wrong))


@cache
def fewest_draws(alpha: float, delta: float, wrong: int = 0) -> int:
    """Return how many draws certify α when `wrong` of them are wrong: 299 without one at 1 % and 95 %."""
    n = max(1, math.ceil(math.log(delta) / math.log(1 - alpha)))
    while upper_bound(wrong, n, delta) > alpha:
        n += 1
    return n


def drawn_alike(propensity: Sequence[float], tickets: Sequence[float]) -> np.ndarray:
    """Return flat draws that had one and the same chance, as a bound needs it, whenever they were drawn.

    The rate changes when there is drift, so the draws of one rate alone would speak of calm times, or of the others. Of those of a
    higher rate as many are left aside by a second lottery (`tickets`, which no verdict knows) as make their chance that of the lowest.
    A rate at which less than LEAST_STOOD_FOR of all records were drawn is left aside whole, so that a short trial does not thin all.
    """
    if not len(propensity):
        return np.zeros(0, dtype=bool)
    said = np.round(np.asarray(propensity, dtype=np.float64), 6)
    rates, counts = np.unique(said, return_counts=True)
    stands_for = counts / rates / (counts / rates).sum()
    lowest = rates[stands_for >= LEAST_STOOD_FOR][0]
    alike: np.ndarray = (said >= lowest) & (np.asarray(tickets) < lowest / said)
    return alike


def certify(
    p_flat: np.ndarray,
    is_wrong: np.ndarray,
    p_stream: np.ndarray,
    alpha: float,
    delta: float,
    wanted: float = 0.0,
) -> Certificate | Refused:
    """Return the certificate of the threshold to serve, or why there is none.

    All thresholds that were tested before the first failure hold together, so any may be chosen: the strictest one that
    is not stricter than `wanted`, else the least strict one.

    p_flat, is_wrong: flat draws that all had one chance (drawn_alike), under the model to be certified; p_stream: unlabelled
    records, which place the grid.
    """
    if not len(p_flat):
        return Refused("no audit draws")
    needed = fewest_draws(alpha, delta)
    # the first test must survive as many wrong ones as there are draws for: it is failed by bad luck otherwise
    bearable = [fewest_draws(alpha, delta, wrong) for wrong in (3, 2, 1)]
    comfortable = next((draws for draws in bearable if draws <= ROOM * len(p_flat)), needed)
    grid = sorted({round(float(np.quantile(p_stream, share)), 6) for share in HOLD_SHARES}, reverse=True) if len(p_stream) else [0.0]
    held: list[Certificate] = []
    for threshold in grid:
        passes = p_flat >= threshold
        n, wrong = int(passes.sum()), int((is_wrong & passes).sum())
        # which thresholds are tested depends on the number of draws alone, never on their verdicts
        if n < comfortable:
            continue
        if upper_bound(wrong, n, delta) > alpha:
            failed = Refused(f"{wrong} of {n} passing audit draws were wrong: more than {alpha:.2%} cannot be ruled out")
            return _served(held, wanted) if held else failed
        held.append(Certificate(alpha, delta, n, wrong, threshold))
    if held:
        return _served(held, wanted)
    return Refused(f"{len(p_flat)} audit draws are too few: {alpha:.2%} at {1 - delta:.0%} needs {needed} that pass, without one wrong")


def _served(held: Sequence[Certificate], wanted: float) -> Certificate:
    """Return the one to serve of those that hold, the strictest first."""
    return next((each for each in held if each.threshold <= wanted), held[-1])
