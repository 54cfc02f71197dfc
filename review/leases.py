"""Who has which record: leases with a fencing token, the way of an answer to Kafka, skips.

A token grows with every lease of a record, so that an answer under an old one is refused whatever happened meanwhile.
"""

import time
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from foundation.errors import WinnowError
from review import tables
from review.database import Database
from review.refused import LeaseLost
from review.tables import CONFLICT, DONE, DOUBTED, FIRST, LEASED, OPEN, PUBLISHING, SECOND
from stream.looks import TWO

Order = Literal["uncertainty", "age", "reason"]
ORDERS: tuple[Order, ...] = ("uncertainty", "age", "reason")


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


class Leases:
    """The leases of one store."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def lease(self, reviewer: str, seconds: float, filters: Filters, *, is_lead: bool = False) -> Lease | None:
        """Keep the next record for a reviewer; None when nothing is left for them."""
        now = time.time()
        with self._database.writing() as db:
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

    def lease_again(self, decision_id: str, reviewer: str, seconds: float, *, is_lead: bool) -> Lease:
        """Keep one named record, answered before or not: for undo and for links.

        Raises LeaseLost if somebody else has it, or if two disagree and who asks is the one of them that answered first:
        a conflict is settled by a third or by a lead.
        """
        now = time.time()
        with self._database.writing() as db:
            self._lapse(db, now)
            row = db.execute(sa.select(tables.records).where(tables.records.c.decision_id == decision_id).with_for_update()).first()
            if row is None:
                raise LeaseLost("no_record", decision_id=decision_id)
            if row.state == PUBLISHING or (row.state == LEASED and row.lease_by != reviewer):
                raise LeaseLost("in_other_hands", reviewer=row.lease_by, decision_id=decision_id)
            mine = sa.select(tables.verdicts.c.offset).where(_said_by(reviewer, decision_id)).limit(1)
            if row.look == CONFLICT and not is_lead and row.verdict_by != reviewer and db.execute(mine).first() is not None:
                raise LeaseLost("settled_by_others", decision_id=decision_id)
            return self._keep(db, row, reviewer, now + seconds)

    def renew(self, decision_id: str, token: int, reviewer: str, seconds: float) -> Lease:
        """Keep a record longer. Raises LeaseLost."""
        until = time.time() + seconds
        with self._database.writing() as db:
            done = db.execute(sa.update(tables.records).where(*_held_by(decision_id, token, reviewer)).values(lease_until=until))
            if not done.rowcount:
                raise LeaseLost("lease_over", decision_id=decision_id)
        return Lease(decision_id, token, until)

    def give_back(self, decision_id: str, token: int, reviewer: str, *, is_skip: bool) -> None:
        """End a lease without an answer; a skipped record is not offered to this reviewer again. Raises LeaseLost."""
        with self._database.writing() as db:
            row = db.execute(sa.select(tables.records).where(*_held_by(decision_id, token, reviewer)).with_for_update()).first()
            if row is None:
                raise LeaseLost("lease_over", decision_id=decision_id)
            state = DONE if row.verdict is not None and row.look == FIRST else OPEN
            db.execute(sa.update(tables.records).where(tables.records.c.decision_id == decision_id).values(state=state, lease_until=0.0))
            if is_skip:
                db.execute(tables.insert(db, tables.skips).on_conflict_do_nothing(), {"reviewer": reviewer, "decision_id": decision_id})

    def forget_skips(self, reviewer: str) -> int:
        """Offer the records again that a reviewer has skipped, and return how many there are."""
        with self._database.writing() as db:
            return int(db.execute(sa.delete(tables.skips).where(tables.skips.c.reviewer == reviewer)).rowcount)

    def begin_publishing(self, decision_id: str, token: int, reviewer: str, verdict: str) -> Any:
        """Return the row, which no lapse can take away now, or raise LeaseLost, or Answered when this answer is in Kafka."""
        with self._database.writing() as db:
            row = db.execute(sa.select(tables.records).where(tables.records.c.decision_id == decision_id).with_for_update()).first()
            if row is None:
                raise LeaseLost("no_record", decision_id=decision_id)
            is_mine = row.lease_token == token and row.lease_by == reviewer
            if not is_mine or row.state not in (LEASED, PUBLISHING):
                if is_mine and row.verdict_by == reviewer and row.verdict == verdict and row.state in (DONE, OPEN):
                    raise Answered(f"{decision_id} has been answered {verdict}")
                raise LeaseLost("lease_over", decision_id=decision_id)
            if row.state == PUBLISHING or row.lease_until < time.time():
                raise LeaseLost("lease_over", decision_id=decision_id)
            db.execute(sa.update(tables.records).where(tables.records.c.decision_id == decision_id).values(state=PUBLISHING))
            return row

    def begin_publishing_many(self, reviewer: str, filters: Filters, count: int, *, is_lead: bool) -> list[Any]:
        """Take all open records of a reason and pattern for a bulk answer; raise LeaseLost when they are not `count` any more."""
        with self._database.writing() as db:
            self._lapse(db, time.time())
            statement = sa.select(tables.records).where(*_wanted(filters), *_open_to(reviewer, is_lead)).with_for_update(skip_locked=True)
            rows = list(db.execute(statement))
            if len(rows) != count:
                raise LeaseLost("count_changed", found=len(rows), count=count)
            for piece in tables.pieces([row.decision_id for row in rows]):
                db.execute(
                    sa.update(tables.records)
                    .where(tables.records.c.decision_id.in_(piece))
                    .values(state=PUBLISHING, lease_by=reviewer, lease_token=tables.records.c.lease_token + 1)
                )
            return rows

    def not_published(self, decision_ids: Iterable[str], seconds: float) -> None:
        """Go back to the lease after Kafka has refused; what Kafka took after all is not touched."""
        for piece in tables.pieces(list(decision_ids)):
            with self._database.writing() as db:
                db.execute(
                    sa.update(tables.records)
                    .where(tables.records.c.decision_id.in_(piece), tables.records.c.state == PUBLISHING)
                    .values(state=LEASED, lease_until=time.time() + seconds)
                )

    def _lapse(self, db: sa.Connection, now: float) -> None:
        """Take back what was kept too long."""
        db.execute(sa.update(tables.records).where(has_lapsed(now)).values(state=sa.case((was_answered(), DONE), else_=OPEN)))

    def _keep(self, db: sa.Connection, row: Any, reviewer: str, until: float) -> Lease:
        token = row.lease_token + 1
        db.execute(
            sa.update(tables.records)
            .where(tables.records.c.decision_id == row.decision_id)
            .values(state=LEASED, lease_by=reviewer, lease_token=token, lease_until=until)
        )
        return Lease(row.decision_id, token, until)


def has_lapsed(now: float) -> sa.ColumnElement[bool]:
    """Return the condition of a row that was kept too long; now: Unix seconds."""
    return sa.and_(tables.records.c.state == LEASED, tables.records.c.lease_until < now)


def was_answered() -> sa.ColumnElement[bool]:
    """Return the condition of a row that had been settled before it was taken up again."""
    return sa.and_(tables.records.c.verdict.is_not(None), tables.records.c.look == FIRST)


def waits_again(now: float) -> sa.ColumnElement[bool]:
    """Return the condition of a row that was kept too long and had not been settled; now: Unix seconds."""
    return sa.and_(has_lapsed(now), sa.not_(was_answered()))


def _wanted(filters: Filters) -> Iterator[sa.ColumnElement[bool]]:
    """Yield the conditions of the filters; a filter on what blind records do not show leaves them out."""
    if filters.source == "quarantine":
        yield sa.and_(tables.records.c.source == "quarantine", tables.records.c.blind.is_(False))
    if filters.source == "audit":  # all that is blind: that a record was held or passed is what a reviewer must not know
        yield tables.records.c.blind.is_(True)
    if filters.look is not None:
        # a second look is a second look: which answer a training doubts is nearly said with that it doubts
        yield tables.records.c.look.in_((SECOND, DOUBTED) if filters.look == SECOND else (filters.look,))
        if filters.look != CONFLICT:  # a second look at a blind one is asked for after a "wrong"
            yield tables.records.c.blind.is_(False)
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
    mine = sa.exists().where(_said_by(reviewer, tables.records.c.decision_id))
    settles = settled_by_lead() if is_lead else sa.false()
    yield sa.or_(tables.records.c.look == FIRST, settles, ~mine)
    yield ~sa.exists().where(tables.skips.c.decision_id == tables.records.c.decision_id, tables.skips.c.reviewer == reviewer)


def settled_by_lead() -> sa.ColumnElement[bool]:
    """Return the condition of a conflict that a lead may settle who is one of the two: once, or they would get it again and again."""
    return sa.and_(tables.records.c.look == CONFLICT, tables.records.c.verdicts <= TWO)


def _said_by(reviewer: str, decision_id: str | sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    return sa.and_(tables.verdicts.c.decision_id == decision_id, tables.verdicts.c.reviewer == reviewer)


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
