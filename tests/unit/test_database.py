"""The review store's SQLite: who reads waits for nobody, who writes comes in turn."""

import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from review.database import Database

NUMBERS = sa.table("numbers", sa.column("n", sa.Integer))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    found = Database(f"sqlite:///{tmp_path}/numbers.sqlite3")
    with found.writing() as db:
        db.execute(sa.text("CREATE TABLE numbers (n INTEGER)"))
        db.execute(sa.insert(NUMBERS).values(n=0))
    return found


def number_in(database: Database) -> int:
    with database.reading() as db:
        return int(db.execute(sa.select(NUMBERS.c.n)).scalar_one())


def test_readers_see_what_was_there_while_somebody_writes(database: Database) -> None:
    with database.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=7))
        begun = time.monotonic()
        assert number_in(database) == 0
        assert time.monotonic() - begun < 1, "it has not waited for the writer"
    assert number_in(database) == 7


def test_writers_come_in_turn(database: Database) -> None:
    def add() -> None:
        for _ in range(40):
            with database.writing() as db:
                found = db.execute(sa.select(NUMBERS.c.n)).scalar_one()
                db.execute(sa.update(NUMBERS).values(n=found + 1))

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number_in(database) == 320


def test_a_block_that_raises_leaves_nothing_and_gives_its_turn_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=7))
        raise ZeroDivisionError
    assert number_in(database) == 0
    with database.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=8))
    assert number_in(database) == 8


def test_another_process_that_writes_is_waited_for_and_then_named(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("review.database._BUSY_SECONDS", 0.3)
    impatient, other = (Database(f"sqlite:///{tmp_path}/numbers.sqlite3") for _ in range(2))
    with other.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=7))
        with pytest.raises(sa.exc.OperationalError, match="locked"), impatient.writing():
            pass
        assert number_in(impatient) == 0
    with impatient.writing() as db:
        assert db.execute(sa.select(NUMBERS.c.n)).scalar_one() == 7
