"""Stage 4: readings, violations and rewards -> decisions.

p_chosen = σ(d / temperature + bias); a record with p_chosen ≥ threshold is clean. Both are rounded to the six decimals
that leave in the headers, so that anyone can check a route from its headers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from stream.records import Decision, Reading, Reason, Rewards, Route, Unread, Violation

_DEAD = frozenset({Reason.EMPTY, Reason.UNDECODABLE, Reason.BAD_JSON, Reason.TOO_DEEP})


class Calibration(NamedTuple):
    """Turns raw d into calibrated d: d / temperature + bias."""

    temperature: float = 1.0
    bias: float = 0.0

    def p_chosen(self, d: float) -> float:
        """Return the probability that the record is right, rounded to six decimals."""
        x = d / self.temperature + self.bias
        p = 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
        return round(p, 6)


class ScorerFailed(NamedTuple):
    """Stands where rewards would: the scorer failed on this record alone."""

    detail: str


class TooLong(NamedTuple):
    """Stands where rewards would: the record is longer than the model's maximum."""

    limit_tokens: int


Judged = Rewards | ScorerFailed | TooLong | None


def decide(
    readings: Sequence[Reading],
    violations: Sequence[tuple[Violation, ...]],
    judged: Sequence[Judged],
    calibration: Calibration,
    threshold: float,
) -> list[Decision]:
    """Return one decision per record, in order; `judged` is None where no model was asked."""
    return [_decide(*each, calibration, threshold) for each in zip(readings, violations, judged, strict=True)]


def _decide(reading: Reading, violations: tuple[Violation, ...], judged: Judged, calibration: Calibration, threshold: float) -> Decision:
    if isinstance(reading, Unread):
        route = Route.DEAD_LETTER if reading.reason in _DEAD else Route.CLEAN
        return Decision(route, reading.reason, reading.detail)
    for violation in violations:
        if violation.is_error:
            return Decision(Route.QUARANTINE, f"{Reason.RULE}:{violation.rule}", violation.detail, violations=violations)
    if isinstance(judged, Rewards):
        p_chosen = calibration.p_chosen(judged.d)
        route = Route.CLEAN if p_chosen >= threshold else Route.QUARANTINE
        return Decision(route, Reason.MODEL, "", judged, p_chosen, violations)
    if isinstance(judged, TooLong):
        detail = f"longer than the model's maximum of {judged.limit_tokens} tokens"
        return Decision(Route.QUARANTINE, Reason.TOO_LONG, detail, violations=violations)
    if isinstance(judged, ScorerFailed):
        return Decision(Route.DEAD_LETTER, Reason.SCORER_FAILED, judged.detail, violations=violations)
    return Decision(Route.CLEAN, Reason.RULES, violations=violations)
