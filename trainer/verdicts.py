"""The verdict topic -> a frozen snapshot -> one settled answer a decision.

A snapshot is named by the offsets it was read to and a digest of what was read, so that a training can be repeated from
its manifest. The last event of a decision counts; a `wrong` on an audit that one person alone has seen is pending.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from stream import wire
from stream.config import KafkaSettings
from stream.decide import logit
from stream.looks import TWO, wanted_look
from stream.records import REPLAY, Lottery, Unread, Verdict
from stream.schemas import Schemas
from stream.tail import Tail

AUDIT = "audit"
_ENOUGH_DRAWS = 10


class Snapshot(NamedTuple):
    """People's verdicts of a topic up to `offsets` (partition -> next), in order per partition; what replays wrote is none."""

    verdicts: list[Verdict]
    offsets: dict[int, int]
    digest: str
    unreadable: int


class Answer(NamedTuple):
    """What one person said when it was their turn."""

    reviewer: str
    is_right: bool


class Settled(NamedTuple):
    """What people have come to say of one decision; `correction` is a right record that takes its place.

    distance: how far its logit was from the threshold's, in nats; None where no model was asked, as for what a rule holds.
    kind: what people called the error, else the field they named, else the gate's reason. reviewer: whose answer it is.
    is_disputed, is_waiting: people disagree and others must look, or nobody has contradicted a wrong that more must see.
    answers: in turn; who thinks better of it before somebody else comes has one, who settles a dispute of their own another one.
    """

    decision_id: str
    content: str
    is_right: bool
    source: str
    lottery: str | None
    propensity: float
    reviewers: int
    time_ms: int
    correction: str | None
    is_disputed: bool = False
    is_waiting: bool = False
    distance: float | None = None
    kind: str = ""
    reviewer: str = ""
    answers: tuple[Answer, ...] = ()

    @property
    def is_flat(self) -> bool:
        """Whether the flat lottery drew it: kept from training, because certificates are made from these."""
        return self.lottery == Lottery.FLAT and self.propensity > 0

    @property
    def is_drawn(self) -> bool:
        """Whether a lottery drew it, so that it is judged blind and a wrong counts only when others have seen it."""
        return self.source == AUDIT or self.is_flat

    @property
    def is_pending(self) -> bool:
        """Whether it still needs another look."""
        return self.is_disputed or self.is_waiting

    @property
    def counts_as_wrong(self) -> bool:
        """Whether a certificate must count it as wrong: also while people disagree, since only a wrong is looked at again."""
        return self.is_disputed or not self.is_right


def read_snapshot(
    kafka: KafkaSettings,
    topic: str,
    until: Mapping[int, int] | None = None,
    since: Mapping[int, int] = MappingProxyType({}),
    schemas: Schemas | None = None,
) -> Snapshot:
    """Read the topic to its present end, or to the offsets of an earlier snapshot; `since` leaves out what lies before.

    With `schemas`, framed records are opened, and a verdict on one that cannot be is unreadable. Raises KafkaRefused, TopicMissing,
    SchemaRegistryAway.
    """
    tail = Tail(kafka, [topic], {(topic, partition): after for partition, after in since.items()})
    found: dict[tuple[int, int], bytes | None] = {}
    try:
        for came in tail.to_end():
            found |= {(record.partition, record.offset): record.value for record in came}
        offsets = {partition: after for (_, partition), after in tail.next.items()}
    finally:
        tail.close()
    if until is not None:
        offsets = dict(until)
        found = {place: value for place, value in found.items() if place[1] < offsets.get(place[0], 0)}
    total = hashlib.sha256()
    verdicts = []
    for place in sorted(found):
        value = found[place]
        total.update(f"{place[0]}:{place[1]}:{len(value or b'')}:".encode() + (value or b""))
        verdicts.append(wire.read_verdict(value))
    if schemas is not None:
        verdicts = [None if verdict is None else _opened(verdict, schemas) for verdict in verdicts]
    of_people = [verdict for verdict in verdicts if verdict is not None and verdict.source != REPLAY]
    return Snapshot(of_people, offsets, f"sha256:{total.hexdigest()}", verdicts.count(None))


