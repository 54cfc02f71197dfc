"""Stage 4: what could not be read, violations and rewards -> decisions, and the lotteries that pick records for blind review.

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

from stream.records import Decision, Draw, Lottery, Reason, Rewards, Route, Unread, Violation

_LEAST_P = 1e-6
_FARTHEST = math.log((1 - _LEAST_P) / _LEAST_P)
_DEAD = frozenset({Reason.EMPTY, Reason.UNDECODABLE, Reason.BAD_JSON, Reason.TOO_DEEP, Reason.SCORER_FAILED})


class Calibration(NamedTuple):
    """Turns raw d into calibrated d: d / temperature + bias."""

    temperature: float = 1.0
    bias: float = 0.0

    def calibrated(self, d: float) -> float:
        """Return calibrated d: the log-odds that the record is right, in nats."""
        return d / self.temperature + self.bias

    def p_chosen(self, d: float) -> float:
        """Return the probability that the record is right, rounded to six decimals."""
        return round(sigmoid(self.calibrated(d)), 6)


class ScorerFailed(NamedTuple):
    """Stands where rewards would: the scorer failed on this record alone."""

    detail: str


class TooLong(NamedTuple):
    """Stands where rewards would: the record is longer than the model's maximum."""

    limit_tokens: int


Judged = Rewards | ScorerFailed | TooLong | None


def decide(
    unread: Sequence[Unread | None],
    violations: Sequence[tuple[Violation, ...]],
    judged: Sequence[Judged],
    calibration: Calibration,
    threshold: float,
) -> list[Decision]:
    """Return one decision per record, in order; `unread` is None where a record could be read, `judged` where no model was asked."""
    return [_decide(*each, calibration, threshold) for each in zip(unread, violations, judged, strict=True)]


def _decide(
    unread: Unread | None, violations: tuple[Violation, ...], judged: Judged, calibration: Calibration, threshold: float
) -> Decision:
    if type(judged) is Rewards and not violations:  # most records
        p_chosen = calibration.p_chosen(judged.right - judged.wrong)
        return Decision(Route.CLEAN if p_chosen >= threshold else Route.QUARANTINE, Reason.MODEL, "", judged, p_chosen)
    if unread is not None:
        route = Route.DEAD_LETTER if unread.reason in _DEAD else Route.CLEAN
        return Decision(route, unread.reason, unread.detail)
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

    def raised(self, least: float) -> "Lotteries":
        """Return lotteries whose flat one draws at least this share; one that is off stays off, as there may be no topic to draw to."""
        return self if not self.flat or least <= self.flat else self._replace(flat=least)

    def draws(self, decision_ids: Sequence[str], decisions: Sequence[Decision], threshold: float) -> list[Draw | None]:
        """Return the pick of each decision, the flat one first; None where no model judged or nothing was drawn."""
        if not (self.flat or self.extra):
            return [None] * len(decisions)
        flat, extra = Draw(Lottery.FLAT, self.flat), Draw(Lottery.EXTRA, 1 - (1 - self.flat) * (1 - self.extra))
        lowest, highest = self._near(threshold)
        flat_hash, extra_hash = _hash(Lottery.FLAT, self.key), _hash(Lottery.EXTRA, self.key)
        found: list[Draw | None] = []
        for name, decision in zip(decision_ids, decisions, strict=True):
            p = decision.p_chosen
            if p is None:
                found.append(None)
            elif _ticket(flat_hash, name) < self.flat:
                found.append(flat)
            else:
                found.append(extra if lowest <= p <= highest and _ticket(extra_hash, name) < self.extra else None)
        return found

    def _near(self, threshold: float) -> tuple[float, float]:
        """Return the least and the greatest p_chosen that lie near the threshold."""
        low, high = logit(threshold) - self.near, logit(threshold) + self.near
        return (0.0 if low <= -_FARTHEST else sigmoid(low)), (1.0 if high >= _FARTHEST else sigmoid(high))


def ticket(decision_id: str, purpose: str, key: bytes = b"") -> float:
    """Return a number in [0, 1) that belongs to the decision, the purpose and the key, the same whenever it is asked."""
    return _ticket(_hash(purpose, key), decision_id)


def _hash(purpose: str, key: bytes) -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=8, key=key[:64], person=purpose.encode()[:16])


def _ticket(begun: "hashlib.blake2b", decision_id: str) -> float:
    mine = begun.copy()  # a third of the cost of beginning anew
    mine.update(decision_id.encode())
    return int.from_bytes(mine.digest(), "big") / 2**64


def sigmoid(x: float) -> float:
    """Return 1 / (1 + exp(-x)), exact at both ends."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def logit(p: float) -> float:
    """Return ln(p / (1 - p)) in nats, finite also at 0 and 1."""
    kept = min(max(p, _LEAST_P), 1 - _LEAST_P)
    return math.log(kept / (1 - kept))
