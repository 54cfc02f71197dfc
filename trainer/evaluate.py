"""A new model beside the champion on the same held-out records: figures, and whether it may take over."""

from typing import NamedTuple

import numpy as np

from trainer.calibrate import auroc_of
from trainer.careless import Looks, steps_of

RESAMPLES = 1_000
CONFIDENCE = 0.95  # of each bound for itself; the ends of a two-sided interval would ask for 97.5 %, which small hold-outs never give
WORSE_AUROC = 0.005
FEWEST_OF_A_CLASS = 10


class Judged(NamedTuple):
    """One model on the held-out records: raw d, p_chosen, and its threshold."""

    d: np.ndarray
    p_chosen: np.ndarray
    threshold: float


class Comparison(NamedTuple):
    """Candidate minus champion with lower and upper 95 % bounds by paired bootstrap, each bound for itself.

    Recall is the share of wrong records that is held. All figures are weighted by how many records of the stream each one stands for;
    taken_off: which share of what people called wrong is taken for carelessness.
    """

    auroc_champion: float
    auroc: float
    auroc_low: float
    auroc_high: float
    recall_champion: float
    recall: float
    recall_low: float
    recall_high: float
    taken_off: float = 0.0


class Promotion(NamedTuple):
    """Whether the candidate becomes champion, and why."""

    promoted: bool
    why: str


def recall_of(judged: Judged, is_right: np.ndarray, weight: np.ndarray) -> float:
    """Return the share of wrong records that the model holds."""
    held = judged.p_chosen[~is_right] < judged.threshold
    return float((held * weight[~is_right]).sum() / weight[~is_right].sum())


def compare(
    candidate: Judged, champion: Judged, is_right: np.ndarray, weight: np.ndarray, seed: int, looks: Looks | None = None
) -> Comparison | None:
    """Compare both models on the same records; None where there are too few of a kind.

    weight: how many records of the stream each one stands for (1/propensity), so that what a champion has held, and is
    therefore judged by for certain, does not speak for it alone. looks: how people came to each verdict; without, each is believed.
    """
    if not (is_right.any() and (~is_right).any()):
        return None
    worth = weight if looks is None else looks.believed(steps_of(is_right, weight, [candidate.d, champion.d]), is_right, weight)
    if min(is_right.sum(), (worth / weight)[~is_right].sum()) < FEWEST_OF_A_CLASS:
        return None
    random = np.random.default_rng(seed)
    right, wrong = np.flatnonzero(is_right), np.flatnonzero(~is_right & (worth > 0))
    differences = np.empty((RESAMPLES, 2))
    for n in range(RESAMPLES):
        # both kinds are drawn for themselves, so no resample lacks one
        drawn = np.concatenate([random.choice(right, len(right)), random.choice(wrong, len(wrong))])
        differences[n] = _difference(_at(candidate, drawn), _at(champion, drawn), is_right[drawn], worth[drawn])
    low, high = bounds_of(differences)
    return Comparison(
        auroc_of(champion.d, is_right, worth), auroc_of(candidate.d, is_right, worth), float(low[0]), float(high[0]),
        recall_of(champion, is_right, worth), recall_of(candidate, is_right, worth), float(low[1]), float(high[1]),
        float(1 - worth[~is_right].sum() / weight[~is_right].sum()),
    )  # fmt: skip


def _at(judged: Judged, places: np.ndarray) -> Judged:
    return Judged(judged.d[places], judged.p_chosen[places], judged.threshold)


def _difference(candidate: Judged, champion: Judged, is_right: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Return candidate minus champion: AUROC and recall."""
    return (
        auroc_of(candidate.d, is_right, weight) - auroc_of(champion.d, is_right, weight),
        recall_of(candidate, is_right, weight) - recall_of(champion, is_right, weight),
    )


def bounds_of(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper bound of each column, each with 95 % confidence for itself."""
    low, high = np.quantile(differences, [1 - CONFIDENCE, CONFIDENCE], axis=0)
    return low, high


def may_promote(comparison: Comparison | None) -> Promotion:
    """Return whether the candidate is not worse: the lower 95 % bound of ΔAUROC above -0.005, recall not lower beyond noise."""
    if comparison is None:
        return Promotion(
            False, f"the hold-out has fewer than {FEWEST_OF_A_CLASS} right or wrong records that count, so the two cannot be compared"
        )
    said = f"AUROC {comparison.auroc:.4f}, champion {comparison.auroc_champion:.4f}, difference at least {comparison.auroc_low:+.4f}"
    off = f" ({comparison.taken_off:.1%} of what people called wrong taken for carelessness)" if comparison.taken_off else ""
    if comparison.auroc_low <= -WORSE_AUROC:
        return Promotion(False, f"it may be worse: {said}, the limit is -{WORSE_AUROC}{off}")
    if comparison.recall_high < 0:
        return Promotion(
            False,
            f"it holds fewer wrong records: {comparison.recall:.3f} instead of {comparison.recall_champion:.3f}, "
            f"difference at most {comparison.recall_high:+.3f}{off}",
        )
    return Promotion(True, f"not worse: {said}{off}")
