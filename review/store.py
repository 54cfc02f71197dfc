"""The projection of the quarantine, audit and verdict topics into SQL.

Enters: records as Kafka carried them. Leaves: rows and histories; figures.py counts them. It can be rebuilt from the topics; offsets are
stored in the same transaction as the rows made of them. Leases and sessions live beside it.

A row's state: `open` (with the number of the look it waits for), `leased`, `publishing` (its verdict is on the way to
Kafka) and `done`. Only a verdict read back from Kafka makes a row done; one that a training doubts is open again.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from foundation.errors import SettingInvalid, StoreTaken
from review import tables
from review.accounts import Accounts
from review.database import Database
from review.figures import Figures
from review.leases import Leases, was_answered
from review.rows import hash_of, place_of_blind
from review.tables import CONFLICT, DONE, DOUBTED, FIRST, OPEN, PUBLISHING, SECOND
from stream.decide import ticket
from stream.looks import TWO, wanted_look
from stream.records import REPLAY

_SCHEMA = 3


Row = dict[str, object]


class Store:
    """The database of one review service."""

    def __init__(self, url: str, second_share: float = 0.0, wrong_looks: int = TWO, *, anew: bool = False) -> None:
        """Connect and create what is missing; `anew` gives up what a store of another schema projects.

        second_share, wrong_looks: as in the settings.

        Raises SettingInvalid when the URL or the database cannot be used.
        """
        self._second_share = second_share
        self._wrong_looks = wrong_looks
        self._epoch: int | None = None
        try:
            self._database = Database(url)
            with self._database.writing() as db:
                found = self._make(db, anew=anew)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            shown = sa.engine.make_url(url).render_as_string() if "://" in url else url
            raise SettingInvalid(f"review.database_url = {shown} cannot be used: {str(error).splitlines()[0][:200]}") from error
        if found != _SCHEMA:
            self.close()
            raise SettingInvalid(f"the store is of schema {found}, this winnow writes {_SCHEMA}; `winnow review --rebuild` makes it anew")

        self.leases = Leases(self._database)
        self.accounts = Accounts(self._database)
        self.figures = Figures(self._database, second_share)

    def _make(self, db: sa.Connection, *, anew: bool) -> int:
        """Create what is missing and return the schema that is there; `anew` makes the tables of an earlier one again."""
        tables.schema.create(db, checkfirst=True)
        found = db.execute(sa.select(tables.schema.c.version)).scalar()
        if found is None or (anew and found != _SCHEMA):
            tables.META.drop_all(db, tables=list(tables.PROJECTED))
            db.execute(sa.delete(tables.schema))
            db.execute(sa.insert(tables.schema).values(version=_SCHEMA))
            found = _SCHEMA
        if found == _SCHEMA:
            tables.META.create_all(db)
        return int(found)

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def ping(self) -> None:
        """Ask the database for nothing, as one who writes: where that is impossible, nobody can answer. Raises as Database.writing does."""
        with self._database.writing() as db:
            db.execute(sa.select(1))

    # --- projection

    def take_over(self, *, forget: bool = False) -> dict[tuple[str, int], int]:
        """Become the one service that writes here, and return where reading goes on; an earlier one is refused from now on.

        `forget` drops all that comes from the topics, to be read again from their beginnings.
        """
        with self._database.writing() as db:
            db.execute(tables.insert(db, tables.owner).on_conflict_do_nothing(), {"id": 1, "epoch": 0})
            db.execute(sa.update(tables.owner).values(epoch=tables.owner.c.epoch + 1))  # and its row is ours until we commit
            self._epoch = db.execute(sa.select(tables.owner.c.epoch)).scalar_one()
            for table in tables.PROJECTED if forget else ():
                db.execute(sa.delete(table))
            return {(row.topic, row.partition): row.next for row in db.execute(sa.select(tables.offsets))}

    def looked_ms(self) -> int:
        """Return when all that had come was in here the last time; 0 where that is not known."""
        with self._database.reading() as db:
            return int(db.execute(sa.select(tables.looked.c.ms)).scalar() or 0)

    def apply(
        self,
        held: Sequence[Row],
        verdicts: Sequence[Row],
        clean: Sequence[Row],
        offsets: dict[tuple[str, int], int],
        looked_ms: int = 0,
    ) -> set[str]:
        """Take in what was read, with the offsets behind it, in one transaction; return the decisions that were touched.

        looked_ms: when all that had come by then is in here with it, 0 where something may be left.
        What is there already changes nothing, so reading twice is harmless.
        Raises StoreTaken.
        """
        touched = {str(row["decision_id"]) for row in [*held, *verdicts]}
        with self._database.writing() as db:
            self._check_owner(db)
            for table, new in ((tables.records, held), (tables.verdicts, verdicts), (tables.clean, clean)):
                if new:
                    db.execute(tables.insert(db, table).on_conflict_do_nothing(), new)
            self._settle(db, touched)
            if offsets:
                statement = tables.insert(db, tables.offsets)
                db.execute(
                    statement.on_conflict_do_update(index_elements=["topic", "partition"], set_={"next": statement.excluded.next}),
                    [{"topic": topic, "partition": partition, "next": after} for (topic, partition), after in offsets.items()],
                )
            if looked_ms:
                statement = tables.insert(db, tables.looked)
                db.execute(
                    statement.on_conflict_do_update(index_elements=["id"], set_={"ms": statement.excluded.ms}), {"id": 1, "ms": looked_ms}
                )
        return touched

    def _check_owner(self, db: sa.Connection, *, alone: bool = False) -> None:
        """Raise StoreTaken where another service has taken over; with `alone` nothing is applied beside us until we commit."""
        epoch = db.execute(sa.select(tables.owner.c.epoch).with_for_update(read=not alone)).scalar()
        if epoch != self._epoch:
            raise StoreTaken("another `winnow review` has taken this store over; stop one of the two")

    def reopen_unpublished(self) -> int:
        """Give back what a service that died had on the way; all verdicts in Kafka must have been applied before."""
        with self._database.writing() as db:
            state = sa.case((was_answered(), DONE), else_=OPEN)
            done = db.execute(sa.update(tables.records).where(tables.records.c.state == PUBLISHING).values(state=state, lease_until=0.0))
            return int(done.rowcount)

    def _settle(self, db: sa.Connection, decision_ids: set[str]) -> None:
        """Work out the state of the rows from all their verdicts; rows that know of as many already stay as they are."""
        now_ms = int(time.time() * 1000)
        for piece in tables.pieces(sorted(decision_ids)):
            events = _events(db, piece)
            if not events:
                continue
            doubts = _Doubts(db, list(events))
            known = db.execute(
                sa.select(tables.records.c.decision_id, tables.records.c.verdicts, tables.records.c.since_ms).where(
                    tables.records.c.decision_id.in_(list(events))
                )
            )
            for row in known.all():
                said = events[row.decision_id]
                if len(said) > row.verdicts:
                    look = self._next_look(row.decision_id, said, is_doubted=doubts.of(said))
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
                            since_ms=min(now_ms, max(row.since_ms, said[-1].time_ms)),  # what is open again waits for the next look
                        )
                    )

    def doubt(self, decision_ids: Iterable[str], offsets: Mapping[int, int]) -> None:
        """Ask another person about these answers of one person each, and no more about those that were doubted before.

        offsets: how far the training that doubts had read each partition of the verdicts: it has not seen what was said later. What is
        in hand stays there. Raises StoreTaken.
        """
        now = set(decision_ids)
        with self._database.writing() as db:
            self._check_owner(db, alone=True)
            before = {row.decision_id for row in db.execute(sa.select(tables.doubts.c.decision_id))}
            for table in (tables.doubts, tables.doubted_to):
                db.execute(sa.delete(table))
            if now:
                db.execute(sa.insert(tables.doubts), [{"decision_id": name} for name in sorted(now)])
                db.execute(sa.insert(tables.doubted_to), [{"partition": place, "next": after} for place, after in offsets.items()])
        for piece in tables.pieces(sorted(before | now)):  # answers and what comes from the topics need not wait for all of it
            with self._database.writing() as db:
                self._check_owner(db, alone=True)
                self._look_again(db, piece)

    def _look_again(self, db: sa.Connection, decision_ids: list[str]) -> None:
        """Work out which look each record waits for, and change those that wait for another one now."""
        c = tables.records.c
        events, doubts = _events(db, decision_ids), _Doubts(db, decision_ids)
        wanted = sa.select(c.decision_id, c.state, c.look).where(c.decision_id.in_(list(events)))
        changed: dict[int, list[str]] = {}
        for row in db.execute(wanted.order_by(c.decision_id)):
            look = self._next_look(row.decision_id, events[row.decision_id], is_doubted=doubts.of(events[row.decision_id])) or 0
            if (look or FIRST) != row.look or (row.state == DONE) == bool(look):
                changed.setdefault(look, []).append(row.decision_id)
        for look, names in changed.items():
            of_them = c.decision_id.in_(names)
            free = sa.and_(of_them, c.state.in_((OPEN, DONE)))
            db.execute(sa.update(tables.records).where(free).values(state=OPEN if look else DONE))
            db.execute(sa.update(tables.records).where(of_them).values(look=look or FIRST))
            if look == DOUBTED:  # the model was sure of them: in its order they would come last
                placed = sa.update(tables.records).where(c.decision_id == sa.bindparam("name")).values(uncertainty=sa.bindparam("place"))
                db.execute(placed, [{"name": name, "place": place_of_blind(name)} for name in names])

    def _next_look(self, decision_id: str, said: list[Any], *, is_doubted: bool = False) -> int | None:
        """Return which look a record waits for after these verdicts, None when the last one settles it."""
        if said[-1].source == REPLAY:
            return None
        by_reviewer = {event.reviewer: event.verdict == "right" for event in said}
        is_drawn = said[-1].blind or said[-1].source == "audit"  # held or not, a certificate counts what the flat lottery drew
        last = said[-1].verdict == "right"
        wanted = wanted_look(list(by_reviewer.values()), last=last, is_drawn=is_drawn, wrong_looks=self._wrong_looks)
        if wanted is None:
            if len(by_reviewer) > 1:
                return None
            if ticket(decision_id, "second") < self._second_share:
                return SECOND
            return DOUBTED if is_doubted else None
        return SECOND if wanted == "another" else CONFLICT

    # --- reading

    def record(self, decision_id: str) -> Any | None:
        """Return one row, or None."""
        with self._database.reading() as db:
            return db.execute(sa.select(tables.records).where(tables.records.c.decision_id == decision_id)).first()

    def history(self, decision_id: str) -> list[Any]:
        """Return all verdicts on a record, oldest first."""
        with self._database.reading() as db:
            wanted = sa.select(tables.verdicts).where(tables.verdicts.c.decision_id == decision_id)
            return list(db.execute(wanted.order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)))

    def earlier(self, key: bytes | None, before_ms: int, most: int) -> list[tuple[str, str, int, bytes | None]]:
        """Return (decision id, source, timestamp ms, value) of what the same key said before, the newest first."""
        if key is None:
            return []
        found: list[tuple[str, str, int, bytes | None]] = []
        with self._database.reading() as db:
            for table in (tables.records, tables.clean):
                source = table.c.source if table is tables.records else sa.literal("clean")
                wanted = sa.select(table.c.decision_id, source, table.c.timestamp_ms, table.c.value)
                wanted = wanted.where(table.c.key_hash == hash_of(key), table.c.timestamp_ms < before_ms)
                found += [tuple(row) for row in db.execute(wanted.order_by(table.c.timestamp_ms.desc()).limit(most))]
        return sorted(found, key=lambda row: -row[2])[:most]

    def values_of(self, key: bytes) -> set[bytes]:
        """Return what the records of a key say, clean ones of the same key too."""
        found: set[bytes] = set()
        with self._database.reading() as db:
            for table in (tables.records, tables.clean):
                rows = db.execute(sa.select(table.c.value).where(table.c.key_hash == hash_of(key)))
                found |= {bytes(row.value) for row in rows if row.value is not None}
        return found

    def erase(self, key: bytes) -> int:
        """Delete all records of a key with their verdicts, and return how many records there were."""
        with self._database.writing() as db:
            ids = [
                row.decision_id
                for row in db.execute(sa.select(tables.records.c.decision_id).where(tables.records.c.key_hash == hash_of(key)))
            ]
            for piece in tables.pieces(ids):
                db.execute(sa.delete(tables.verdicts).where(tables.verdicts.c.decision_id.in_(piece)))
                db.execute(sa.delete(tables.skips).where(tables.skips.c.decision_id.in_(piece)))
                db.execute(sa.delete(tables.doubts).where(tables.doubts.c.decision_id.in_(piece)))
            gone = sum(
                int(db.execute(sa.delete(table).where(table.c.key_hash == hash_of(key))).rowcount)
                for table in (tables.records, tables.clean)
            )
        self._database.wipe_deleted()
        return gone


def _events(db: sa.Connection, decision_ids: list[str]) -> dict[str, list[Any]]:
    """Return the verdicts on each of some decisions, oldest first."""
    found: dict[str, list[Any]] = {}
    wanted = sa.select(tables.verdicts).where(tables.verdicts.c.decision_id.in_(decision_ids))
    for event in db.execute(wanted.order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)):
        found.setdefault(event.decision_id, []).append(event)
    return found


class _Doubts:
    """What a training doubts of some decisions."""

    def __init__(self, db: sa.Connection, decision_ids: list[str]) -> None:
        wanted = sa.select(tables.doubts.c.decision_id).where(tables.doubts.c.decision_id.in_(decision_ids))
        self._doubted = {row.decision_id for row in db.execute(wanted)}
        self._read_to = {row.partition: row.next for row in db.execute(sa.select(tables.doubted_to))} if self._doubted else {}

    def of(self, said: list[Any]) -> bool:
        """Return whether the training had seen the last answer, and doubts it."""
        return said[-1].decision_id in self._doubted and said[-1].offset < self._read_to.get(said[-1].partition, 0)


@contextmanager
def opened(url: str, second_share: float, wrong_looks: int = TWO, *, anew: bool = False) -> Iterator[Store]:
    """Open a store and close it in the end."""
    store = Store(url, second_share, wrong_looks, anew=anew)
    try:
        yield store
    finally:
        store.close()
