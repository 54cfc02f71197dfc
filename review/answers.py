"""What a reviewer's request does: lease, verdict, bulk answer, undo; and what of a record they may see.

Enters: who asks and what. Leaves: plain values for JSON. Knows neither HTTP nor SQL.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from foundation.errors import KafkaRefused, WinnowError
from foundation.reread import Reread
from review.auth import LEAD, Who
from review.config import ReviewSettings
from review.ingest import Ingest
from review.leases import ORDERS, Answered, Filters, Lease
from review.metrics import ReviewMetrics
from review.publish import Publisher, Undecided
from review.refused import AnswerInvalid, LeaseLost, NotAllowed, RecordUnknown
from review.rows import as_record
from review.store import Store
from review.tables import DOUBTED, SECOND
from stream.decode import decode_value
from stream.framed import DoesNotFit
from stream.missed import wrong_passed
from stream.records import Content, Reading, Unread, Verdict
from stream.release import Releaser
from stream.render import leaves, render, without_surrogates
from stream.rules import Rules
from stream.schemas import Schemas

log = logging.getLogger("winnow.review")

MOST_FIELDS, MOST_CHARACTERS, MOST_NOTE = 200, 2_000, 2_000
MOST_EARLIER = 5
MOST_BULK = 5_000
_MOST_DRAWS, _MEASURED_SECONDS = 2_000, 20.0
_COMMIT_SECONDS = 45.0
_COME_BACK_SECONDS = 10.0
_ANSWERS = ("right", "wrong")
LOOKS = ("1", "2", "3")
FOR_ANOTHER = (
    "you have answered them, and another person must look too: a wrong on a blind record counts only when others have seen it,"
    " and of what a training doubts nothing is learned before"
)


class Deps(NamedTuple):
    """The parts of a running service."""

    settings: ReviewSettings
    store: Store
    ingest: Ingest
    publisher: Publisher
    releaser: Releaser
    rules: Reread[Rules]
    metrics: ReviewMetrics
    schemas: Schemas


class Answers:
    """The acts of reviewers on one store."""

    def __init__(self, deps: Deps) -> None:
        """Take the parts."""
        self._settings, self._store, self._ingest, self._publisher, self._releaser, self._rules, self._metrics, self._schemas = deps
        self._measured_until = 0.0

    def not_ready(self) -> str | None:
        """Return why the reading or the publishing thread takes nothing at the moment, or None."""
        return self._ingest.not_ready() or self._publisher.not_ready()

    def lease(self, who: Who, body: dict[str, Any]) -> dict[str, Any]:
        """Keep the next record for who asks and show it; decision_id is None when nothing is left."""
        with self._metrics.lease_seconds.time():
            lease = self._store.leases.lease(who.name, self._settings.lease_seconds, filters_of(body), is_lead=who.may(LEAD))
            return self._leased(who, lease) if lease is not None else {"decision_id": None}

    def lease_again(self, who: Who, decision_id: str) -> dict[str, Any]:
        """Keep a named record: one's own answer to take back, or one that a link names."""
        seconds, is_lead = self._settings.lease_seconds, who.may(LEAD)
        return self._leased(who, self._store.leases.lease_again(decision_id, who.name, seconds, is_lead=is_lead))

    def renew(self, who: Who, decision_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keep a record for as long again."""
        lease = self._store.leases.renew(decision_id, _token(body), who.name, self._settings.lease_seconds)
        return {"decision_id": decision_id, "lease": str(lease.token), "seconds": self._settings.lease_seconds}

    def give_back(self, who: Who, decision_id: str, body: dict[str, Any], *, is_skip: bool) -> dict[str, Any]:
        """Let a record go without an answer."""
        self._store.leases.give_back(decision_id, _token(body), who.name, is_skip=is_skip)
        return {"decision_id": decision_id}

    def verdict(self, who: Who, decision_id: str, body: dict[str, Any]) -> dict[str, Any]:
        """Publish an answer with what it causes; returns after Kafka's commit.

        Raises AnswerInvalid, LeaseLost, Unwritable, KafkaRefused.
        """
        answer = _choice(body, "verdict", _ANSWERS)
        try:
            row = self._store.leases.begin_publishing(decision_id, _token(body), who.name, answer)
        except Answered:
            return {"decision_id": decision_id, "verdict": answer, "again": True}
        except LeaseLost:
            self._metrics.lost.inc()
            raise
        try:
            verdict = self._verdict_of(row, who, answer, body)
        except BaseException:
            self._store.leases.not_published([decision_id], self._settings.lease_seconds)
            raise
        self._publish([(row, verdict)])
        return {
            "decision_id": decision_id,
            "verdict": answer,
            "released": verdict.reaches_clean and not row.reached_clean,
            "was_on_clean": row.reached_clean,
        }

    def bulk(self, who: Who, body: dict[str, Any]) -> dict[str, Any]:
        """Give one answer to all open records of a reason and pattern, if there are as many as was confirmed."""
        answer, count = _choice(body, "verdict", _ANSWERS), body.get("count")
        if not isinstance(count, int) or not 1 <= count <= MOST_BULK:
            raise AnswerInvalid("count", count=repr(count), most=MOST_BULK)
        if not isinstance(body.get("reason"), str) or not isinstance(body.get("pattern"), str):
            raise AnswerInvalid("group")
        filters = Filters(reason=body["reason"], pattern=body["pattern"], look=1)
        rows = self._store.leases.begin_publishing_many(who.name, filters, count, is_lead=who.may(LEAD))
        said = {"note": body.get("note") or ""}
        try:
            verdicts = [(row, self._verdict_of(row, who, answer, said)) for row in rows]
        except BaseException:
            self._store.leases.not_published([row.decision_id for row in rows], 0.0)
            raise
        self._publish(verdicts)
        self._store.accounts.note(who.name, "bulk", f"{answer} on {count} records, reason {body['reason']}")
        return {"answered": len(rows)}

    def history(self, who: Who, decision_id: str) -> dict[str, Any]:
        """Return every verdict on a record, but not to whom a blind one, or a second look at one, is offered next."""
        row = self._row(decision_id)
        said = self._store.history(decision_id)
        mine = any(event.reviewer == who.name for event in said)
        if (row.blind or row.look in (SECOND, DOUBTED)) and row.state != "done" and not mine and not who.may(LEAD):
            raise NotAllowed(403, "blind")
        return {
            "decision_id": decision_id,
            "reached_clean": row.reached_clean,
            "verdicts": [
                {
                    "verdict": event.verdict,
                    "reviewer": event.reviewer,
                    "time_ms": event.time_ms,
                    "note": event.note,
                    "corrected": event.correction is not None,
                }
                for event in said
            ],
        }

    def value(self, decision_id: str) -> str:
        """Return a record's whole value as text, to be corrected."""
        value = self._row(decision_id).value
        opened = self._schemas.opened(value)
        return ((value if isinstance(opened, Unread) else opened) or b"").decode("utf-8", "replace")

    def counts(self, who: Who | None) -> dict[str, Any]:
        """Return what is open, leased and done, and how far who asks has come today."""
        midnight_ms = _midnight_ms()
        counts = self._store.figures.counts(midnight_ms)
        for state in ("open", "leased", "done"):
            self._metrics.records.labels(state).set(getattr(counts, state))
        since_ms = self._store.figures.waiting_since_ms()
        self._metrics.oldest_seconds.set(0.0 if since_ms is None else max(0.0, time.time() - since_ms / 1000))
        for look in ("second", "conflict", "doubted"):
            self._metrics.waiting.labels(look).set(getattr(counts, look))
        if who is None:
            self._measure()
            return {**counts._asdict(), "mine_today": 0, "for_another": 0, "for_another_why": None}
        waits = counts.second + counts.conflict + counts.doubted
        for_another = self._store.figures.for_another(who.name, is_lead=who.may(LEAD)) if waits else 0
        return {
            **counts._asdict(),
            "mine_today": self._store.figures.answered_by(who.name, midnight_ms),
            "for_another": for_another,
            "for_another_why": FOR_ANOTHER if for_another else None,
        }

    def _measure(self) -> None:
        """Measure what costs a look at many rows, for a scrape, and not again for a while."""
        if time.monotonic() < self._measured_until:
            return
        self._measured_until = time.monotonic() + _MEASURED_SECONDS
        pairs, kappa = self._store.figures.agreement()
        self._metrics.compared.set(pairs)
        self._metrics.kappa.set(math.nan if kappa is None else kappa)
        drawn = self._store.figures.flat_draws(_MOST_DRAWS)
        is_wrong, propensity = np.array([each for each, _ in drawn], dtype=bool), np.array([each for _, each in drawn])
        self._metrics.say_wrong_passed(len(drawn), wrong_passed(np.ones(len(drawn), dtype=bool), is_wrong, propensity))

    def _leased(self, who: Who, lease: Lease) -> dict[str, Any]:
        row = self._row(lease.decision_id)
        return {
            "decision_id": lease.decision_id,
            "lease": str(lease.token),
            "seconds": max(0.0, round(lease.until - time.time(), 1)),
            "record": self._shown(row, who),
        }

    def _shown(self, row: Any, who: Who) -> dict[str, Any]:
        """Return what a reviewer sees: of a blind record nothing that the gate thought of it, nor what others made of it."""
        reading = self._schemas.read(row.value)
        suspect = {} if row.blind else {str(path): float(weight) for path, weight in json.loads(row.suspect)}
        shown: dict[str, Any] = {
            "blind": row.blind,
            "content_type": row.content_type,
            "key": None if row.key is None else row.key.decode("utf-8", "replace")[:MOST_CHARACTERS],
            "timestamp_ms": row.timestamp_ms,
            "bytes": len(row.value or b""),
            "fields": _fields(reading, suspect),
            "earlier": [
                {"decision_id": name, "source": source, "timestamp_ms": time_ms, "text": _one_line(self._schemas.opened(value))}
                for name, source, time_ms, value in self._store.earlier(row.key, row.timestamp_ms, MOST_EARLIER)
            ],
            # a second look is asked for after a "wrong", and a release tells of a "right"
            "reached_clean": row.reached_clean and (row.verdict_by == who.name or not (row.blind or row.look in (SECOND, DOUBTED))),
        }
        if not row.blind:
            shown |= {
                "look": SECOND if row.look == DOUBTED else row.look,  # that a model says otherwise would be an answer
                "p_chosen": row.p_chosen,
                "threshold": row.threshold,
                "reason": row.reason,
                "model": row.model,
                "pattern": row.pattern,
                "problems": [
                    violation.detail or violation.rule for violation in self._rules.value.check([reading])[0] if violation.is_error
                ],
            }
        return shown

    def _verdict_of(self, row: Any, who: Who, answer: str, body: dict[str, Any]) -> Verdict:
        note = body.get("note") or ""
        if not isinstance(note, str) or len(note) > MOST_NOTE:
            raise AnswerInvalid("note", most=MOST_NOTE)
        return Verdict(
            row.decision_id,
            row.topic_id,
            answer == "right",
            who.name,
            time.time_ns() // 1_000_000,
            row.key,
            row.value or b"",
            row.content_type,
            row.p_chosen,
            row.threshold,
            row.model_digest,
            row.reason,
            row.source,
            row.propensity,
            row.lottery,
            row.blind,
            self._correction(row, answer, body),
            _short(body, "kind"),
            _short(body, "field"),
            note.replace("\x00", ""),
        )

    def _correction(self, row: Any, answer: str, body: dict[str, Any]) -> bytes | None:
        """Return the corrected value, which must be readable and break no rule."""
        text = body.get("correction")
        if text is None:
            return None
        if not isinstance(text, str) or answer != "wrong":
            raise AnswerInvalid("correction_verdict")
        given = text.encode("utf-8", "surrogatepass")
        try:
            value = self._schemas.framed(given, row.value)
        except DoesNotFit as error:
            raise AnswerInvalid("correction_unread", why=str(error)) from error
        if value == row.value:
            raise AnswerInvalid("correction_same")
        reading = decode_value(given, "auto" if row.content_type == "text" else "json")
        if not isinstance(reading, Content):
            raise AnswerInvalid("correction_unread", why=f"{reading.reason} {reading.detail}".strip())
        broken = [violation for violation in self._rules.value.check([reading])[0] if violation.is_error]
        if broken:
            raise AnswerInvalid("correction_rules", rules="; ".join(f"{each.rule} {each.detail}".strip() for each in broken))
        return value

    def _publish(self, answers: Sequence[tuple[Any, Verdict]]) -> None:
        """Hand the answers to Kafka and wait until they have come back from it; on refusal the records are leased again."""
        ids = [row.decision_id for row, _ in answers]
        with self._metrics.publish_seconds.time():
            futures = [
                self._publisher.submit(self._releaser.messages(as_record(row), verdict, has_reached_clean=row.reached_clean))
                for row, verdict in answers
            ]
            failed: list[tuple[str, WinnowError]] = []
            late, deadline = 0, time.monotonic() + _COMMIT_SECONDS
            for (row, verdict), future in zip(answers, futures, strict=True):
                try:
                    future.result(max(0.0, deadline - time.monotonic()))
                except Undecided as error:
                    if not self._ingest.wait_for(verdict, max(_COME_BACK_SECONDS, deadline - time.monotonic())):
                        failed.append((row.decision_id, error))
                except WinnowError as error:
                    failed.append((row.decision_id, error))
                except TimeoutError:
                    # it may still be committed: the row stays on its way until the publisher or the topic says what became of it
                    self._settle_later(row.decision_id, verdict, future)
                    late += 1
                else:
                    self._metrics.verdicts.labels("right" if verdict.is_right else "wrong").inc()
            if late and not failed:
                raise KafkaRefused(f"Kafka has not answered within {_COMMIT_SECONDS:.0f} seconds; the answer may still arrive")
            if failed:
                self._store.leases.not_published([name for name, _ in failed], self._settings.lease_seconds)
                raise failed[0][1]
            if not self._ingest.wait_for(answers[-1][1], _COME_BACK_SECONDS):
                log.warning("a committed verdict is slow to come back", extra={"decision_id": ids[-1]})

    def _settle_later(self, decision_id: str, verdict: Verdict, future: "Future[None]") -> None:
        """Lease a record again when it turns out, too late for who asked, that Kafka does not have its answer."""

        def told(done: "Future[None]") -> None:
            if done.exception() is not None:
                threading.Thread(target=settle, args=(isinstance(done.exception(), Undecided),), name="settle", daemon=True).start()

        def settle(may_come: bool) -> None:
            if not may_come or not self._ingest.wait_for(verdict, _COME_BACK_SECONDS):
                self._store.leases.not_published([decision_id], 0.0)

        future.add_done_callback(told)

    def _row(self, decision_id: str) -> Any:
        row = self._store.record(decision_id)
        if row is None:
            raise RecordUnknown("no_record", decision_id=decision_id)
        return row


def filters_of(body: dict[str, Any]) -> Filters:
    """Return the filters of a request. Raises AnswerInvalid."""
    found = {name: body.get(name) or None for name in ("source", "reason", "model", "pattern")}
    for name, value in found.items():
        if value is not None and not isinstance(value, str):
            raise AnswerInvalid("no_text", name=name, value=repr(value))
    if found["source"] not in (None, "quarantine", "audit"):
        raise AnswerInvalid("choice", name="source", value=repr(found["source"]), choices="quarantine, audit")
    look = body.get("look") or None
    if look is not None and str(look) not in LOOKS:
        raise AnswerInvalid("choice", name="look", value=repr(look), choices=", ".join(LOOKS))
    return Filters(**found, look=None if look is None else int(look), order=_choice({"order": "uncertainty", **body}, "order", ORDERS))  # type: ignore[arg-type]


def _choice(body: dict[str, Any], name: str, choices: Sequence[str]) -> str:
    value = body.get(name)
    if value not in choices:
        raise AnswerInvalid("choice", name=name, value=repr(value), choices=", ".join(choices))
    return str(value)


def _short(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    return str(value)[:200].replace("\x00", "") if value else None


def _token(body: dict[str, Any]) -> int:
    lease = body.get("lease")
    if not isinstance(lease, str | int) or not str(lease).isdecimal():
        raise AnswerInvalid("lease", value=repr(str(lease)[:40]))
    return int(str(lease)[:18])


def _fields(reading: Reading, suspect: dict[str, float]) -> list[dict[str, Any]]:
    """Return the fields in the producer's order, cut where they are very long; path None is text between labels."""
    if not isinstance(reading, Content):
        return []
    if reading.is_json:
        found = [(path, value) for path, value in leaves(reading.data)]
    else:
        rendered = render(reading)
        found = [(field.path, rendered.text[field.start : field.end]) for field in rendered.fields] or [("1", rendered.text)]
    return [
        {
            "path": without_surrogates(path[:200]),
            "value": without_surrogates(value[:MOST_CHARACTERS]),
            "characters": len(value),
            "weight": suspect.get(path),
        }
        for path, value in found[:MOST_FIELDS]
    ]


def _one_line(value: bytes | Unread | None) -> str:
    if isinstance(value, Unread):
        return f"{value.reason} {value.detail}"[:300]
    return " ".join((value or b"")[: MOST_CHARACTERS * 4].decode("utf-8", "replace").split())[:300]


def _midnight_ms() -> int:
    return int(datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
