"""Stages 0 to 4 over one batch, without Kafka: the gate runs them in two halves, `winnow score` one after the other.

Enters: records. Leaves: decisions, same length and order. A record on which the scorer fails is found by bisecting;
a scorer that fails on a text it is known to judge is broken, and no record is blamed for it.
"""

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from foundation.errors import ModelRefused
from stream.cache import RewardCache
from stream.config import GateSettings
from stream.decide import Calibration, Judged, Lotteries, ScorerFailed, TooLong, decide
from stream.explain import suspects
from stream.read import Read, Reader
from stream.records import Decision, Reason, Record, Rewards, Route, Unread
from stream.rules import Rules
from stream.schemas import Schemas
from stream.tokenise import Ids

if TYPE_CHECKING:  # a gate in rules mode starts without torch
    from stream.live_model import LiveModel
    from stream.reading_process import ReadingProcess

log = logging.getLogger("winnow.judge")

_LEAST_EXPLAINED, _ONE_IN = 16, 5


class Judge:
    """The stages with their settings, rules and model; `model` None judges by rules alone."""

    def __init__(
        self,
        settings: GateSettings,
        rules: Rules,
        model: "LiveModel | None",
        reads: "Reader | ReadingProcess | None" = None,
        lotteries: Lotteries | None = None,
        cache: RewardCache | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        """Take what does not change from batch to batch; a new model or new rules make a new Judge.

        `reads` is what reads for these rules and this model, here or in a process of its own; None makes one here. `cache`
        remembers what models said, and is shared with the judges before and after. `schemas` open framed values; None takes no value
        for framed.
        """
        self._form = settings.format
        self._explain = settings.explain
        self._lotteries = lotteries
        self.least_audit_rate = 0.0  # raised while there is drift
        self._cache = cache
        self._schemas = schemas
        self.reads = reads or reader_of(settings, rules, model)
        self.rules = rules
        self.model = model

    def read(self, records: Sequence[Record]) -> Read:
        """Host half: 0 opens framed values, then stages 1 to 3b. Raises SchemaRegistryAway."""
        values, unopened = [record.value for record in records], dict[int, Unread]()
        if self._schemas is not None:
            values, unopened = self._schemas.opened_all(values)
        names, readings = [record.decision_id for record in records], self.reads.read(values)
        for place, why in unopened.items():  # None was read in its place, a tombstone
            readings.unread[place] = why
        for name, unread in zip(names, readings.unread, strict=True):
            if unread is not None and unread.reason is Reason.SCORER_FAILED:
                log.error("a record could not be read", extra={"decision_id": name, "error": unread.detail.partition(":")[0]})
        return Read(values, self._form, names, readings)

    def decide(self, read: Read, *, explain: bool = True) -> list[Decision]:
        """Device half: 3c batches and 3d rewards, then 4 decisions; `explain` False leaves out which fields were to blame."""
        unread, violations, asked, encoded, evidence_K = read.readings
        judged: list[Judged] = [None] * len(unread)
        if self.model is None:
            return decide(unread, violations, judged, Calibration(), 0.0)
        most_text = None if self.model.evidence is None else self.model.evidence.most_text
        fitting, ids_fitting, said = [], [], []
        for place, ids, evidence in zip(asked, encoded.split(), evidence_K.tolist(), strict=True):
            if ids is None:
                judged[place] = TooLong(self.model.scorer.encoder.max_length)
            else:
                fitting.append(place)
                ids_fitting.append(ids)
                said.append(evidence)
        for place, rewards, evidence in zip(fitting, self._remembered(ids_fitting, self.model.digest), said, strict=True):
            judged[place] = (
                rewards.with_evidence(evidence, most_text) if most_text is not None and isinstance(rewards, Rewards) else rewards
            )
        decisions = decide(unread, violations, judged, self.model.calibration, self.model.threshold)
        if self._lotteries is not None:
            draws = self._lotteries.raised(self.least_audit_rate).draws(read.decision_ids, decisions, self.model.threshold)
            decisions = [d if draw is None else d._replace(draw=draw) for d, draw in zip(decisions, draws, strict=True)]
        return self._explained(read, decisions) if explain and self._explain else decisions

    def _explained(self, read: Read, decisions: list[Decision]) -> list[Decision]:
        """Add the suspect fields of records that the model holds, of so many that a flood stays within its time."""
        model = self.model
        held = [place for place, d in enumerate(decisions) if d.route is Route.QUARANTINE and d.reason == Reason.MODEL]
        held = held[: max(_LEAST_EXPLAINED, len(decisions) // _ONE_IN)]
        if model is None or not held:
            return decisions
        contents = [content for place in held if (content := read.content(place)) is not None]
        try:
            found = suspects(contents, model.scorer, model.rendering, model.evidence)
        except Exception as error:  # noqa: BLE001 - a record is judged whether or not it can be explained
            log.warning("held records could not be explained", extra={"error": type(error).__name__})
            return decisions
        for place, suspect in zip(held, found, strict=True):
            decisions[place] = decisions[place]._replace(suspect=suspect)
        return decisions

    def _remembered(self, ids: list[Ids], digest: str) -> list[Rewards | ScorerFailed]:
        return self._rewards(ids) if self._cache is None else self._cache.rewards(digest, ids, self._rewards)

    def _rewards(self, ids: list[Ids]) -> list[Rewards | ScorerFailed]:
        """Score all at once; on failure halve the memory or the batch until the one record that fails stands alone."""
        if not ids or self.model is None:
            return []
        scorer = self.model.scorer
        try:
            rewards_B2 = scorer.rewards(ids)
        except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
            if _is_out_of_memory(error) and scorer.budget_tokens > encoder_minimum(self.model):
                scorer.budget_tokens = max(encoder_minimum(self.model), scorer.budget_tokens // 2)
                log.warning("out of memory: batch halved", extra={"batch_tokens": scorer.budget_tokens})
                return self._rewards(ids)
            if len(ids) > 1:
                middle = len(ids) // 2
                return self._rewards(ids[:middle]) + self._rewards(ids[middle:])
            self._refuse_broken_scorer(error)
            return [ScorerFailed(f"{type(error).__name__}: {error}"[:500])]
        if np.isfinite(rewards_B2).all():
            return [Rewards(right, wrong) for right, wrong in rewards_B2.tolist()]
        found = [_as_rewards(right, wrong) for right, wrong in rewards_B2.tolist()]
        failed = [place for place, each in enumerate(found) if isinstance(each, ScorerFailed)]
        self._refuse_broken_scorer(ArithmeticError(f"{len(failed)} of {len(ids)} records have rewards that are no number"))
        if len(ids) > 1:  # in a batch of their own, so that nobody is blamed for a neighbour
            for place in failed:
                [found[place]] = self._rewards([ids[place]])
        return found

    def _refuse_broken_scorer(self, error: Exception) -> None:
        """Raise ModelRefused when even the simplest record cannot be scored: then the model, not the record, is at fault."""
        if self.model is None:
            return
        try:
            simplest = self.model.scorer.encoder.encode(["a"])[0] or []
            if all(math.isfinite(reward) for reward in self.model.scorer.rewards([simplest])[0].tolist()):
                return
        except (RuntimeError, ValueError, IndexError, ArithmeticError):
            log.exception("the scorer fails on a plain text")
        raise ModelRefused(f"{self.model.label} cannot score any record any more: {error}") from error


def reader_of(settings: GateSettings, rules: Rules, model: "LiveModel | None") -> Reader:
    """Return what reads for a model: its rendering and its encoder."""
    if model is None:
        return Reader(settings.format, rules)
    return Reader(settings.format, rules, model.rendering, model.scorer.encoder.encode_flat, model.evidence)


def encoder_minimum(model: "LiveModel") -> int:
    """Return the smallest token budget worth trying: one record of the greatest length."""
    return model.scorer.encoder.max_length


def _as_rewards(right: float, wrong: float) -> Rewards | ScorerFailed:
    if math.isfinite(right) and math.isfinite(wrong):
        return Rewards(right, wrong)
    return ScorerFailed(f"the rewards are {right} and {wrong}")


def _is_out_of_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
