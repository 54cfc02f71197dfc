"""The tables of the review store. All but skips, sessions and the trail can be rebuilt: from the topics, doubts from the registry."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

FIRST, SECOND, CONFLICT, DOUBTED = 1, 2, 3, 4
OPEN, LEASED, PUBLISHING, DONE = "open", "leased", "publishing", "done"

META = sa.MetaData()

schema = sa.Table("winnow_schema", META, sa.Column("version", sa.Integer, primary_key=True))
owner = sa.Table("owner", META, sa.Column("id", sa.Integer, primary_key=True), sa.Column("epoch", sa.Integer, nullable=False))
offsets = sa.Table(
    "offsets",
    META,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
)
looked = sa.Table("looked", META, sa.Column("id", sa.Integer, primary_key=True), sa.Column("ms", sa.BigInteger, nullable=False))
records = sa.Table(
    "records",
    META,
    sa.Column("decision_id", sa.Text, primary_key=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("topic_id", sa.Text, nullable=False),
    sa.Column("key", sa.LargeBinary),
    sa.Column("key_hash", sa.Text),  # a key may be longer than an index takes
    sa.Column("value", sa.LargeBinary),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
    sa.Column("since_ms", sa.BigInteger, nullable=False),  # when it began to wait for a reviewer
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("p_chosen", sa.Float),
    sa.Column("threshold", sa.Float),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("model", sa.Text),
    sa.Column("model_digest", sa.Text),
    sa.Column("suspect", sa.Text, nullable=False),
    sa.Column("propensity", sa.Float, nullable=False),
    sa.Column("lottery", sa.Text),
    sa.Column("blind", sa.Boolean, nullable=False),
    sa.Column("pattern", sa.Text, nullable=False),
    sa.Column("uncertainty", sa.Float, nullable=False),
    sa.Column("state", sa.Text, nullable=False, default=OPEN),
    sa.Column("look", sa.Integer, nullable=False, default=FIRST),
    sa.Column("lease_by", sa.Text),
    sa.Column("lease_token", sa.BigInteger, nullable=False, default=0),
    sa.Column("lease_until", sa.Float, nullable=False, default=0.0),
    sa.Column("verdicts", sa.Integer, nullable=False, default=0),
    sa.Column("verdict", sa.Text),
    sa.Column("verdict_by", sa.Text),
    sa.Column("verdict_ms", sa.BigInteger),
    sa.Column("reached_clean", sa.Boolean, nullable=False, default=False),
    sa.Index("by_uncertainty", "state", "uncertainty", "decision_id"),
    sa.Index("by_age", "state", "timestamp_ms", "decision_id"),
    sa.Index("by_waiting", "state", "since_ms"),
    sa.Index("by_reason", "state", "reason", "pattern", "uncertainty"),
    sa.Index("by_lease", "state", "lease_until"),
    sa.Index("by_key", "key_hash", "timestamp_ms"),
    sa.Index("by_reviewer", "verdict_by", "verdict_ms"),
)
verdicts = sa.Table(
    "verdicts",
    META,
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("offset", sa.BigInteger, primary_key=True),
    sa.Column("decision_id", sa.Text, nullable=False, index=True),
    sa.Column("reviewer", sa.Text, nullable=False, index=True),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("blind", sa.Boolean, nullable=False),
    sa.Column("reaches_clean", sa.Boolean, nullable=False),
    sa.Column("correction", sa.LargeBinary),
    sa.Column("note", sa.Text, nullable=False),
)
clean = sa.Table(
    "clean_records",
    META,
    sa.Column("decision_id", sa.Text, primary_key=True),
    sa.Column("key", sa.LargeBinary),
    sa.Column("key_hash", sa.Text),
    sa.Column("value", sa.LargeBinary),
    sa.Column("timestamp_ms", sa.BigInteger, nullable=False),
    sa.Index("clean_by_key", "key_hash", "timestamp_ms"),
)
doubts = sa.Table(
    "doubts",
    META,
    sa.Column("decision_id", sa.Text, primary_key=True),
)
doubted_to = sa.Table(  # how far the training that doubts had read the verdicts
    "doubted_to",
    META,
    sa.Column("partition", sa.Integer, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
)
skips = sa.Table(
    "skips",
    META,
    sa.Column("reviewer", sa.Text, primary_key=True),
    sa.Column("decision_id", sa.Text, primary_key=True),
)
sessions = sa.Table(
    "sessions",
    META,
    sa.Column("token_hash", sa.Text, primary_key=True),
    sa.Column("reviewer", sa.Text, nullable=False),
    sa.Column("csrf", sa.Text, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
)
trail = sa.Table(
    "audit_trail",
    META,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
PROJECTED = (offsets, looked, records, verdicts, clean, doubts, doubted_to)


def insert(db: sa.Connection, table: sa.Table) -> Any:
    """Return an INSERT of the database's own kind, which can say what to do about a row that is there."""
    return sqlite.insert(table) if db.dialect.name == "sqlite" else postgresql.insert(table)


def pieces(values: list[str], size: int = 500) -> Iterator[list[str]]:
    """Yield the values in lists that are short enough for one statement."""
    return (values[at : at + size] for at in range(0, len(values), size))
