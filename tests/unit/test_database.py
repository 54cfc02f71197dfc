"""The review store's SQLite: who reads waits for no writer, who writes comes one at a time."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from review.database import Database
from review.rows import row_of
from review.store import opened
from stream import wire
from stream.config import KafkaSettings
from stream.records import Record
from stream.schemas import Schemas

NUMBERS = sa.table("numbers", sa.column("n", sa.Integer))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/numbers.sqlite3"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url)
    with found.writing() as db:
        db.execute(sa.text("CREATE TABLE numbers (n INTEGER)"))
        db.execute(sa.insert(NUMBERS).values(n=0))
    yield found
    found.close()


def number_in(database: Database) -> int:
    with database.reading() as db:
        return int(db.execute(sa.select(NUMBERS.c.n)).scalar_one())


def test_readers_see_what_was_there_while_somebody_writes(database: Database) -> None:
    with database.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=7))
        begun = time.monotonic()
        assert number_in(database) == 0
        assert time.monotonic() - begun < 5, "it has not waited for the writer"
    assert number_in(database) == 7


def test_nobody_writes_who_said_to_read(database: Database) -> None:
    with pytest.raises(sa.exc.OperationalError, match="readonly"), database.reading() as db:
        db.execute(sa.update(NUMBERS).values(n=7))
    assert number_in(database) == 0


def test_writers_of_a_process_wait_for_each_other_and_not_for_sqlite(url: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("review.database._BUSY_SECONDS", 0.0)  # whoever met another writer would be refused at once
    hasty = Database(url)
    refused: list[Exception] = []

    def add() -> None:
        try:
            for _ in range(40):
                with hasty.writing() as db:
                    found = db.execute(sa.select(NUMBERS.c.n)).scalar_one()
                    db.execute(sa.update(NUMBERS).values(n=found + 1))
        except sa.exc.OperationalError as error:
            refused.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not refused
    assert number_in(database) == 320
    hasty.close()


def test_a_block_that_raises_leaves_nothing_and_gives_its_turn_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=7))
        raise ZeroDivisionError
    assert number_in(database) == 0
    begun = time.monotonic()
    with database.writing() as db:
        db.execute(sa.update(NUMBERS).values(n=8))
    assert time.monotonic() - begun < 5, "the turn was free"
    assert number_in(database) == 8


def test_another_process_that_writes_is_waited_for_and_then_named(url: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("review.database._BUSY_SECONDS", 0.5)
    impatient = Database(url)
    with database.writing() as db:  # its turn is another's than that of `impatient`
        db.execute(sa.update(NUMBERS).values(n=7))
        begun = time.monotonic()
        with pytest.raises(sa.exc.OperationalError, match="locked"), impatient.writing():
            pass
        assert time.monotonic() - begun >= 0.4
        assert number_in(impatient) == 0
    with impatient.writing() as db:
        assert db.execute(sa.select(NUMBERS.c.n)).scalar_one() == 7
    impatient.close()


def test_what_is_erased_is_not_left_in_the_files(tmp_path: Path) -> None:
    path, name = tmp_path / "review.sqlite3", b"Zhang Wei of Harbour Street 17"
    with opened(f"sqlite:///{path}", 0.0) as store:
        store.take_over()
        headers = [(wire.DECISION_ID, b"in:0:1"), (wire.TOPIC_ID, b"t"), (wire.REASON, b"model")]
        with closing(Schemas(KafkaSettings())) as schemas:
            rows = [row_of("quarantine", Record("in", 0, n, 1, b"k%d" % n, name * 40, headers[1:]), schemas, 1) for n in range(3)]
        store.apply(rows, [], [], {})

        def left() -> int:
            return sum(each.read_bytes().count(name) for each in tmp_path.iterdir())

        assert left() >= 120
        assert store.erase(b"k1") == 1
        assert left() == 80, "those of the other keys"
        assert store.erase(b"k0") + store.erase(b"k2") == 2
        assert left() == 0
