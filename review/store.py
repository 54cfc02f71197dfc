"""The projection of the quarantine, audit and verdict topics into SQL, and the leases of those who answer.

Enters: records as Kafka carried them. Leaves: the next record to look at, counts, histories. All but leases, skips and
sessions can be rebuilt from the topics; offsets are stored in the same transaction as the rows made of them.

A row's state: `open` (with the number of the look it waits for), `leased`, `publishing` (its verdict is on the way to
Kafka) and `done`. Only a verdict read back from Kafka makes a row done.
"""

import json
import math
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from foundation.errors import SettingInvalid, WinnowError
from review import tables
from review.pattern import pattern_of
from review.tables import CONFLICT, DONE, FIRST, LEASED, OPEN, PUBLISHING, SECOND
from stream import wire
from stream.decide import ticket
from stream.decode import decode_value
from stream.records import Content, Headers, Record, Verdict
from stream.render import leaves, text_of

Order = Literal["uncertainty", "age", "reason"]
ORDERS: tuple[Order, ...] = ("uncertainty", "age", "reason")

_ENOUGH_VERDICTS = 3
_CERTAIN = 1e3
_SCHEMA = 1


class LeaseLost(WinnowError):
    """The lease has lapsed, was given to somebody else, or its record has been answered meanwhile."""


class Answered(WinnowError):
    """The very same answer has been given and is in Kafka: asking again changes nothing."""


class Filters(NamedTuple):
    """What a reviewer wants to see; None means all."""

    source: str | None = None
    reason: str | None = None
    model: str | None = None
    pattern: str | None = None
    look: int | None = None
    order: Order = "uncertainty"


class Lease(NamedTuple):
    """A record kept for one reviewer: the fencing token grows with every lease of the record."""

    decision_id: str
    token: int
    until: float


class Counts(NamedTuple):
    """How many records there are in each state; second and conflict are among the open ones."""

    open: int
    leased: int
    done: int
    second: int
    conflict: int
    done_today: int


