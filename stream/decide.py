"""Stage 4: readings, violations and rewards -> decisions, and the lotteries that pick records for blind review.

p_chosen = σ(d / temperature + bias); a record with p_chosen ≥ threshold is clean. Both are rounded to the six decimals
that leave in the headers, so that anyone can check a route from its headers.

If held records alone were reviewed, a wrong record that passes would be invisible for ever. So a keyed hash of the
decision id draws two lotteries over what a model judged: a replayed record gets the same ticket, and nobody without the
key can write a record that escapes.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

from stream.records import Decision, Draw, Lottery, Reading, Reason, Rewards, Route, Unread, Violation

_DEAD = frozenset({Reason.EMPTY, Reason.UNDECODABLE, Reason.BAD_JSON, Reason.TOO_DEEP, Reason.SCORER_FAILED})


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


class Lotteries(NamedTuple):
    """The two lotteries: `flat` has one known probability for all, `extra` is held among those near the threshold.

    near: how far calibrated d may lie from the threshold's, in nats.
    """

    key: bytes = b""
    flat: float = 0.0
    extra: float = 0.0
    near: float = 1.0

    def draw(self, decision_id: str, decision: Decision, threshold: float) -> Draw | None:
        """Return the pick of this decision, the flat one first; None where no model judged or nothing was drawn."""
        if decision.p_chosen is None:
            return None
        if self.flat and self._ticket(decision_id, Lottery.FLAT) < self.flat:
            return Draw(Lottery.FLAT, self.flat)
        is_near = abs(logit(decision.p_chosen) - logit(threshold)) <= self.near
        if self.extra and is_near and self._ticket(decision_id, Lottery.EXTRA) < self.extra:
            return Draw(Lottery.EXTRA, 1 - (1 - self.flat) * (1 - self.extra))
        return None

    def _ticket(self, decision_id: str, lottery: Lottery) -> float:
        return ticket(decision_id, lottery.value, self.key)


def ticket(decision_id: str, purpose: str, key: bytes = b"") -> float:
    """Return a number in [0, 1) that belongs to the decision, the purpose and the key, the same whenever it is asked."""
    found = hashlib.blake2b(decision_id.encode(), digest_size=8, key=key[:64], person=purpose.encode()[:16])
    return int.from_bytes(found.digest(), "big") / 2**64


def logit(p: float) -> float:
    """Return ln(p / (1 - p)) in nats, finite also at 0 and 1."""
    kept = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))
