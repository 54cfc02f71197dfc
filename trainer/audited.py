"""Whether audited records are wrong more often than they were: ADWIN over the verdicts on what passed.

Enters: the verdict topic, as far as it has come, look by look. Leaves: a mark in the registry for the champion. ADWIN keeps a window
that it cuts where its two parts differ by more than chance at confidence 1 - delta allows (Bifet and Gavalda 2007).
"""

import logging
from typing import Any

from river.drift import ADWIN

from model_registry.registry import CHAMPION, Registry
from stream.records import Verdict
from trainer.verdicts import read_snapshot

log = logging.getLogger("winnow.train")


class AuditedErrors:
    """Remembers how far the topic has been read, and the window."""

    def __init__(self, delta: float) -> None:
        """Begin before the first verdict."""
        self._adwin: Any = ADWIN(delta=delta)
        self._offsets: dict[int, int] = {}
        self._seen: set[str] = set()

    def look(self, registry: Registry, tables: Any) -> None:
        """Read what is new; say in the registry when audited records have become wrong more often. Raises KafkaRefused, ModelRefused."""
        snapshot = read_snapshot(tables.kafka, tables.topics.verdicts, since=self._offsets)
        self._offsets = snapshot.offsets
        risen = self.risen(sorted(snapshot.verdicts, key=lambda verdict: verdict.time_ms))
        if risen is not None and CHAMPION in registry.aliases():
            before, now = risen
            why = f"audited records are wrong in {now:.1%} of cases, {before:.1%} before"
            log.warning("audited records have become worse", extra={"before": round(before, 4), "now": round(now, 4)})
            registry.say_drift(registry.resolve(CHAMPION).digest, why)

    def risen(self, verdicts: list[Verdict]) -> tuple[float, float] | None:
        """Add verdicts in their order; return the share of wrong ones before the first cut that it rose at, and now."""
        risen_from: float | None = None
        for verdict in verdicts:
            if verdict.source != "audit" or verdict.decision_id in self._seen:  # a second look at a record is no second record
                continue
            self._seen.add(verdict.decision_id)
            before = self._adwin.estimation
            self._adwin.update(float(not verdict.is_right))
            if self._adwin.drift_detected and self._adwin.estimation > before:
                risen_from = before if risen_from is None else risen_from
        return None if risen_from is None else (risen_from, self._adwin.estimation)
