"""Records and verdicts as Kafka carried them -> rows of the store, and back."""

import hashlib
import json
import math
from typing import Any

from review.pattern import pattern_of
from stream import wire
from stream.decide import logit, ticket
from stream.records import Content, Headers, Record, Verdict
from stream.render import leaves, text_of, without_surrogates
from stream.schemas import Schemas

_CERTAIN = 1e3


def hash_of(key: bytes | None) -> str | None:
    """Return what a key is looked up by, 64 hexadecimal digits."""
    return None if key is None else hashlib.sha256(key).hexdigest()


def headers_of(row: Any) -> Headers:
    """Return the headers of a row as Kafka carried them."""
    return [(name, None if value is None else value.encode("latin-1")) for name, value in json.loads(row.headers)]


def as_record(row: Any) -> Record:
    """Return a row as the record that lies in quarantine or audit; its place is that of the input."""
    topic, partition, offset = row.decision_id.rsplit(":", 2)
    return Record(topic, int(partition), int(offset), row.timestamp_ms, row.key, row.value, headers_of(row))


def row_of(source: str, record: Record, schemas: Schemas, since_ms: int) -> dict[str, object]:
    """Return the row of a held or audited record, which has waited since then; what was drawn by the flat lottery is blind, held or not.

    Raises SchemaRegistryAway.
    """
    _, ours = wire.split(record.headers)  # what a producer wrote under our names is not the gate's word

    def said(name: str) -> str | None:
        return _storable(wire.last(ours, name))

    decision_id = said(wire.DECISION_ID) or record.decision_id
    reading = schemas.read(record.value)
    content = reading if isinstance(reading, Content) else None
    suspect = _suspect(said(wire.SUSPECT))
    p_chosen, threshold = _number(said(wire.P_CHOSEN)), _number(said(wire.THRESHOLD))
    lottery = said(wire.LOTTERY)
    is_blind = source == "audit" or lottery == "flat"
    headers = [[name, None if value is None else value.decode("latin-1")] for name, value in record.headers]
    return {
        "decision_id": decision_id,
        "source": source,
        "topic_id": said(wire.TOPIC_ID) or "",
        "key": record.key,
        "key_hash": hash_of(record.key),
        "value": record.value,
        "headers": json.dumps(headers),
        "timestamp_ms": record.timestamp_ms,
        "since_ms": since_ms,
        "content_type": schemas.kind_of(record.value) or ("json" if content is not None and content.is_json else "text"),
        "p_chosen": p_chosen,
        "threshold": threshold,
        "reason": said(wire.REASON) or "",
        "model": said(wire.MODEL),
        "model_digest": said(wire.MODEL_DIGEST),
        "suspect": json.dumps(suspect, ensure_ascii=False),
        "propensity": _number(said(wire.PROPENSITY)) or 1.0,
        "lottery": lottery,
        "blind": is_blind,
        "pattern": pattern_of(_looked_at(content, suspect)),
        "uncertainty": _uncertainty(decision_id, p_chosen, threshold, is_blind),
    }


def _looked_at(content: Content | None, suspect: list[list[Any]]) -> str:
    """Return the text whose shape groups like records: the suspect field, else the whole."""
    if content is None:
        return ""
    if content.is_json and suspect:
        values = dict(leaves(content.data))
        return f"{suspect[0][0]}: {values.get(suspect[0][0], '')}"
    return text_of(content)


def _uncertainty(decision_id: str, p_chosen: float | None, threshold: float | None, is_blind: bool) -> float:
    """Return how far calibrated d lies from the threshold's, in nats; the place of a blind record tells nothing."""
    if is_blind:
        return place_of_blind(decision_id)
    if p_chosen is None or threshold is None:
        return _CERTAIN
    return abs(logit(p_chosen) - logit(threshold))


def place_of_blind(decision_id: str) -> float:
    """Return the place, in nats, of a record whose place must tell nothing: among those that the model is unsure of."""
    return ticket(decision_id, "place") * 2.0


def _number(text: str | None) -> float | None:
    """Return a header's number; what is none is as if it were not there, since anybody may write to a topic."""
    try:
        found = None if text is None else float(text)
    except ValueError:
        return None
    return found if found is not None and math.isfinite(found) else None


def _storable(text: str | None) -> str | None:
    """Return a text without NUL, which PostgreSQL's texts cannot hold, and without lone surrogates."""
    return None if text is None else without_surrogates(text).replace("\x00", "\ufffd")


def _suspect(text: str | None) -> list[list[Any]]:
    """Return [path, weight] pairs of the header; nothing where it holds anything else."""
    try:
        return [[str(path), min(1.0, max(0.0, float(weight)))] for path, weight in json.loads(text or "[]")]
    except (ValueError, TypeError, RecursionError):
        return []


def verdict_row(record: Record, verdict: Verdict) -> dict[str, object]:
    """Return the row of a verdict event."""
    return {
        "partition": record.partition,
        "offset": record.offset,
        "decision_id": _storable(verdict.decision_id),
        "reviewer": _storable(verdict.reviewer),
        "time_ms": verdict.time_ms,
        "verdict": "right" if verdict.is_right else "wrong",
        "source": verdict.source,
        "blind": verdict.blind,
        "reaches_clean": verdict.reaches_clean,
        "correction": verdict.correction,
        "note": _storable(verdict.note),
    }


def clean_row(record: Record) -> dict[str, object]:
    """Return the row of a clean record, kept to show what the same twin said before."""
    decision_id = _storable(wire.last(record.headers, wire.DECISION_ID)) or record.decision_id
    return {
        "decision_id": decision_id,
        "key": record.key,
        "key_hash": hash_of(record.key),
        "value": record.value,
        "timestamp_ms": record.timestamp_ms,
    }