def _opened(verdict: Verdict, schemas: Schemas) -> Verdict | None:
    """Return a verdict with what its record says, and its correction, as text; None where one of them cannot be read."""
    value, correction = schemas.opened(verdict.value), schemas.opened(verdict.correction)
    if isinstance(value, Unread) or isinstance(correction, Unread):
        return None
    return verdict._replace(value=value or b"", correction=correction)


def settle(verdicts: Sequence[Verdict], wrong_looks: int = TWO) -> list[Settled]:
    """Return one answer a decision, by decision id; the events of a decision are given in their order.

    wrong_looks: how many more people must call a draw wrong than right, as in the review service's settings.
    """
    said: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        said.setdefault(verdict.decision_id, []).append(verdict)
    return [_settled(events, wrong_looks) for _, events in sorted(said.items())]


def _settled(events: list[Verdict], wrong_looks: int) -> Settled:
    last = events[-1]
    latest = {event.reviewer: event.is_right for event in events}
    # who confirms an answer need not say again what others have: each one's last word, the latest first
    alike = [event for event in reversed({event.reviewer: event for event in events}.values()) if event.is_right == last.is_right]
    alike.sort(key=lambda event: event is not last)
    correction = next((event.correction for event in alike if event.correction is not None), None)
    settled = Settled(
        last.decision_id,
        last.value.decode("utf-8", "replace"),
        last.is_right,
        last.source,
        last.lottery,
        last.propensity,
        len(latest),
        last.time_ms,
        None if correction is None else correction.decode("utf-8", "replace"),
        distance=None if last.p_chosen is None or last.threshold is None else abs(logit(last.p_chosen) - logit(last.threshold)),
        kind=next((event.kind or event.field for event in alike if event.kind or event.field), None) or last.reason,
        reviewer=last.reviewer,
        answers=tuple(_in_turn(events)),
    )
    wanted = wanted_look(list(latest.values()), last=last.is_right, is_drawn=settled.is_drawn, wrong_looks=wrong_looks)
    return settled._replace(is_disputed=wanted == "settlement", is_waiting=wanted == "another")


def _in_turn(events: list[Verdict]) -> Iterator[Answer]:
    """Yield what each person came to say before somebody else came."""
    for event, following in zip(events, [*events[1:], None], strict=True):
        if following is None or following.reviewer != event.reviewer:
            yield Answer(event.reviewer, event.is_right)


def weights_of(settled: Sequence[Settled]) -> dict[str, float]:
    """Return how many records of the stream each decision stands for: 1 / its chance to be among the reviewed ones.

    Near the threshold two lotteries draw, and what either has drawn had the chance of both; how far that reaches is seen
    from the extra draws themselves. What is held is all offered for review: where the flat draws among it say that more was
    held than has been answered, the answered ones stand for the rest.
    """
    extra = [each for each in settled if each.lottery == Lottery.EXTRA and each.distance is not None and each.propensity > 0]
    reach = max((each.distance for each in extra if each.distance is not None), default=-1.0)
    flat = min((each.propensity for each in settled if each.is_flat), default=0.0)
    of_extra = 1 - (1 - min((each.propensity for each in extra), default=0.0)) / (1 - flat) if flat < 1 else 0.0
    held = [each for each in settled if each.source != AUDIT and each.distance is not None]
    drawn = [each for each in held if each.is_flat]
    answered = 1.0 if len(drawn) < _ENOUGH_DRAWS else max(1.0, sum(1 / each.propensity for each in drawn) / len(held))

    def weight(each: Settled) -> float:
        if each.source != AUDIT:
            return answered if each.distance is not None else 1.0
        if each.propensity <= 0:
            return 1.0
        is_near = each.is_flat and each.distance is not None and each.distance <= reach
        return 1 / (1 - (1 - each.propensity) * (1 - of_extra)) if is_near else 1 / each.propensity

    return {each.decision_id: weight(each) for each in settled}
