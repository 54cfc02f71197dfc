"""The projection of the quarantine, audit and verdict topics into SQL.

Enters: records as Kafka carried them. Leaves: rows, counts, histories. It can be rebuilt from the topics; offsets are
stored in the same transaction as the rows made of them. Leases and sessions live beside it.

A row's state: `open` (with the number of the look it waits for), `leased`, `publishing` (its verdict is on the way to
Kafka) and `done`. Only a verdict read back from Kafka makes a row done.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa

from foundation.errors import SettingInvalid, StoreTaken
from review import tables
from review.accounts import Accounts
from review.database import Database
from review.leases import Leases, has_lapsed, settled_by_lead, waits_again, was_answered
from review.rows import hash_of
from review.tables import CONFLICT, DONE, FIRST, LEASED, OPEN, PUBLISHING, SECOND
from stream.decide import ticket
from stream.looks import TWO, wanted_look
from stream.records import REPLAY, Lottery

_SCHEMA = 3


Row = dict[str, object]


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
            epoch = db.execute(sa.select(tables.owner.c.epoch).with_for_update(read=True)).scalar()
            if epoch != self._epoch:
                raise StoreTaken("another `winnow review` has taken this store over; stop one of the two")
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
            events: dict[str, list[Any]] = {}
            wanted = sa.select(tables.verdicts).where(tables.verdicts.c.decision_id.in_(piece))
            for event in db.execute(wanted.order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)):
                events.setdefault(event.decision_id, []).append(event)
            if not events:
                continue
            known = db.execute(
                sa.select(tables.records.c.decision_id, tables.records.c.verdicts, tables.records.c.since_ms).where(
                    tables.records.c.decision_id.in_(list(events))
                )
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
                            since_ms=min(now_ms, max(row.since_ms, said[-1].time_ms)),  # what is open again waits for the next look
                        )
                    )

    def _next_look(self, decision_id: str, said: list[Any]) -> int | None:
        """Return which look a record waits for after these verdicts, None when the last one settles it."""
        if said[-1].source == REPLAY:
            return None
        by_reviewer = {event.reviewer: event.verdict == "right" for event in said}
        is_drawn = said[-1].blind or said[-1].source == "audit"  # held or not, a certificate counts what the flat lottery drew
        last = said[-1].verdict == "right"
        wanted = wanted_look(list(by_reviewer.values()), last=last, is_drawn=is_drawn, wrong_looks=self._wrong_looks)
        if wanted is None:
            return SECOND if len(by_reviewer) == 1 and ticket(decision_id, "second") < self._second_share else None
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

    def counts(self, midnight_ms: int) -> Counts:
        """Return how many records are in each state; one whose lease has lapsed counts as what it was before."""
        now = time.time()
        with self._database.reading() as db:
            rows = db.execute(
                sa.select(tables.records.c.state, tables.records.c.look, sa.func.count()).group_by(
                    tables.records.c.state, tables.records.c.look
                )
            )
            number: dict[tuple[str, int], int] = {(state, look): count for state, look, count in rows}
            lapsed, open_again = (
                int(db.execute(sa.select(sa.func.count()).select_from(tables.records).where(each(now))).scalar() or 0)
                for each in (has_lapsed, waits_again)
            )
            today = sa.select(sa.func.count()).select_from(tables.verdicts)
            today = today.where(tables.verdicts.c.time_ms >= midnight_ms, tables.verdicts.c.source != REPLAY)
            done_today = int(db.execute(today).scalar() or 0)

        def of(state: str) -> int:
            return sum(count for (at, _), count in number.items() if at == state)

        leased = of(LEASED) + of(PUBLISHING) - lapsed
        second, conflict = number.get((OPEN, SECOND), 0), number.get((OPEN, CONFLICT), 0)
        return Counts(of(OPEN) + open_again, leased, of(DONE) + lapsed - open_again, second, conflict, done_today)

    def for_another(self, reviewer: str, *, is_lead: bool = False) -> int:
        """Return how many open records wait for somebody else, because this reviewer has answered them already.

        A lead settles a conflict of two, their own among them, by one more answer; if that was not enough, others must look.
        """
        mine = sa.exists().where(tables.verdicts.c.decision_id == tables.records.c.decision_id, tables.verdicts.c.reviewer == reviewer)
        waits = [tables.records.c.state == OPEN, tables.records.c.look.in_((SECOND, CONFLICT)), mine]
        if is_lead:
            waits.append(sa.not_(settled_by_lead()))
        with self._database.reading() as db:
            wanted = sa.select(sa.func.count()).where(*waits)
            return int(db.execute(wanted).scalar() or 0)

    def waiting_since_ms(self) -> int | None:
        """Return since when the open record has waited that has waited longest, those whose lease has lapsed among them."""
        with self._database.reading() as db:
            found = db.execute(
                sa.select(sa.func.min(tables.records.c.since_ms)).where((tables.records.c.state == OPEN) | waits_again(time.time()))
            ).scalar()
            return None if found is None else int(found)

    def groups(self, most: int) -> list[tuple[str, str, int]]:
        """Return (reason, pattern, count) of open, unblind records that look alike, the most frequent first."""
        with self._database.reading() as db:
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
        with self._database.reading() as db:
            wanted = sa.select(tables.records.c.reason, sa.func.count()).where(
                tables.records.c.state == OPEN, tables.records.c.blind.is_(False)
            )
            return [tuple(row) for row in db.execute(wanted.group_by(tables.records.c.reason).order_by(tables.records.c.reason))]

    def agreement(self) -> tuple[int, float | None]:
        """Return on how many records two reviewers' first answers can be compared, and Cohen's kappa of them."""
        first: dict[str, dict[str, str]] = {}
        with self._database.reading() as db:
            twice = sa.select(tables.verdicts.c.decision_id).where(tables.verdicts.c.source != REPLAY)
            twice = twice.group_by(tables.verdicts.c.decision_id)
            twice = twice.having(sa.func.count(sa.distinct(tables.verdicts.c.reviewer)) > 1)
            wanted = (
                sa.select(tables.verdicts.c.decision_id, tables.verdicts.c.reviewer, tables.verdicts.c.verdict)
                .where(tables.verdicts.c.decision_id.in_(twice), tables.verdicts.c.source != REPLAY)
                .order_by(tables.verdicts.c.partition, tables.verdicts.c.offset)
            )
            for event in db.execute(wanted):
                first.setdefault(event.decision_id, {}).setdefault(event.reviewer, event.verdict)
        pairs = [tuple(said.values())[:2] for said in first.values()]
        return len(pairs), kappa(pairs)

    def flat_draws(self, most: int) -> list[tuple[bool, float]]:
        """Return (is wrong, propensity) of the latest settled flat draws of what passed."""
        c = tables.records.c
        wanted = sa.select(c.verdict, c.propensity).where(c.state == DONE, c.source == "audit", c.lottery == Lottery.FLAT.value)
        with self._database.reading() as db:
            rows = db.execute(wanted.order_by(c.timestamp_ms.desc()).limit(most))
            return [(row.verdict == "wrong", row.propensity) for row in rows if row.verdict is not None]

    def answered_by(self, reviewer: str, since_ms: int) -> int:
        """Return how many verdicts a reviewer has given since a time."""
        with self._database.reading() as db:
            wanted = sa.select(sa.func.count()).select_from(tables.verdicts)
            return int(
                db.execute(wanted.where(tables.verdicts.c.reviewer == reviewer, tables.verdicts.c.time_ms >= since_ms)).scalar() or 0
            )

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
            gone = sum(
                int(db.execute(sa.delete(table).where(table.c.key_hash == hash_of(key))).rowcount)
                for table in (tables.records, tables.clean)
            )
        self._database.wipe_deleted()
        return gone


def kappa(pairs: Sequence[tuple[str, ...]]) -> float | None:
    """Return Cohen's kappa of pairs of answers (Cohen 1960); None without pairs or where chance alone would agree."""
    if not pairs:
        return None
    share = sum(a == b for a, b in pairs) / len(pairs)
    answers = {answer for pair in pairs for answer in pair}
    chance = sum((sum(a == it for a, _ in pairs) / len(pairs)) * (sum(b == it for _, b in pairs) / len(pairs)) for it in answers)
    return None if chance == 1 else (share - chance) / (1 - chance)


@contextmanager
def opened(url: str, second_share: float, wrong_looks: int = TWO, *, anew: bool = False) -> Iterator[Store]:
    """Open a store and close it in the end."""
    store = Store(url, second_share, wrong_looks, anew=anew)
    try:
        yield store
    finally:
        store.close()
