"""Every header name and message format, both ways; nothing else knows a header's name.

Enters: records, decisions, what is constant about the gate. Leaves: header lists as Kafka takes them. Contract version 3.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import NamedTuple

from stream.records import Decision, Draw, Headers, Lottery, Record, Route, Verdict

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
ATTEMPT = "winnow.attempt"
ERROR_TOPIC = "__connect.errors.topic"
ERROR_PARTITION = "__connect.errors.partition"
ERROR_OFFSET = "__connect.errors.offset"
ERROR_MESSAGE = "__connect.errors.exception.message"

ORIGIN_GATE, ORIGIN_RELEASE, ORIGIN_CORRECTION, ORIGIN_REPLAY = b"gate", b"release", b"correction", b"replay"
ROUTE_AUDIT = b"audit"
MAX_OUR_BYTES = 4_096
MAX_SUSPECTS = 5
_MOST_MS = 2**53
_LOTTERIES = (None, *Lottery)
_SOURCES = ("quarantine", "audit", "replay")
_DRAW_BYTES = len(PROPENSITY) + len("0.000000") + len(LOTTERY) + len("extra")
_ROUTE_BYTES = {route: route.value.encode() for route in Route}
_ROUTE_HEADER = {route: (ROUTE, text) for route, text in _ROUTE_BYTES.items()}
_NO_TOPIC_ID = (TOPIC_ID, b"")
_FROM_GATE = (ORIGIN, ORIGIN_GATE)


class Constants(NamedTuple):
    """What all decisions of a gate share while one model and one rules file are in service; bytes as they go out."""

    topic_ids: dict[str, tuple[str, bytes]]
    of_model: tuple[tuple[str, bytes | None], ...] = ()
    of_rules: tuple[tuple[str, bytes | None], ...] = ()


def constants(
    topic_ids: dict[str, str], threshold: float | None, model: str | None, model_digest: str | None, rules_digest: str | None
) -> Constants:
    """Encode what does not change from record to record."""
    return Constants(
        {topic: (TOPIC_ID, name.encode()) for topic, name in topic_ids.items()},
        (
            (THRESHOLD, None if threshold is None else f"{threshold:.6f}".encode()),
            (MODEL, None if model is None else model.encode()),
            (MODEL_DIGEST, None if model_digest is None else model_digest.encode()),
        ),
        () if rules_digest is None else ((RULES_DIGEST, rules_digest.encode()),),
    )


def decision_headers(record: Record, decision: Decision, shared: Constants, *, observed: bool = False) -> Headers:
    """Return our headers for a decided record, in a fixed order; `observed` writes clean and the would-be route."""
    found: Headers = [
        (DECISION_ID, record.decision_id.encode()),
        shared.topic_ids.get(record.topic, _NO_TOPIC_ID),
        _FROM_GATE,
        _ROUTE_HEADER[Route.CLEAN if observed else decision.route],
        (REASON, decision.reason.encode()),
    ]
    if observed:
        found.append((WOULD_ROUTE, _ROUTE_BYTES[decision.route]))
    if decision.rewards is not None and decision.p_chosen is not None:
        found += [
            (REWARD_RIGHT, b"%.9g" % decision.rewards.right),
            (REWARD_WRONG, b"%.9g" % decision.rewards.wrong),
            (P_CHOSEN, b"%.6f" % decision.p_chosen),
            *shared.of_model,
        ]
    found += shared.of_rules
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


def split(headers: Headers) -> tuple[Headers, Headers]:
    """Return the producer's headers and ours, which begin at the last decision id."""
    places = [place for place, (name, _) in enumerate(headers) if name == DECISION_ID]
    return (headers[: places[-1]], headers[places[-1] :]) if places else (headers, [])


