"""How often people call a right draw wrong, and how far what they called wrong is believed where two models are compared.

Enters: settled answers. Leaves: how people came to each, and what each counts in a comparison. Most draws are right, so that two careless
people in a row make up a part of the wrong ones; no model can know those, and the difference of two AUROC is noisy from where each puts
them. How many there are is told by second looks, and where they lie by right ones (a mixture of classes: Menon et al., ICML 2015; what it
gives and takes for granted: docs/experiments/rounds.md).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from trainer.calibrate import share_below
from trainer.verdicts import Settled

STEPS = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""How far among the right records a record lies under the model that suspects it more, as shares: mistakes are counted step by step."""
CAUTION, ENOUGH = 5.0, 100.0
"""Draws that speak for each reviewer, and for all of them, before any has been seen: of few, little is taken off."""


class Look(IntEnum):
    """How people came to a verdict: not blind; or of a draw one alone, nobody against it, two who disagree, a dispute that is settled.

    CERTAIN: three or more call it wrong, which carelessness explains of hardly any.
    """

    HELD = 0
    ONE = 1
    AGREED = 2
    OPEN = 3
    SETTLED = 4
    CERTAIN = 5


_CERTAIN = 3


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
    if each.is_disputed:
        return Look.OPEN
    latest = {answer.reviewer: answer.is_right for answer in each.answers}
    wrong = sum(not is_right for is_right in latest.values())
    if wrong >= _CERTAIN:
        return Look.CERTAIN
    if 0 < wrong < len(latest):
        return Look.SETTLED
    return Look.AGREED if each.reviewers > 1 else Look.ONE


def mistaken_chances(settled: Sequence[Settled]) -> np.ndarray:
    """Return how probably a right draw comes out as wrong by each kind of look.

    Who looks first calls a right draw wrong as often as it then came out as right against him; an open dispute counts as much as settled
    ones came out so. Those who have looked second, and those who have settled, err as they do when they look first; of whom nothing is
    known is believed.
    """
    drawn = [each for each in settled if each.is_drawn and each.answers]
    alarms = [each for each in drawn if not each.answers[0].is_right]
    seen = [each for each in alarms if len(each.answers) > 1]
    chances = np.zeros(len(Look))
    if not seen:
        return chances
    looked_twice = len(seen) / len(alarms)
    disputes = [each for each in seen if each.answers[1].is_right]
    closed = [each for each in disputes if not each.is_disputed]
    ended_right = (sum(each.is_right for each in closed) + 1) / (len(closed) + 2)  # 1/2 where none is
    still_open = 1 - len(closed) / max(1, len(disputes))
    firsts = Counter(each.answers[0].reviewer for each in drawn)
    saved: dict[str, float] = defaultdict(float)
    for each in disputes:
        saved[each.answers[0].reviewer] += ended_right if each.is_disputed else each.is_right
    usual = sum(saved.values()) / (len(drawn) * looked_twice + ENOUGH)
    # a right draw is saved only if the second and the third person do not err, too
    rates = {who: min(1.0, saved[who] / (count * looked_twice + CAUTION) / (1 - usual) ** 2) for who, count in firsts.items()}
    settlers = _mean_rate([each.answers[2].reviewer for each in closed if len(each.answers) > 2], rates)  # noqa: PLR2004
    seconds = [each.answers[1].reviewer for each in seen]
    agreed, settled_so = (_ended(seen, said) for said in ((False, False), (False, True, False)))
    for who, count in firsts.items():
        first = count / len(drawn) * rates[who]
        second = _mean_rate([other for other in seconds if other != who], rates)
        chances[Look.ONE] += first * (1 - looked_twice)
        chances[Look.AGREED] += first * looked_twice * second * agreed
        chances[Look.OPEN] += first * looked_twice * (1 - second) * still_open
        chances[Look.SETTLED] += first * looked_twice * (1 - second) * (1 - still_open) * settlers * settled_so
    return chances


def _ended(seen: Sequence[Settled], said: tuple[bool, ...]) -> float:
    """Return the share of those of which people first said this that nobody has looked at since."""
    begun = [each for each in seen if tuple(answer.is_right for answer in each.answers[: len(said)]) == said]
    return sum(len(each.answers) == len(said) for each in begun) / max(1, len(begun))


def _mean_rate(people: Sequence[str], rates: Mapping[str, float]) -> float:
    return sum(rates.get(who, 0.0) for who in people) / max(1, len(people))


def steps_of(is_right: np.ndarray, weight: np.ndarray, d_of_each: Sequence[np.ndarray]) -> np.ndarray:
    """Return the step of STEPS of each record, under the model that puts it lowest among the right ones; raw d by model."""
    shares = [share_below(d, d[is_right], weight[is_right]) for d in d_of_each]
    found: np.ndarray = np.digitize(np.min(shares, axis=0), STEPS)
    return found
