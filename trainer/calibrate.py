"""Raw d of held-out and unlabelled records -> temperature, bias, threshold, and the figures of an evaluation."""

import math

import numpy as np
from sklearn.linear_model import LogisticRegression

from model_registry.manifest import Calibration, Threshold

FEWEST_OF_A_CLASS = 10


def auroc_of(d: np.ndarray, is_right: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Return how often a right record has the larger d, a tie counted half; both kinds must be there.

    With weights, a pair of records counts the product of theirs.
    """
    w = np.ones(len(d)) if weight is None else weight
    below_right = share_below(d[is_right], d[~is_right], w[~is_right])
    return float((w[is_right] * below_right).sum() / w[is_right].sum())


def share_below(d: np.ndarray, others: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return, for each d, the share of the others' weight that lies below it, equal ones counted half."""
    order = np.argsort(others, kind="stable")
    at, below = others[order], np.concatenate([[0.0], np.cumsum(weight[order])])
    share: np.ndarray = (below[np.searchsorted(at, d, "left")] + below[np.searchsorted(at, d, "right")]) / (2 * below[-1])
    return share


def fit(d: np.ndarray, is_right: np.ndarray, weight: np.ndarray) -> Calibration:
    """Fit p = σ(d / temperature + bias) on held-out verdicts (Platt 1999); the identity where there are too few.

    weight: how many records of the stream each one stands for; without it the held ones, which are all reviewed, would
    make the stream look worse than it is.
    """
    if min(is_right.sum(), (~is_right).sum()) < FEWEST_OF_A_CLASS:
        return Calibration()
    scale = float(np.std(d)) or 1.0
    model = LogisticRegression(C=10.0).fit((d / scale)[:, None], is_right, sample_weight=weight / weight.mean())
    slope = float(model.coef_[0, 0]) / scale
    if slope <= 0 or not math.isfinite(slope):
        return Calibration()
    return Calibration(temperature=round(1 / slope, 6), bias=round(float(model.intercept_[0]), 6))


def p_of(d: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return p_chosen of every d."""
    x = np.clip(d / calibration.temperature + calibration.bias, -60, 60)
    p: np.ndarray = np.round(1 / (1 + np.exp(-x)), 6)  # as the gate rounds before it compares
    return p


def cold_threshold(p: np.ndarray, hold_share: float) -> Threshold:
    """Return the threshold that holds the given share of unlabelled records."""
    place = round(float(np.quantile(p, hold_share)), 6) if len(p) else 0.5
    return Threshold(p_chosen=place, chosen_by=f"holds the lowest {hold_share:.0%} of the unlabelled records", reason="no verdicts")


def right_held_threshold(p: np.ndarray, right_held_share: float) -> Threshold:
    """Return the largest threshold at which the expected share of right records held stays within the limit.

    `p` are calibrated p_chosen of unlabelled records: their sum counts the right ones, the part of it below a
    threshold those that it would hold.
    """
    ordered = np.sort(p)
    held = np.cumsum(ordered) / max(float(ordered.sum()), 1e-9)
    place = int(np.searchsorted(held, right_held_share, side="right"))
    chosen = float(ordered[min(place, len(ordered) - 1)]) if len(ordered) else 0.5
    said = f"expected to hold {right_held_share:.0%} of the right records"
    return Threshold(p_chosen=round(chosen, 6), chosen_by=said, reason="no audit draws")
