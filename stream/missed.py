"""How many wrong records pass, estimated from the flat lottery's draws: for reports and for metrics, never for a threshold.

A threshold needs draws that no training has seen (trainer/certify.py); an estimate may look at all.
"""

import numpy as np
from scipy.stats import beta


def wrong_passed(
    passes: np.ndarray, is_wrong: np.ndarray, propensity: np.ndarray, confidence: float = 0.95
) -> tuple[float, float, float] | None:
    """Return (estimate, low, high) of the share of wrong records among those that pass; None without draws.

    A Hájek estimate (weights 1/propensity) with the exact interval of as many equal draws as its weights are worth.
    """
    if not passes.any():
        return None
    weights = 1 / propensity[passes]
    share = float((weights * is_wrong[passes]).sum() / weights.sum())
    worth = float(weights.sum() ** 2 / (weights**2).sum())
    count = share * worth
    tail = (1 - confidence) / 2
    low = 0.0 if count <= 0 else float(beta.ppf(tail, count, worth - count + 1))
    high = 1.0 if count >= worth else float(beta.ppf(1 - tail, count + 1, worth - count))
    return share, low, high
