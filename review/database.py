"""The database of the review store: SQLite in a file, or PostgreSQL by URL. Who reads waits for no writer, who writes comes one at a time.

SQLite takes one writer at a time. One that finds another there sleeps longer and longer before it looks again, so the threads
of this process wait for each other instead; readers see what the last writer has left.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

_TURN_SECONDS, _BUSY_SECONDS = 20.0, 20.0
_MOST_CONNECTIONS = 48  # the service answers forty requests at once, and reads the topics beside them


class Database:
    """The connections to one database."""

    def __init__(self, url: str) -> None:
        """Connect when first asked. Raises SQLAlchemyError, ImportError for a URL that nothing here can use."""
        self._turn: threading.Lock | None = None
        if sa.engine.make_url(url).get_backend_name() == "sqlite":
            self._turn = threading.Lock()
            # what is erased shall not be read in the file's free pages
            self._writer, self._reader = _sqlite(url, "BEGIN IMMEDIATE", "secure_delete=ON"), _sqlite(url, "BEGIN", "query_only=ON")
        else:
            self._writer = self._reader = sa.create_engine(url, pool_size=16, max_overflow=16, pool_pre_ping=True)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a transaction that may write; it is committed in the end, or rolled back when the block raises.

        Raises OperationalError where another process keeps SQLite for longer than _BUSY_SECONDS, TimeoutError of SQLAlchemy where all
        connections of PostgreSQL are taken.
        """
        # who has not had a turn for so long goes on all the same: SQLite says whether it is too busy
        has_turn = self._turn is not None and self._turn.acquire(timeout=_TURN_SECONDS)
        try:
            with self._writer.begin() as db:
                yield db
        finally:
            if self._turn is not None and has_turn:
                self._turn.release()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a transaction that only reads: SQLite refuses to write in it. Raises as `writing` does."""
        with self._reader.begin() as db:
            yield db

    def wipe_deleted(self) -> None:
        """Take what has been deleted out of the log beside SQLite's file, too; while others read there, it is written over later."""
        if self._turn is not None:
            connection = self._writer.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    def close(self) -> None:
        """Close the connections."""
        self._writer.dispose()
        self._reader.dispose()


def is_there(url: str) -> bool:
    """Return whether there may be a store: a file of SQLite that is not there holds nothing, and opening it would make an empty one."""
    try:
        said = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        return True  # which opening it will say
    return said.get_backend_name() != "sqlite" or not said.database or Path(said.database).is_file()


def _sqlite(url: str, begin: str, *pragmas: str) -> sa.Engine:
    """Return SQLite whose transactions begin as said: one that turns writer half-way would be refused when another has written."""
    engine = sa.create_engine(url, pool_size=_MOST_CONNECTIONS)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in (f"busy_timeout={_BUSY_SECONDS * 1000:.0f}", "journal_mode=WAL", "synchronous=NORMAL", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
