"""How often people are careless, by their second looks, and how far what they called wrong is believed where two models are compared.

Enters: settled answers. Leaves: how people came to each, and what each counts in a comparison.

A wrong on a draw counts when two have seen it. But most draws are right, and of those some come out as wrong all the same, since two
people were careless about them. No model can know them: each puts them somewhere among the right ones, and the difference of two AUROC is
noisy from there. How many there are can be told, from how often a second look saves a right draw, and so can where they lie: where right
ones do. So many are taken off, each kind of look for itself (a mixture of classes: Menon et al., ICML 2015; what it gives, and what it
takes for granted: docs/experiments/rounds.md).
"""

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from trainer.verdicts import Settled

STEPS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""How far among the right records a record lies under the model that suspects it more, as shares: mistakes are counted step by step."""
ENOUGH = 20.0
"""Draws of one reviewer that weigh as much as what is known of all; and draws of all that weigh as much as that nobody is careless."""


class Look(IntEnum):
    """How people came to a verdict: not blind; or of a draw one of them alone, nobody against it, or somebody against it."""

    HELD = 0
    ONE = 1
    AGREED = 2
    DISPUTED = 3


class Looks(NamedTuple):
    """How people came to each of N verdicts, and chances_L: how probably a right draw comes out as wrong by each kind of look."""

    of_each: list[Look]
    chances: np.ndarray

    def at(self, places: np.ndarray) -> "Looks":
        """Return those of the verdicts at these places."""
        return self._replace(of_each=[self.of_each[place] for place in places])

    def believed(self, step_N: np.ndarray, is_right_N: np.ndarray, weight_N: np.ndarray) -> np.ndarray:
        """Return what each record counts: of draws called wrong as much less as carelessness explains, step by step and look by look.

        weight_N: how many records of the stream each one stands for. What was held counts as it is.
        """
        look_N = np.array(self.of_each)
        right_draws_S = np.bincount(step_N, weight_N * (is_right_N & (look_N != Look.HELD)), minlength=len(STEPS) + 1)
        kind_N = step_N * len(Look) + look_N
        called_wrong = np.bincount(kind_N, weight_N * ~is_right_N, minlength=(len(STEPS) + 1) * len(Look))
        mistaken = np.outer(right_draws_S, self.chances).ravel()
        share = np.clip(1 - mistaken / np.maximum(called_wrong, 1e-12), 0, 1)
        found: np.ndarray = np.where(is_right_N, weight_N, weight_N * share[kind_N])
        return found


def look_of(each: Settled) -> Look:
    """Return how people came to a verdict."""
    if not each.is_drawn:
        return Look.HELD
    if len({answer.is_right for answer in each.answers}) > 1:
        return Look.DISPUTED
    return Look.AGREED if each.reviewers > 1 else Look.ONE


def mistaken_chances(settled: Sequence[Settled]) -> np.ndarray:
    """Return how probably a right draw comes out as wrong by each kind of look.

    A reviewer errs as often as others say right where he said wrong first. Another one looks then, who errs as often as others do: both
    together make AGREED, one of them and whoever settles it DISPUTED. Who has few draws errs as all do, and of few draws nobody errs.
    """
    drawn = [each for each in settled if each.is_drawn and each.answers]
    called_wrong = [each for each in drawn if not each.answers[0].is_right]
    chances = np.zeros(len(Look))
    if not called_wrong:
        return chances
    waiting = sum(each.reviewers == 1 for each in called_wrong) / len(called_wrong)
    saved = [each for each in called_wrong if len(each.answers) > 1 and each.answers[1].is_right]
    still_open = sum(each.is_disputed for each in saved) / max(1, len(saved))
    firsts = Counter(each.answers[0].reviewer for each in drawn)
    saves = Counter(each.answers[0].reviewer for each in saved)
    seconds = max(1 - waiting, 1 / len(called_wrong))  # of those that need a second look, so many have had it
    usual = len(saved) / seconds / (len(drawn) + ENOUGH)
    careless = {who: min(1.0, (saves[who] / seconds + ENOUGH * usual) / (count + ENOUGH)) for who, count in firsts.items()}
    total, of_all = sum(firsts.values()), sum(count * careless[who] for who, count in firsts.items())
    for who, count in firsts.items():
        others = (of_all - count * careless[who]) / (total - count) if total > count else usual
        first = count / total * careless[who]
        chances[Look.ONE] += first * waiting
        chances[Look.AGREED] += first * (1 - waiting) * others
        chances[Look.DISPUTED] += first * (1 - waiting) * (1 - others) * (still_open + (1 - still_open) * others)
    return chances


def steps_of(is_right: np.ndarray, weight: np.ndarray, d_of_each: Sequence[np.ndarray]) -> np.ndarray:
    """Return the step of STEPS of each record, under the model that puts it lowest among the right ones; raw d by model."""
    found: np.ndarray = np.digitize(np.min([_share_below(d, is_right, weight) for d in d_of_each], axis=0), STEPS)
    return found


def _share_below(d: np.ndarray, is_right: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the share of right records with a smaller d than each record, equal ones counted half."""
    order = np.argsort(d[is_right], kind="stable")
    at, below = d[is_right][order], np.concatenate([[0.0], np.cumsum(weight[is_right][order])])
    share: np.ndarray = (below[np.searchsorted(at, d, "left")] + below[np.searchsorted(at, d, "right")]) / (2 * below[-1])
    return share
