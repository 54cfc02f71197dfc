"""What the review store counts: how much waits and for whom, what looks alike, how far people agree, what draws say of what passes.

Enters: the store's tables. Leaves: figures for the page and for /metrics.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from review import tables
from review.database import Database
from review.leases import has_lapsed, settled_by_lead, waits_again
from review.tables import CONFLICT, DONE, DOUBTED, FIRST, LEASED, OPEN, PUBLISHING, SECOND
from stream.decide import ticket
from stream.records import REPLAY, Lottery


class Counts(NamedTuple):
    """How many records there are in each state; second, conflict and doubted are among the open ones."""

    open: int
    leased: int
    done: int
    second: int
    conflict: int
    doubted: int
    done_today: int


class Figures:
    """The figures of one store."""

    def __init__(self, database: Database, second_share: float) -> None:
        """Take the database, and the share of records that chance gives a second look."""
        self._database = database
        self._second_share = second_share

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
        second, conflict, doubted = (number.get((OPEN, look), 0) for look in (SECOND, CONFLICT, DOUBTED))
        return Counts(of(OPEN) + open_again, leased, of(DONE) + lapsed - open_again, second, conflict, doubted, done_today)

    def for_another(self, reviewer: str, *, is_lead: bool = False) -> int:
        """Return how many open records wait for somebody else, because this reviewer has answered them already.

        A lead settles a conflict of two, their own among them, by one more answer; if that was not enough, others must look.
        """
        mine = sa.exists().where(tables.verdicts.c.decision_id == tables.records.c.decision_id, tables.verdicts.c.reviewer == reviewer)
        waits = [tables.records.c.state == OPEN, tables.records.c.look.in_((SECOND, CONFLICT, DOUBTED)), mine]
        if is_lead:
            waits.append(sa.not_(settled_by_lead()))
        with self._database.reading() as db:
            wanted = sa.select(sa.func.count()).where(*waits)
            return int(db.execute(wanted).scalar() or 0)

    def waiting_since_ms(self) -> int | None:
        """Return since when the open record has waited that has waited longest, those whose lease has lapsed among them.

        What a training doubts has been answered, and nobody waits for it.
        """
        waits = (tables.records.c.state == OPEN) | waits_again(time.time())
        with self._database.reading() as db:
            found = db.execute(sa.select(sa.func.min(tables.records.c.since_ms)).where(waits, tables.records.c.look != DOUBTED)).scalar()
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
        """Return on how many records two reviewers' first answers can be compared, and Cohen's kappa of them.

        Those that chance has given a second look: where the first answer has asked for it, people agree less than they do.
        """
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
                if ticket(event.decision_id, "second") < self._second_share:
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


def kappa(pairs: Sequence[tuple[str, ...]]) -> float | None:
    """Return Cohen's kappa of pairs of answers (Cohen 1960); None without pairs or where chance alone would agree."""
    if not pairs:
        return None
    share = sum(a == b for a, b in pairs) / len(pairs)
    answers = {answer for pair in pairs for answer in pair}
    chance = sum((sum(a == it for a, _ in pairs) / len(pairs)) * (sum(b == it for _, b in pairs) / len(pairs)) for it in answers)
    return None if chance == 1 else (share - chance) / (1 - chance)
