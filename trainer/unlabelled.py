"""Where the unlabelled stream of a training comes from: a source that is named, what a starter kept, or the records topic.

Leaves: contents as text, at most MOST_UNLABELLED. Of the records topic the latest are taken, without what the flat lottery
draws there: a draw that is answered later is to certify models that have never read it.
"""

import sys
from contextlib import closing
from typing import Any

from foundation.errors import DataRefused, TopicMissing
from stream.boot import load_lotteries
from stream.decide import ticket
from stream.decode import decode_value
from stream.records import Content, Lottery
from stream.schemas import Schemas
from stream.tail import latest
from trainer.bases import Base
from trainer.config import TrainSettings
from trainer.pairs import load_saved, read_unlabelled

MOST_UNLABELLED = 20_000


def unlabelled_of(base: Base, source: str | None, tables: Any) -> list[str]:
    """Return the unlabelled stream: of FILE or topic:NAME, else what a starter kept beside its model, evenly where that is long."""
    if source is not None:
        return read_unlabelled(source, tables.kafka, MOST_UNLABELLED)
    if base.unlabelled is None or not base.unlabelled.is_file():
        return []
    kept = load_saved(base.unlabelled)
    return kept if len(kept) <= MOST_UNLABELLED else [kept[n * len(kept) // MOST_UNLABELLED] for n in range(MOST_UNLABELLED)]


def stream_of_cycle(base: Base, source: str | None, tables: Any, settings: TrainSettings) -> list[str]:
    """Return the stream that a cycle mixes in; without a source or a starter's own it is the records topic.

    Raises DataRefused where there is nothing to mix in and `train.contrastive_per_verdict` asks for it.
    """
    records = tables.topics.records
    named = source or settings.unlabelled
    found = [] if named == f"topic:{records}" else unlabelled_of(base, named, tables)
    if found or not settings.contrastive_per_verdict:
        return found
    try:
        found = _undrawn(records, tables)
    except TopicMissing:
        found = []
    if not found:
        raise DataRefused(
            f"there is no unlabelled record in {records} to mix in, and verdicts alone destroy what a model has learned; "
            "set train.unlabelled, or train.contrastive_per_verdict = 0"
        )
    return found


def say_if_none(pairs: int, settings: TrainSettings) -> None:
    """Say on stderr that a training went without contrastive pairs although they were asked for."""
    if not pairs and settings.contrastive_per_verdict:
        print("unlabelled: no contrastive pairs were mixed in; give --unlabelled or set train.unlabelled", file=sys.stderr)  # noqa: T201


def _undrawn(topic: str, tables: Any) -> list[str]:
    """Return the latest readable records of the records topic that the flat lottery leaves alone."""
    lotteries = load_lotteries(tables.gate)
    with closing(Schemas(tables.kafka)) as schemas:
        records = [(record, schemas.opened(record.value)) for record in latest(tables.kafka, topic, MOST_UNLABELLED)]
    found = []
    for record, value in records:
        if not isinstance(value, bytes) or not isinstance(decode_value(value, "auto"), Content):
            continue
        if ticket(record.decision_id, Lottery.FLAT, lotteries.key) >= max(lotteries.flat, tables.gate.drift_audit_rate):
            found.append(value.decode("utf-8"))
    return found
