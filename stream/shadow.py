"""The challenger beside the champion: it scores a share of live records, and only metrics tell what it would have done."""

from typing import NamedTuple

from stream.decide import ticket
from stream.live_model import LiveModel
from stream.read import Read
from stream.records import Decision, Reason, Route


class Flips(NamedTuple):
    """How many records were compared, and how many would have left the other way."""

    records: int = 0
    to_clean: int = 0
    to_quarantine: int = 0


class Shadow:
    """A challenger with the share of records it is asked about."""

    def __init__(self, model: LiveModel, share: float) -> None:
        """Keep the model, which is loaded, verified and warm."""
        self.model = model
        self._share = share

    def compare(self, read: Read, decisions: list[Decision]) -> Flips:
        """Score a share of the records that the champion judged and count the flips; the same records on every replay."""
        drawn = [
            place
            for place, decision in enumerate(decisions)
            if decision.reason == Reason.MODEL and ticket(read.decision_ids[place], "shadow") < self._share
        ]
        contents = [content for place in drawn if (content := read.content(place)) is not None]
        found = [(place, d) for place, d in zip(drawn, self.model.d_of(contents), strict=True) if d is not None]
        to_clean = to_quarantine = 0
        for place, d in found:
            is_clean = self.model.calibration.p_chosen(d) >= self.model.threshold
            was_clean = decisions[place].route is Route.CLEAN
            to_clean += is_clean and not was_clean
            to_quarantine += was_clean and not is_clean
        return Flips(len(found), to_clean, to_quarantine)