class Store:
    """The database of one review service."""

    def __init__(self, url: str, second_share: float = 0.0) -> None:
        """Connect and create what is missing. Raises SettingInvalid when the URL or the database cannot be used."""
        self._second_share = second_share
        try:
            self._engine = sa.create_engine(url, pool_size=16, max_overflow=16) if not url.startswith("sqlite") else sa.create_engine(url)
            self._is_sqlite = self._engine.dialect.name == "sqlite"
            if self._is_sqlite:
                _serialise(self._engine)
            tables.META.create_all(self._engine)
            with self._engine.begin() as db:
                found = db.execute(sa.select(tables.schema.c.version)).scalar()
                if found is None:
                    db.execute(sa.insert(tables.schema).values(version=_SCHEMA))
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            shown = sa.engine.make_url(url).render_as_string() if "://" in url else url
            raise SettingInvalid(f"review.database_url = {shown} cannot be used: {str(error).splitlines()[0][:200]}") from error
        if found not in (None, _SCHEMA):
            raise SettingInvalid(f"the store is of schema {found}, this winnow writes {_SCHEMA}; `winnow review --rebuild` makes it anew")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    # --- projection

    def offsets(self) -> dict[tuple[str, int], int]:
        """Return where reading goes on."""
        with self._engine.begin() as db:
            return {(row.topic, row.partition): row.next for row in db.execute(sa.select(tables.offsets))}

    def apply(
        self,
        held: Sequence[tuple[str, Record]],
        verdicts: Sequence[tuple[Record, Verdict]],
        clean: Sequence[Record],
        offsets: dict[tuple[str, int], int],
    ) -> set[str]:
        """Take in what was read, with the offsets behind it, in one transaction; return the decisions that were touched.

        `held` are records with their source. What is there already changes nothing, so reading twice is harmless.
        """
        rows = [_row_of(source, record) for source, record in held]
        said = [_verdict_row(record, verdict) for record, verdict in verdicts]
        earlier = [_clean_row(record) for record in clean]
        touched = {str(row["decision_id"]) for row in [*rows, *said]}
        with self._engine.begin() as db:
            for table, new in ((tables.records, rows), (tables.verdicts, said), (tables.clean, earlier)):
                if new:
                    db.execute(self._insert(table).on_conflict_do_nothing(), new)
            self._settle(db, touched)
            if offsets:
                statement = self._insert(tables.offsets)
                db.execute(
                    statement.on_conflict_do_update(index_elements=["topic", "partition"], set_={"next": statement.excluded.next}),
                    [{"topic": topic, "partition": partition, "next": after} for (topic, partition), after in offsets.items()],
                )
        return touched

    def reopen_unpublished(self) -> int:
        """Give back what a service that died had on the way; all verdicts in Kafka must have been applied before."""
        with self._engine.begin() as db:
            done = db.execute(sa.update(tables.records).where(tables.records.c.state == PUBLISHING).values(state=OPEN, lease_until=0.0))
            return int(done.rowcount)

    def forget_projection(self) -> None:
        """Drop all that comes from the topics, to be read again from their beginnings."""
        with self._engine.begin() as db:
            for table in tables.PROJECTED:
                db.execute(sa.delete(table))

    def _settle(self, db: sa.Connection, decision_ids: set[str]) -> None:
        """Work out the state of the rows from all their verdicts; rows that know of as many already stay as they are."""
        for piece in _pieces(sorted(decision_ids), 500):
            events: dict[str, list[Any]] = {}
            wanted = sa.select(tables.verdicts).where(tables.verdicts.c.decision_id.in_(piece))
            for event in db.execute(wanted.order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)):
                events.setdefault(event.decision_id, []).append(event)
            if not events:
                continue
            known = db.execute(
                sa.select(tables.records.c.decision_id, tables.records.c.verdicts).where(tables.records.c.decision_id.in_(list(events)))
            )
            for row in known.all():
                said = events[row.decision_id]
                if len(said) > row.verdicts:
                    look = self._next_look(row.decision_id, said)
                    db.execute(
                        sa.update(tables.records)
                        .where(tables.records.c.decision_id == row.decision_id)
                        .values(
                            state=DONE if look is None else OPEN,
                            look=look or FIRST,
                            verdicts=len(said),
                            verdict=said[-1].verdict,
                            verdict_by=said[-1].reviewer,
                            verdict_ms=said[-1].time_ms,
                            reached_clean=any(event.reaches_clean for event in said),
                            lease_until=0.0,
                        )
                    )

    def _next_look(self, decision_id: str, said: list[Any]) -> int | None:
        """Return which look a record waits for after these verdicts, None when the last one settles it."""
        by_reviewer = {event.reviewer: event.verdict for event in said}
        if len(said) >= _ENOUGH_VERDICTS:
            return None
        if len(by_reviewer) > 1:
            return CONFLICT if len(set(by_reviewer.values())) > 1 else None
        needs_second = (said[-1].source == "audit" and said[-1].verdict == "wrong") or ticket(decision_id, "second") < self._second_share
        return SECOND if needs_second else None

    # --- leases

    def lease(self, reviewer: str, seconds: float, filters: Filters, *, is_lead: bool = False) -> Lease | None:
        """Keep the next record for a reviewer; None when nothing is left for them."""
        now = time.time()
        with self._engine.begin() as db:
            self._lapse(db, now)
            chosen = db.execute(
                sa.select(tables.records.c.decision_id, tables.records.c.lease_token)
                .where(*_wanted(filters), *_open_to(reviewer, is_lead))
                .order_by(*_ordered(filters.order))
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if chosen is None:
                return None
            return self._keep(db, chosen, reviewer, now + seconds)

    def lease_again(self, decision_id: str, reviewer: str, seconds: float) -> Lease:
        """Keep one named record, answered before or not: for undo and for links. Raises LeaseLost if somebody else has it."""
        now = time.time()
        with self._engine.begin() as db:
            self._lapse(db, now)
            row = db.execute(sa.select(tables.records).where(tables.records.c.decision_id == decision_id).with_for_update()).first()
            if row is None:
                raise LeaseLost(f"there is no record {decision_id}")
            if row.state == PUBLISHING or (row.state == LEASED and row.lease_by != reviewer):
                raise LeaseLost(f"{row.lease_by} has {decision_id} at the moment")
            return self._keep(db, row, reviewer, now + seconds)

    def renew(self, decision_id: str, token: int, reviewer: str, seconds: float) -> Lease:
        """Keep a record longer. Raises LeaseLost."""
        until = time.time() + seconds
        with self._engine.begin() as db:
            done = db.execute(sa.update(tables.records).where(*_held_by(decision_id, token, reviewer)).values(lease_until=until))
            if not done.rowcount:
                raise LeaseLost(f"the lease of {decision_id} is over")
        return Lease(decision_id, token, until)

    def give_back(self, decision_id: str, token: int, reviewer: str, *, is_skip: bool) -> None:
        """End a lease without an answer; a skipped record is not offered to this reviewer again. Raises LeaseLost."""
        with self._engine.begin() as db:
            row = db.execute(sa.select(tables.records).where(*_held_by(decision_id, token, reviewer)).with_for_update()).first()
            if row is None:
                raise LeaseLost(f"the lease of {decision_id} is over")
            state = DONE if row.verdict is not None and row.look == FIRST else OPEN
            db.execute(sa.update(tables.records).where(tables.records.c.decision_id == decision_id).values(state=state, lease_until=0.0))
            if is_skip:
                db.execute(self._insert(tables.skips).on_conflict_do_nothing(), {"reviewer": reviewer, "decision_id": decision_id})

    def forget_skips(self, reviewer: str) -> int:
        """Offer the records again that a reviewer has skipped, and return how many there are."""
        with self._engine.begin() as db:
            return int(db.execute(sa.delete(tables.skips).where(tables.skips.c.reviewer == reviewer)).rowcount)

    def begin_publishing(self, decision_id: str, token: int, reviewer: str, verdict: str) -> Any:
        """Return the row, which no lapse can take away now, or raise LeaseLost, or Answered when this answer is in Kafka."""
        with self._engine.begin() as db:
            row = db.execute(sa.select(tables.records).where(tables.records.c.decision_id == decision_id).with_for_update()).first()
            if row is None:
                raise LeaseLost(f"there is no record {decision_id}")
            is_mine = row.lease_token == token and row.lease_by == reviewer
            if not is_mine or row.state not in (LEASED, PUBLISHING):
                if is_mine and row.verdict_by == reviewer and row.verdict == verdict and row.state in (DONE, OPEN):
                    raise Answered(f"{decision_id} has been answered {verdict}")
                raise LeaseLost(f"the lease of {decision_id} is over; take the record again")
            if row.state == PUBLISHING or row.lease_until < time.time():
                raise LeaseLost(f"the lease of {decision_id} is over; take the record again")
            db.execute(sa.update(tables.records).where(tables.records.c.decision_id == decision_id).values(state=PUBLISHING))
            return row

    def begin_publishing_many(self, reviewer: str, filters: Filters, count: int, *, is_lead: bool) -> list[Any]:
        """Take all open records of a reason and pattern for a bulk answer; raise LeaseLost when they are not `count` any more."""
        with self._engine.begin() as db:
            self._lapse(db, time.time())
            statement = sa.select(tables.records).where(*_wanted(filters), *_open_to(reviewer, is_lead)).with_for_update(skip_locked=True)
            rows = list(db.execute(statement))
            if len(rows) != count:
                raise LeaseLost(f"there are {len(rows)} such records now, not {count}; look again")
            for piece in _pieces([row.decision_id for row in rows], 500):
                db.execute(
                    sa.update(tables.records)
                    .where(tables.records.c.decision_id.in_(piece))
                    .values(state=PUBLISHING, lease_by=reviewer, lease_token=tables.records.c.lease_token + 1)
                )
            return rows

    def not_published(self, decision_ids: Iterable[str], seconds: float) -> None:
        """Go back to the lease after Kafka has refused; what Kafka took after all is not touched."""
        for piece in _pieces(list(decision_ids), 500):
            with self._engine.begin() as db:
                db.execute(
                    sa.update(tables.records)
                    .where(tables.records.c.decision_id.in_(piece), tables.records.c.state == PUBLISHING)
                    .values(state=LEASED, lease_until=time.time() + seconds)
                )

    def _lapse(self, db: sa.Connection, now: float) -> None:
        """Take back what was kept too long."""
        was_answered = sa.and_(tables.records.c.verdict.is_not(None), tables.records.c.look == FIRST)
        db.execute(
            sa.update(tables.records)
            .where(tables.records.c.state == LEASED, tables.records.c.lease_until < now)
            .values(state=sa.case((was_answered, DONE), else_=OPEN))
        )

    def _keep(self, db: sa.Connection, row: Any, reviewer: str, until: float) -> Lease:
        token = row.lease_token + 1
        db.execute(
            sa.update(tables.records)
            .where(tables.records.c.decision_id == row.decision_id)
            .values(state=LEASED, lease_by=reviewer, lease_token=token, lease_until=until)
        )
        return Lease(row.decision_id, token, until)

    # --- reading

    def record(self, decision_id: str) -> Any | None:
        """Return one row, or None."""
        with self._engine.begin() as db:
            return db.execute(sa.select(tables.records).where(tables.records.c.decision_id == decision_id)).first()

    def history(self, decision_id: str) -> list[Any]:
        """Return all verdicts on a record, oldest first."""
        with self._engine.begin() as db:
            wanted = sa.select(tables.verdicts).where(tables.verdicts.c.decision_id == decision_id)
            return list(db.execute(wanted.order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)))

    def earlier(self, key: bytes | None, before_ms: int, most: int) -> list[tuple[str, str, int, bytes | None]]:
        """Return (decision id, source, timestamp ms, value) of what the same key said before, the newest first."""
        if key is None:
            return []
        found: list[tuple[str, str, int, bytes | None]] = []
        with self._engine.begin() as db:
            for table in (tables.records, tables.clean):
                source = table.c.source if table is tables.records else sa.literal("clean")
                wanted = sa.select(table.c.decision_id, source, table.c.timestamp_ms, table.c.value)
                wanted = wanted.where(table.c.key == key, table.c.timestamp_ms < before_ms)
                found += [tuple(row) for row in db.execute(wanted.order_by(table.c.timestamp_ms.desc()).limit(most))]
        return sorted(found, key=lambda row: -row[2])[:most]

    def counts(self, midnight_ms: int) -> Counts:
        """Return how many records are in each state; a lease that has lapsed counts as open."""
        now = time.time()
        with self._engine.begin() as db:
            rows = db.execute(
                sa.select(tables.records.c.state, tables.records.c.look, sa.func.count()).group_by(
                    tables.records.c.state, tables.records.c.look
                )
            )
            number: dict[tuple[str, int], int] = {(state, look): count for state, look, count in rows}
            lapsed = sa.select(sa.func.count()).where(tables.records.c.state == LEASED, tables.records.c.lease_until < now)
            lapsed_count = int(db.execute(lapsed).scalar() or 0)
            today = sa.select(sa.func.count()).select_from(tables.verdicts).where(tables.verdicts.c.time_ms >= midnight_ms)
            done_today = int(db.execute(today).scalar() or 0)

        def of(state: str) -> int:
            return sum(count for (at, _), count in number.items() if at == state)

        leased = of(LEASED) + of(PUBLISHING) - lapsed_count
        second, conflict = number.get((OPEN, SECOND), 0), number.get((OPEN, CONFLICT), 0)
        return Counts(of(OPEN) + lapsed_count, leased, of(DONE), second, conflict, done_today)

    def groups(self, most: int) -> list[tuple[str, str, int]]:
        """Return (reason, pattern, count) of open, unblind records that look alike, the most frequent first."""
        with self._engine.begin() as db:
            wanted = (
                sa.select(tables.records.c.reason, tables.records.c.pattern, sa.func.count().label("count"))
                .where(tables.records.c.state == OPEN, tables.records.c.blind.is_(False), tables.records.c.look == FIRST)
                .group_by(tables.records.c.reason, tables.records.c.pattern)
                .having(sa.func.count() > 1)
                .order_by(sa.desc("count"))
                .limit(most)
            )
            return [tuple(row) for row in db.execute(wanted)]

    def reasons(self) -> list[tuple[str, int]]:
        """Return the reasons of open records with their counts; blind ones are not told apart."""
        with self._engine.begin() as db:
            wanted = sa.select(tables.records.c.reason, sa.func.count()).where(
                tables.records.c.state == OPEN, tables.records.c.blind.is_(False)
            )
            return [tuple(row) for row in db.execute(wanted.group_by(tables.records.c.reason).order_by(tables.records.c.reason))]

    def agreement(self) -> tuple[int, float | None]:
        """Return on how many records two reviewers' first answers can be compared, and Cohen's kappa of them."""
        first: dict[str, dict[str, str]] = {}
        with self._engine.begin() as db:
            twice = sa.select(tables.verdicts.c.decision_id).group_by(tables.verdicts.c.decision_id)
            twice = twice.having(sa.func.count(sa.distinct(tables.verdicts.c.reviewer)) > 1)
            wanted = (
                sa.select(tables.verdicts)
                .where(tables.verdicts.c.decision_id.in_(twice))
                .order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)
            )
            for event in db.execute(wanted):
                first.setdefault(event.decision_id, {}).setdefault(event.reviewer, event.verdict)
        pairs = [tuple(said.values())[:2] for said in first.values()]
        return len(pairs), kappa(pairs)

    def answered_by(self, reviewer: str, since_ms: int) -> int:
        """Return how many verdicts a reviewer has given since a time."""
        with self._engine.begin() as db:
            wanted = sa.select(sa.func.count()).select_from(tables.verdicts)
            return int(
                db.execute(wanted.where(tables.verdicts.c.reviewer == reviewer, tables.verdicts.c.time_ms >= since_ms)).scalar() or 0
            )

    def erase(self, key: bytes) -> int:
        """Delete all records of a key with their verdicts, and return how many records there were."""
        with self._engine.begin() as db:
            ids = [row.decision_id for row in db.execute(sa.select(tables.records.c.decision_id).where(tables.records.c.key == key))]
            for piece in _pieces(ids, 500):
                db.execute(sa.delete(tables.verdicts).where(tables.verdicts.c.decision_id.in_(piece)))
                db.execute(sa.delete(tables.skips).where(tables.skips.c.decision_id.in_(piece)))
            gone = db.execute(sa.delete(tables.records).where(tables.records.c.key == key)).rowcount
            return int(gone) + int(db.execute(sa.delete(tables.clean).where(tables.clean.c.key == key)).rowcount)

    # --- sessions and the trail of who did what

    def open_session(self, token_hash: str, reviewer: str, until: float) -> str:
        """Remember a login and return its CSRF token."""
        csrf = secrets.token_urlsafe(24)
        with self._engine.begin() as db:
            db.execute(sa.delete(tables.sessions).where(tables.sessions.c.until < time.time()))
            db.execute(sa.insert(tables.sessions).values(token_hash=token_hash, reviewer=reviewer, csrf=csrf, until=until))
        return csrf

    def session(self, token_hash: str) -> tuple[str, str] | None:
        """Return (reviewer, CSRF token) of a login that has not run out."""
        with self._engine.begin() as db:
            row = db.execute(
                sa.select(tables.sessions).where(tables.sessions.c.token_hash == token_hash, tables.sessions.c.until > time.time())
            ).first()
            return None if row is None else (row.reviewer, row.csrf)

    def close_session(self, token_hash: str) -> None:
        """End a login."""
        with self._engine.begin() as db:
            db.execute(sa.delete(tables.sessions).where(tables.sessions.c.token_hash == token_hash))

    def note(self, who: str, what: str, detail: str = "") -> None:
        """Write down who did what; never a record's content."""
        with self._engine.begin() as db:
            db.execute(sa.insert(tables.trail).values(time=time.time(), who=who, what=what, detail=detail))

    def trail(self, most: int) -> list[Any]:
        """Return the newest lines of the trail."""
        with self._engine.begin() as db:
            return list(db.execute(sa.select(tables.trail).order_by(tables.trail.c.id.desc()).limit(most)))

    def _insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._is_sqlite else postgresql.insert(table)


