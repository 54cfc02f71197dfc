"""The database of the review store: SQLite in a file, or PostgreSQL by URL. Who reads waits for nobody, who writes comes in turn.

SQLite takes one writer at a time. One that finds another there sleeps longer and longer before it looks again, so the threads
of this process queue for their turn instead; readers see what the last writer has left.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

_BUSY_SECONDS = 20.0
_READS = "winnow_reads"


class Database:
    """The connections to one database."""

    def __init__(self, url: str) -> None:
        """Connect when first asked. Raises SQLAlchemyError, ImportError for a URL that nothing here can use."""
        pool = {} if url.startswith("sqlite") else {"pool_size": 16, "max_overflow": 16, "pool_pre_ping": True}
        self._engine = sa.create_engine(url, **pool)
        self._turn = threading.Lock() if self._engine.dialect.name == "sqlite" else None
        if self._turn is not None:
            _serialise(self._engine)

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a transaction that may write; it is committed in the end, or rolled back when the block raises."""
        has_turn = self._turn is not None and self._turn.acquire(timeout=_BUSY_SECONDS)  # without it, SQLite says whether it is too busy
        try:
            with self._engine.begin() as db:
                yield db
        finally:
            if self._turn is not None and has_turn:
                self._turn.release()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a transaction that only reads."""
        with self._engine.connect() as db, db.execution_options(**{_READS: True}).begin():
            yield db

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def is_there(url: str) -> bool:
    """Return whether there may be a store: a file of SQLite that is not there holds nothing, and opening it would make an empty one."""
    try:
        said = sa.engine.make_url(url)
    except sa.exc.ArgumentError:
        return True  # which opening it will say
    return said.get_backend_name() != "sqlite" or not said.database or Path(said.database).is_file()


def _serialise(engine: sa.Engine) -> None:
    """Make SQLite's transactions begin as writers: one that turns writer half-way is refused when another has written."""

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_BUSY_SECONDS * 1000:.0f}"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if connection.get_execution_options().get(_READS) else "BEGIN IMMEDIATE")
