"""The frozen values that pass from stage to stage. Knows no Kafka client, no header name and no model."""

from enum import StrEnum
from typing import Any, NamedTuple

REPLAY = "replay"
Headers = list[tuple[str, bytes | None]]


class Route(StrEnum):
    """Where a record leaves."""

    CLEAN = "clean"
    QUARANTINE = "quarantine"
    DEAD_LETTER = "dead-letter"


class Reason(StrEnum):
    """Why a record left where it did; a broken rule adds its name after `rule:`."""

    MODEL = "model"
    RULES = "rules"
    TOMBSTONE = "tombstone"
    EMPTY = "empty"
    UNDECODABLE = "undecodable"
    BAD_JSON = "bad-json"
    TOO_DEEP = "too-deep"
    TOO_LONG = "too-long"
    RULE = "rule"
    SCORER_FAILED = "scorer-failed"
    UNWRITABLE = "unwritable"


class Record(NamedTuple):
    """What Kafka carried: bytes as they came, and where they came from."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    @property
    def decision_id(self) -> str:
        """`topic:partition:offset`, the name of the decision about this record."""
        return f"{self.topic}:{self.partition}:{self.offset}"


class Content(NamedTuple):
    """A record that could be read: JSON data or plain text, and what was odd about reading it."""

    is_json: bool
    data: Any
    oddities: tuple[str, ...] = ()


class Unread(NamedTuple):
    """A record with nothing to judge: a tombstone, or bytes that cannot be read; `detail` is for people."""

    reason: Reason
    detail: str = ""


Reading = Content | Unread


class Violation(NamedTuple):
    """A broken rule. `is_error` holds the record; otherwise it is a warning, counted and nothing more."""

    rule: str
    is_error: bool
    detail: str = ""


class Rewards(NamedTuple):
    """The model's raw scalars for both answers."""

    right: float
    wrong: float

    @property
    def d(self) -> float:
        """Raw d = reward(right) - reward(wrong)."""
        return self.right - self.wrong

    def with_evidence(self, nats: float, most_text: float) -> "Rewards":
        """Return the rewards with so much more for right: half of it each way, so that d moves by all of it.

        most_text: what the text's own d counts at most, in nats.
        """
        moved = nats - max(0.0, self.right - self.wrong - most_text)
        return Rewards(self.right + moved / 2, self.wrong - moved / 2)


class Lottery(StrEnum):
    """Which lottery drew a record for blind review: `flat` among all that a model judged, `extra` near the threshold."""

    FLAT = "flat"
    EXTRA = "extra"


class Draw(NamedTuple):
    """A pick and its probability; observe mode picks would-be-held records without a lottery."""

    lottery: Lottery | None
    propensity: float


class Decision(NamedTuple):
    """What the gate says about one record. Rewards and p_chosen are None where no model judged.

    suspect: the fields that made a held record suspect, with their share of the blame, the heaviest first.
    """

    route: Route
    reason: str
    detail: str = ""
    rewards: Rewards | None = None
    p_chosen: float | None = None
    violations: tuple[Violation, ...] = ()
    draw: Draw | None = None
    suspect: tuple[tuple[str, float], ...] = ()


class Verdict(NamedTuple):
    """What a person said of one record, with all that a trainer needs to learn from it without asking anybody.

    source: `quarantine` for a held record, `audit` for a copy of a clean one; `replay` is no person's: a later model or later rules
    have let a held record go. blind: P and reason were not shown.
    """

    decision_id: str
    topic_id: str
    is_right: bool
    reviewer: str
    time_ms: int
    key: bytes | None
    value: bytes
    content_type: str
    p_chosen: float | None
    threshold: float | None
    model_digest: str | None
    reason: str
    source: str
    propensity: float
    lottery: str | None
    blind: bool
    correction: bytes | None = None
    kind: str | None = None
    field: str | None = None
    note: str = ""

    @property
    def reaches_clean(self) -> bool:
        """Whether it sends the record, or its correction, to clean, if nothing has before."""
        return self.correction is not None or (self.is_right and self.source in ("quarantine", REPLAY))
