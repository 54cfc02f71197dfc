"""Whether audited records are wrong more often than they were: ADWIN over what people settled on about the champion's flat draws.

Enters: the verdict topic, as far as it has come, look by look. Leaves: a mark in the registry for the champion. ADWIN keeps a window
that it cuts where its two parts differ by more than chance at confidence 1 - delta allows (Bifet and Gavalda 2007). Only flat draws of
what passed count: more of the extra ones near a threshold, or more that is rightly held, would be no worse model.
"""

import logging
from collections import defaultdict
from typing import Any, NamedTuple

from river.drift import ADWIN

from model_registry.registry import CHAMPION, Registry
from stream.looks import TWO
from stream.records import Lottery, Verdict
from trainer.verdicts import read_snapshot, settle

log = logging.getLogger("winnow.train")

ENOUGH_DRAWS = 100


class Risen(NamedTuple):
    """The share of wrong ones among audited records before it rose, and after."""

    before: float
    now: float


class AuditedErrors:
    """Remembers how far the topic has been read, and what was said of flat draws by the digest of the version that judged them."""

    def __init__(self, delta: float, wrong_looks: int = TWO) -> None:
        """Begin before the first verdict; delta as ADWIN's, wrong_looks as the review service's."""
        self._delta = delta
        self._wrong_looks = wrong_looks
        self._offsets: dict[int, int] = {}
        self._said: dict[str, list[Verdict]] = defaultdict(list)

    def look(self, registry: Registry, tables: Any) -> None:
        """Read what is new, and say in the registry if the champion's audited records have become wrong more often.

        It is said as long as it is so: again, too, where a training has answered it and did not take over. Raises KafkaRefused,
        ModelRefused.
        """
        champion = registry.resolve(CHAMPION).digest if CHAMPION in registry.aliases() else None
        snapshot = read_snapshot(tables.kafka, tables.topics.verdicts, since=self._offsets)
        self._offsets = snapshot.offsets
        self.hear(snapshot.verdicts)
        if champion is None:
            return
        risen = self.risen(champion)
        if risen is not None and registry.drift(champion) is None:
            log.warning("audited records have become worse", extra={"before": round(risen.before, 4), "now": round(risen.now, 4)})
            registry.say_drift(champion, f"audited records are wrong in {risen.now:.1%} of cases, {risen.before:.1%} before")

    def hear(self, verdicts: list[Verdict]) -> None:
        """Keep what was said of flat draws that had passed, without the records."""
        for verdict in verdicts:
            if verdict.lottery == Lottery.FLAT and verdict.source == "audit" and verdict.model_digest is not None:
                self._said[verdict.model_digest].append(verdict._replace(value=b"", correction=None))

    def risen(self, digest: str) -> Risen | None:
        """Return how the errors among a version's draws have risen by now; None if they have not, or no longer.

        Its draws are gone through anew each time, in the order in which they were first answered: second looks, which only wrong
        ones need, come many at once, and by the order of settling they would look like a rise.
        """
        said = self._said.get(digest, [])
        first = {event.decision_id: event.time_ms for event in reversed(said)}
        settled = sorted(
            (each for each in settle(said, self._wrong_looks) if not each.is_pending), key=lambda each: first[each.decision_id]
        )
        adwin: Any = ADWIN(delta=self._delta)
        before: float | None = None
        at_cut, wrong, draws = 0.0, 0, 0
        for each in settled:
            estimate = float(adwin.estimation)
            adwin.update(float(not each.is_right))
            wrong, draws = wrong + (not each.is_right), draws + 1
            if adwin.drift_detected:  # its next update begins a new window: from here on they are counted anew
                at_cut, wrong, draws = float(adwin.estimation), 0, 0
                before = estimate if before is None and at_cut > estimate else before
        now = wrong / draws if draws >= ENOUGH_DRAWS else at_cut
        return None if before is None or now <= before else Risen(before, now)
