"""What watches the model in service while it judges: a flood of held records, and drift of what passes.

Enters: decisions, batch by batch. Leaves: metrics, and what the follower is asked to do: go back to the champion before, or
ask for a training. Only what is in service is watched; what its predecessor still had in flight says nothing about it.
"""

import logging
from collections import deque
from typing import NamedTuple

from stream.config import GateSettings
from stream.decide import ticket
from stream.drift import Drift, Drifted
from stream.follow import Follower
from stream.judge import Judge
from stream.metrics import GateMetrics
from stream.read import Read
from stream.records import Decision, Reason, Route
from stream.render import render

log = logging.getLogger("winnow.gate")

FLOOD_RECORDS = 1_000
_COMPARED_EVERY = 50


class Flood(NamedTuple):
    """The share of the last thousand records that is held, and the share that the model holds."""

    held: float
    by_model: float


class FloodGuard:
    """Watches what one model and one rules file make of the last thousand records; who suddenly holds half has gone wrong."""

    def __init__(self, judge: Judge) -> None:
        """Start empty: there is no share before a thousand records."""
        self.raised = False
        self.asked = False
        self._judge = judge
        self._held: deque[bool] = deque(maxlen=FLOOD_RECORDS)
        self._by_model: deque[bool] = deque(maxlen=FLOOD_RECORDS)

    def shares(self, judge: Judge, decisions: list[Decision]) -> Flood | None:
        """Add a judge's decisions and return the shares; None for another judge, and as long as there are too few."""
        if judge is not self._judge:
            return None
        held = [decision.route is Route.QUARANTINE for decision in decisions]
        self._held.extend(held)
        self._by_model.extend(is_held and d.reason == Reason.MODEL for is_held, d in zip(held, decisions, strict=True))
        if len(self._held) < FLOOD_RECORDS:
            return None
        return Flood(sum(self._held) / FLOOD_RECORDS, sum(self._by_model) / FLOOD_RECORDS)


class DriftGuard:
    """Compares a share of what one model lets through with the baseline of its version."""

    def __init__(self, judge: Judge, share: float) -> None:
        """Start empty; without a model, a baseline or a share nothing is ever said."""
        self.raised = False
        self._judge = judge
        self._share = share
        baseline = None if judge.model is None else judge.model.baseline
        self._drift = Drift(baseline) if baseline is not None and share else None
        self._threshold = None if baseline is None else baseline.threshold
        self._since = 0

    def look(self, judge: Judge, read: Read, decisions: list[Decision]) -> Drifted | None:
        """Add a share of what the version would let through and return how far it is from the baseline; None while there is nothing new.

        Where `gate.threshold` lets others through, these are compared all the same: they are what the baseline was made of.
        """
        if judge is not self._judge or self._drift is None or judge.model is None:
            return None
        threshold = judge.model.threshold if self._threshold is None else self._threshold
        for place, decision in enumerate(decisions):
            if decision.rewards is None or decision.p_chosen is None or decision.p_chosen < threshold:
                continue
            if ticket(read.decision_ids[place], "drift") < self._share and (content := read.content(place)) is not None:
                self._drift.add(render(content, judge.model.rendering), decision.rewards.d)
                self._since += 1
        if self._since < _COMPARED_EVERY:
            return None
        self._since = 0
        return self._drift.found()


class Guards:
    """Both guards of what is in service."""

    def __init__(self, judge: Judge, follower: Follower, metrics: GateMetrics, settings: GateSettings) -> None:
        """Begin with what is in service."""
        self._follower = follower
        self._metrics = metrics
        self._settings = settings
        self.taken_up(judge)

    def taken_up(self, judge: Judge) -> None:
        """Begin anew with another model or other rules."""
        self._flood = FloodGuard(judge)
        self._drift = DriftGuard(judge, self._settings.drift_share if self._settings.drift_psi else 0.0)
        self._metrics.flood.set(0)
        self._metrics.no_drift()

    def committed(self, judge: Judge, decisions: list[Decision]) -> None:
        """Watch for a flood in what has left."""
        shares = self._flood.shares(judge, decisions)
        if shares is None:
            return
        most = self._settings.max_hold_share
        self._metrics.held_share.set(shares.held)
        is_flood = shares.held > most
        if is_flood and not self._flood.raised:
            said = {"held_share": round(shares.held, 3), "held_by_model": round(shares.by_model, 3)}
            log.error("too much is held", extra={**said, "gate.max_hold_share": most})
        model, is_models = judge.model, shares.by_model > most  # else the rules hold it
        if self._settings.flood_rollback and model is not None and is_models and not self._flood.asked:
            self._follower.flooded(model.digest)
        self._flood.asked = is_models
        self._flood.raised = is_flood
        self._metrics.flood.set(is_flood)

    def judged(self, judge: Judge, read: Read, decisions: list[Decision]) -> None:
        """Watch for drift in what is about to leave; from the next batch on the flat lottery draws more while there is any."""
        drift = self._drift
        found = drift.look(judge, read, decisions)
        if found is not None and judge.model is not None:
            self._metrics.drift_psi.labels("d").set(found.d)
            self._metrics.drift_psi.labels("field").set(found.fields)
            is_over = found.most > self._settings.drift_psi
            limit = self._settings.drift_psi
            if is_over and not drift.raised:
                said = {"psi_d": round(found.d, 3), "psi_field": round(found.fields, 3), "field": found.path}
                log.warning("what passes has changed", extra={**said, "gate.drift_psi": limit})
            if is_over and not self._follower.is_drift_said:  # said again where a training has answered it and is not in service
                changed = f"field {found.path}" if found.fields >= found.d else "d"
                self._follower.drifted(judge.model.digest, f"PSI of {changed} is {found.most:.2f}, gate.drift_psi = {limit:g}")
            drift.raised = is_over
        is_drifting = drift.raised or self._follower.is_drift_said
        self._metrics.drift.set(is_drifting)
        judge.least_audit_rate = self._settings.drift_audit_rate if is_drifting else 0.0