def release_headers(headers: Headers, *, is_correction: bool) -> Headers:
    """Return the headers of a record that a verdict sends to clean: how it left the gate, less what held it.

    A correction carries no reward: no model has judged its bytes.
    """
    theirs, ours = split(headers)
    dropped = {SUSPECT, PROPENSITY, LOTTERY, WOULD_ROUTE}
    if is_correction:
        dropped |= {REWARD_RIGHT, REWARD_WRONG, P_CHOSEN, THRESHOLD, MODEL, MODEL_DIGEST, RULES_DIGEST}
    new = {ORIGIN: ORIGIN_CORRECTION if is_correction else ORIGIN_RELEASE, ROUTE: _ROUTE_BYTES[Route.CLEAN]}
    return theirs + [(name, new.get(name, value)) for name, value in ours if name not in dropped]


def replay_headers(held: Record, record: Record, decision: Decision, shared: Constants) -> Headers:
    """Return the headers of a held record that is judged again: as the gate would write them now, with origin and attempt.

    record: the held one as it came in, by the place that its decision id names.
    """
    headers = [(name, ORIGIN_REPLAY if name == ORIGIN else value) for name, value in decision_headers(record, decision, shared)]
    of_source = [(name, value) for name, value in split(held.headers)[1] if name == SOURCE_TIMESTAMP]
    return [*record.headers, *headers, *of_source, (ATTEMPT, b"%d" % (attempt_of(held.headers) + 1))]


def attempt_of(headers: Headers) -> int:
    """Return how often a record has been judged, the first time included; a header that is no number counts as none."""
    said = last(split(headers)[1], ATTEMPT)
    return int(said) if said is not None and said.isdecimal() else 1


def verdict_event(verdict: Verdict) -> bytes:
    """Return the verdict as the verdict topic carries it."""
    event = {
        "v": 1,
        "decision_id": verdict.decision_id,
        "topic_id": verdict.topic_id,
        "verdict": "right" if verdict.is_right else "wrong",
        "reviewer": verdict.reviewer,
        "time_ms": verdict.time_ms,
        "key_b64": _b64(verdict.key),
        "value_b64": _b64(verdict.value),
        "content_type": verdict.content_type,
        "p_chosen": verdict.p_chosen,
        "threshold": verdict.threshold,
        "model_digest": verdict.model_digest,
        "reason": verdict.reason,
        "source": verdict.source,
        "propensity": verdict.propensity,
        "lottery": verdict.lottery,
        "blind": verdict.blind,
        "correction_b64": _b64(verdict.correction),
        "kind": verdict.kind,
        "field": verdict.field,
        "note": verdict.note,
    }
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def read_verdict(value: bytes | None) -> Verdict | None:
    """Return the verdict of an event; unknown fields are ignored, None where the event cannot be read."""
    try:
        said = json.loads((value or b"").decode("utf-8"))
        if not (0 <= int(said["time_ms"]) < _MOST_MS and 0 < float(said["propensity"]) <= 1 and said.get("lottery") in _LOTTERIES):
            return None
        if said["v"] != 1 or said["verdict"] not in ("right", "wrong") or said["source"] not in _SOURCES:
            return None
        return Verdict(
            str(said["decision_id"]),
            str(said["topic_id"]),
            said["verdict"] == "right",
            str(said["reviewer"]),
            int(said["time_ms"]),
            _bytes(said["key_b64"]),
            b64decode(said["value_b64"], validate=True),
            str(said["content_type"]),
            _number(said.get("p_chosen")),
            _number(said.get("threshold")),
            said.get("model_digest"),
            str(said["reason"]),
            str(said["source"]),
            float(said["propensity"]),
            said.get("lottery"),
            bool(said["blind"]),
            _bytes(said.get("correction_b64")),
            said.get("kind"),
            said.get("field"),
            str(said.get("note") or ""),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _b64(data: bytes | None) -> str | None:
    return None if data is None else b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else b64decode(text, validate=True)


def _number(value: object) -> float | None:
    return None if value is None else float(value)  # type: ignore[arg-type]


def as_json_line(fields: dict[str, object]) -> str:
    """Return one compact JSON line for stdout; values that JSON cannot say are shown as text."""
    return json.dumps(fields, ensure_ascii=False, default=str)
