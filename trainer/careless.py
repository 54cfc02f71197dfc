"""How often people are careless, by their second looks, and how far what they called wrong counts where two models are compared.

Enters: settled answers. Leaves: how people came to each, and the weight of each in a comparison.

A wrong on a draw counts when two have seen it. But nine draws in ten are right: with one careless answer in twenty, one right draw in 200
comes out as wrong all the same, which may be a fifth of all draws that do. No model can know them; each puts them somewhere among the
right ones, and the difference of two AUROC is mostly noise from there. How many there are is known, since second looks tell how often a
right draw is called wrong, and so is where: a right record lies anywhere among right ones. So many are taken off, wherever they would lie
(classes in each other's noise: Menon et al., ICML 2015; what it gives: docs/experiments/rounds.md).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from trainer.verdicts import Settled

STEPS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""How far among the right records a record lies under the model that suspects it more, as shares: mistakes are counted step by step."""


class Looks(NamedTuple):
    """How people came to a verdict: how probable it is that a right record, looked at so, is called wrong; whether they disagreed."""

    chance: float
    was_disputed: bool


def looks_of(settled: Sequence[Settled]) -> dict[str, Looks]:
    """Return how people came to each verdict, by decision id.

    Of a right draw the first answer is wrong as often as of those that second looks saved. It comes out as wrong if the second
    one is, too, or while it waits for that. What is held has one look, unless two have answered.
    """
    drawn = [each for each in settled if each.is_drawn]
    right = [each for each in drawn if each.is_right and not each.is_pending]
    once = sum(not each.answers[0] for each in right) / max(1, len(right))
    first_wrong = [each for each in drawn if not each.answers[0]]
    waiting = sum(len(each.answers) == 1 for each in first_wrong) / max(1, len(first_wrong))
    twice = once * (waiting + (1 - waiting) * once)
    return {each.decision_id: Looks(twice if each.is_drawn or len(each.answers) > 1 else once, each.was_disputed) for each in settled}


def counted(weight: np.ndarray, is_right: np.ndarray, looks: Sequence[Looks], d_of_each: Sequence[np.ndarray]) -> np.ndarray:
    """Return what each record counts: right ones their weight, of those called wrong as much less as carelessness explains.

    Nothing of a wrong one on which people disagreed, since most of those are right ones. weight: how many records of the stream each one
    stands for; d_of_each: raw d by model. All of the models must hold a record for right before much is taken off.
    """
    is_wrong = ~is_right
    if not (is_right.any() and is_wrong.any()):
        return weight
    chance = np.array([each.chance for each in looks])
    kept = np.where(is_wrong & np.array([each.was_disputed for each in looks]), 0.0, weight)
    place = np.digitize(np.min([_share_below(d, is_right, weight) for d in d_of_each], axis=0), STEPS)
    found = kept.copy()
    for step in range(len(STEPS) + 1):
        here = place == step
        called_wrong, mistaken = kept[here & is_wrong].sum(), (kept * chance)[here & is_right].sum()
        if called_wrong > 0:
            found[here & is_wrong] *= max(0.0, 1 - mistaken / called_wrong)
    return found


def _share_below(d: np.ndarray, is_right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the share of right records with a smaller d than each record, equal ones counted half."""
    order = np.argsort(d[is_right], kind="stable")
    at, below = d[is_right][order], np.concatenate([[0.0], np.cumsum(weight[is_right][order])])
    share: np.ndarray = (below[np.searchsorted(at, d, "left")] + below[np.searchsorted(at, d, "right")]) / (2 * below[-1])
    return share
