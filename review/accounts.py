"""Who is logged in, and the trail of who did what; neither can be rebuilt from the topics."""

import secrets
import time
from typing import Any

import sqlalchemy as sa

from review import tables
from review.database import Database


class Accounts:
    """Sessions and the trail of one store."""

    def __init__(self, database: Database) -> None:
        """Take the database."""
        self._database = database

    def open_session(self, token_hash: str, reviewer: str, until: float) -> str:
        """Remember a login and return its CSRF token."""
        csrf = secrets.token_urlsafe(24)
        with self._database.writing() as db:
            db.execute(sa.delete(tables.sessions).where(tables.sessions.c.until < time.time()))
            db.execute(sa.insert(tables.sessions).values(token_hash=token_hash, reviewer=reviewer, csrf=csrf, until=until))
        return csrf

    def session(self, token_hash: str) -> tuple[str, str] | None:
        """Return (reviewer, CSRF token) of a login that has not run out."""
        with self._database.reading() as db:
            row = db.execute(
                sa.select(tables.sessions).where(tables.sessions.c.token_hash == token_hash, tables.sessions.c.until > time.time())
            ).first()
            return None if row is None else (row.reviewer, row.csrf)

    def close_session(self, token_hash: str) -> None:
        """End a login."""
        with self._database.writing() as db:
            db.execute(sa.delete(tables.sessions).where(tables.sessions.c.token_hash == token_hash))

    def note(self, who: str, what: str, detail: str = "") -> None:
        """Write down who did what; never a record's content."""
        with self._database.writing() as db:
            db.execute(sa.insert(tables.trail).values(time=time.time(), who=who, what=what, detail=detail))

    def trail(self, most: int) -> list[dict[str, Any]]:
        """Return the newest lines of the trail: time (seconds), who, what, detail."""
        with self._database.reading() as db:
            lines = db.execute(sa.select(tables.trail).order_by(tables.trail.c.id.desc()).limit(most))
            return [{"time": line.time, "who": line.who, "what": line.what, "detail": line.detail} for line in lines]