def headers_of(row: Any) -> Headers:
    """Return the headers of a row as Kafka carried them."""
    return [(name, None if value is None else value.encode("latin-1")) for name, value in json.loads(row.headers)]


def as_record(row: Any) -> Record:
    """Return a row as the record that lies in quarantine or audit; its place is that of the input."""
    topic, partition, offset = row.decision_id.rsplit(":", 2)
    return Record(topic, int(partition), int(offset), row.timestamp_ms, row.key, row.value, headers_of(row))


def kappa(pairs: Sequence[tuple[str, ...]]) -> float | None:
    """Return Cohen's kappa of pairs of answers (Cohen 1960); None without pairs or where chance alone would agree."""
    if not pairs:
        return None
    share = sum(a == b for a, b in pairs) / len(pairs)
    answers = {answer for pair in pairs for answer in pair}
    chance = sum((sum(a == it for a, _ in pairs) / len(pairs)) * (sum(b == it for _, b in pairs) / len(pairs)) for it in answers)
    return None if chance == 1 else (share - chance) / (1 - chance)


def _wanted(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions of the filters; a filter on what blind records do not show leaves them out."""
    if filters.source is not None:
        yield tables.records.c.source == filters.source
    if filters.look is not None:
        yield tables.records.c.look == filters.look
    for column, value in (
        (tables.records.c.reason, filters.reason),
        (tables.records.c.model, filters.model),
        (tables.records.c.pattern, filters.pattern),
    ):
        if value is not None:
            yield sa.and_(column == value, tables.records.c.blind.is_(False))


def _open_to(reviewer: str, is_lead: bool) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions under which an open record may be offered to a reviewer: a second look is somebody else's."""
    yield tables.records.c.state == OPEN
    mine = sa.exists().where(tables.verdicts.c.decision_id == tables.records.c.decision_id, tables.verdicts.c.reviewer == reviewer)
    settles = sa.and_(tables.records.c.look == CONFLICT, sa.true() if is_lead else sa.false())
    yield sa.or_(tables.records.c.look == FIRST, settles, ~mine)
    yield ~sa.exists().where(tables.skips.c.decision_id == tables.records.c.decision_id, tables.skips.c.reviewer == reviewer)


def _ordered(order: Order) -> tuple[sa.ColumnElement[Any], ...]:
    if order == "age":
        return (tables.records.c.timestamp_ms, tables.records.c.decision_id)
    if order == "reason":
        return (tables.records.c.reason, tables.records.c.pattern, tables.records.c.uncertainty)
    return (tables.records.c.uncertainty, tables.records.c.decision_id)


def _held_by(decision_id: str, token: int, reviewer: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        tables.records.c.decision_id == decision_id,
        tables.records.c.lease_token == token,
        tables.records.c.lease_by == reviewer,
        tables.records.c.state == LEASED,
        tables.records.c.lease_until >= time.time(),
    )


def _row_of(source: str, record: Record) -> dict[str, object]:
    def said(name: str) -> str | None:
        return wire.last(record.headers, name)

    decision_id = said(wire.DECISION_ID) or record.decision_id
    reading = decode_value(record.value, "auto")
    content = reading if isinstance(reading, Content) else None
    suspect = json.loads(said(wire.SUSPECT) or "[]")
    p_chosen, threshold = _number(said(wire.P_CHOSEN)), _number(said(wire.THRESHOLD))
    lottery = said(wire.LOTTERY)
    is_blind = source == "audit" or lottery == "flat"
    headers = [[name, None if value is None else value.decode("latin-1")] for name, value in record.headers]
    return {
        "decision_id": decision_id,
        "source": source,
        "topic_id": said(wire.TOPIC_ID) or "",
        "key": record.key,
        "value": record.value,
        "headers": json.dumps(headers),
        "timestamp_ms": record.timestamp_ms,
        "content_type": "json" if content is not None and content.is_json else "text",
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
        return ticket(decision_id, "place") * 2.0
    if p_chosen is None or threshold is None:
        return _CERTAIN
    return abs(_logit(p_chosen) - _logit(threshold))


def _logit(p: float) -> float:
    kept = min(max(p, 1e-6), 1 - 1e-6)
    return math.log(kept / (1 - kept))


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _verdict_row(record: Record, verdict: Verdict) -> dict[str, object]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "decision_id": verdict.decision_id,
        "reviewer": verdict.reviewer,
        "time_ms": verdict.time_ms,
        "verdict": "right" if verdict.is_right else "wrong",
        "source": verdict.source,
        "blind": verdict.blind,
        "reaches_clean": verdict.reaches_clean,
        "correction": verdict.correction,
        "note": verdict.note,
    }


def _clean_row(record: Record) -> dict[str, object]:
    decision_id = wire.last(record.headers, wire.DECISION_ID) or record.decision_id
    return {"decision_id": decision_id, "key": record.key, "value": record.value, "timestamp_ms": record.timestamp_ms}


def _pieces(values: list[str], size: int) -> Iterator[list[str]]:
    return (values[at : at + size] for at in range(0, len(values), size))


def _serialise(engine: sa.Engine) -> None:
    """Make SQLite's transactions begin as writers: one that turns writer half-way is refused when another has written."""

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=20000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def opened(url: str, second_share: float) -> Iterator[Store]:
    """Open a store and close it in the end."""
    store = Store(url, second_share)
    try:
        yield store
    finally:
        store.close()
