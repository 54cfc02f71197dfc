"""Every header name and message format, both ways; nothing else knows a header's name.

Enters: records, decisions, what is constant about the gate. Leaves: header lists as Kafka takes them. Contract version 2.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from stream.records import Decision, Draw, Headers, Record, Route

DECISION_ID = "winnow.decision-id"
TOPIC_ID = "winnow.topic-id"
ORIGIN = "winnow.origin"
ROUTE = "winnow.route"
WOULD_ROUTE = "winnow.would-route"
REASON = "winnow.reason"
REWARD_RIGHT = "winnow.reward-right"
REWARD_WRONG = "winnow.reward-wrong"
P_CHOSEN = "winnow.p-chosen"
THRESHOLD = "winnow.threshold"
MODEL = "winnow.model"
MODEL_DIGEST = "winnow.model-digest"
RULES_DIGEST = "winnow.rules-digest"
SUSPECT = "winnow.suspect"
PROPENSITY = "winnow.propensity"
LOTTERY = "winnow.lottery"
SOURCE_TIMESTAMP = "winnow.source-timestamp"
ERROR_TOPIC = "__connect.errors.topic"
ERROR_PARTITION = "__connect.errors.partition"
ERROR_OFFSET = "__connect.errors.offset"
ERROR_MESSAGE = "__connect.errors.exception.message"

ORIGIN_GATE = b"gate"
ROUTE_AUDIT = b"audit"
MAX_OUR_BYTES = 4_096
MAX_SUSPECTS = 5
_DRAW_BYTES = len(PROPENSITY) + len("0.000000") + len(LOTTERY) + len("extra")
_ROUTE_BYTES = {route: route.value.encode() for route in Route}


class Constants(NamedTuple):
    """What all decisions of a gate share while one model and one rules file are in service; bytes as they go out."""

    topic_ids: dict[str, bytes]
    threshold: bytes | None = None
    model: bytes | None = None
    model_digest: bytes | None = None
    rules_digest: bytes | None = None


def constants(
    topic_ids: dict[str, str], threshold: float | None, model: str | None, model_digest: str | None, rules_digest: str | None
) -> Constants:
    """Encode what does not change from record to record."""
    return Constants(
        {topic: name.encode() for topic, name in topic_ids.items()},
        None if threshold is None else f"{threshold:.6f}".encode(),
        None if model is None else model.encode(),
        None if model_digest is None else model_digest.encode(),
        None if rules_digest is None else rules_digest.encode(),
    )


def decision_headers(record: Record, decision: Decision, shared: Constants, *, observed: bool = False) -> Headers:
    """Return our headers for a decided record, in a fixed order; `observed` writes clean and the would-be route."""
    found: Headers = [
        (DECISION_ID, record.decision_id.encode()),
        (TOPIC_ID, shared.topic_ids.get(record.topic, b"")),
        (ORIGIN, ORIGIN_GATE),
        (ROUTE, _ROUTE_BYTES[Route.CLEAN if observed else decision.route]),
        (REASON, decision.reason.encode()),
    ]
    if observed:
        found.append((WOULD_ROUTE, _ROUTE_BYTES[decision.route]))
    if decision.rewards is not None and decision.p_chosen is not None:
        found += [
            (REWARD_RIGHT, b"%.9g" % decision.rewards.right),
            (REWARD_WRONG, b"%.9g" % decision.rewards.wrong),
            (P_CHOSEN, b"%.6f" % decision.p_chosen),
            (THRESHOLD, shared.threshold),
            (MODEL, shared.model),
            (MODEL_DIGEST, shared.model_digest),
        ]
    if shared.rules_digest is not None:
        found.append((RULES_DIGEST, shared.rules_digest))
    if decision.draw is not None and decision.route is Route.QUARANTINE and not observed:
        found += _draw_headers(decision.draw)
    if record.timestamp_ms <= 0:
        found.append((SOURCE_TIMESTAMP, b"%d" % record.timestamp_ms))
    if decision.route is Route.DEAD_LETTER and not observed:
        found += _error_headers(record, decision.detail, MAX_OUR_BYTES - size_of(found))
    if decision.suspect:
        found += _suspect_header(decision.suspect, MAX_OUR_BYTES - _DRAW_BYTES - size_of(found) - len(SUSPECT))
    return found


def _draw_headers(draw: Draw) -> Headers:
    found: Headers = [(PROPENSITY, b"%.6f" % draw.propensity)]
    return found if draw.lottery is None else [*found, (LOTTERY, draw.lottery.value.encode())]


def _suspect_header(suspect: Sequence[tuple[str, float]], room_bytes: int) -> Headers:
    """Return the header with as many fields as have room, at most MAX_SUSPECTS; it is the first thing to be cut."""
    for count in range(min(len(suspect), MAX_SUSPECTS), 0, -1):
        shown = [[path, round(weight, 2)] for path, weight in suspect[:count]]
        text = json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        if len(text) <= room_bytes:
            return [(SUSPECT, text)]
    return []


def _error_headers(record: Record, detail: str, room_bytes: int) -> Headers:
    place: Headers = [
        (ERROR_TOPIC, record.topic.encode()),
        (ERROR_PARTITION, b"%d" % record.partition),
        (ERROR_OFFSET, b"%d" % record.offset),
    ]
    room = max(0, room_bytes - size_of(place) - len(ERROR_MESSAGE))
    text = detail.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").encode()
    return [*place, (ERROR_MESSAGE, text)]


def size_of(headers: Headers) -> int:
    """Return the bytes of header names and values together, as the 4 KiB limit counts them."""
    return sum(len(name) + len(value or b"") for name, value in headers)


def last(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> str | None:
    """Return the last header of that name as text, as readers must; None if there is none."""
    for key, value in reversed(headers or ()):
        if key == name:
            return None if value is None else value.decode("utf-8", "replace")
    return None


def audit_headers(headers: Headers, draw: Draw | None) -> Headers:
    """Return the headers of an audit copy: the same, with the route overwritten and the draw behind them."""
    found: Headers = [(name, ROUTE_AUDIT if name == ROUTE else value) for name, value in headers]
    return found if draw is None else found + _draw_headers(draw)


def as_json_line(fields: dict[str, object]) -> str:
    """Return one compact JSON line for stdout; values that JSON cannot say are shown as text."""
    return json.dumps(fields, ensure_ascii=False, default=str)
