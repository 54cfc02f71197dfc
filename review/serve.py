"""`winnow review`: puts the service together, catches up with the topics, opens the page, and ends cleanly."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from starlette.applications import Starlette

from foundation.listen import Serving, listen
from foundation.reread import Reread
from model_registry.registry import Registry
from review.answers import Answers, Deps
from review.app import Pages
from review.auth import Door, check_bind, load_users
from review.doubts import Doubts
from review.ingest import Ingest
from review.metrics import ReviewMetrics
from review.models import Models
from review.publish import Publisher
from review.shadow import Gates
from review.store import Store, opened
from stream.cluster import look_at_cluster
from stream.release import Releaser
from stream.rules import Rules
from stream.schemas import Schemas

log = logging.getLogger("winnow.review")


class Service(NamedTuple):
    """A service that has caught up with the topics."""

    app: Starlette
    store: Store
    ingest: Ingest
    publisher: Publisher
    doubts: Doubts
    caught_up_records: int


@contextmanager
def service(tables: Any, *, rebuild: bool = False, failed: Callable[[], None] = lambda: None) -> Iterator[Service]:
    """Put the parts together and take them apart in the end; `failed` is called when one cannot go on.

    Raises SettingInvalid, KafkaRefused (GateFenced: another service owns the releases).
    """
    settings, kafka, topics = tables.review, tables.kafka, tables.topics
    users = Reread(settings.users_file, load_users)
    check_bind(settings, users.value)
    rules = Reread(tables.gate.rules_file, Rules.load)
    cluster = look_at_cluster(kafka, [topics.clean, topics.quarantine, topics.audit, topics.verdicts], topics.clean)
    with ExitStack() as parts:
        store = parts.enter_context(opened(settings.database_url, settings.second_share, settings.wrong_looks, anew=rebuild))
        metrics, schemas = ReviewMetrics(), Schemas(kafka)
        parts.callback(schemas.close)
        # the transactional id comes first: it ends what a predecessor left open, so that the topics have an end to read to
        publisher = Publisher(kafka, failed)
        parts.callback(publisher.stop)
        ingest = Ingest(kafka, topics, store, metrics, schemas, read_clean=settings.read_clean, failed=failed, rebuild=rebuild)
        parts.callback(ingest.stop)
        records = ingest.catch_up()
        store.reopen_unpublished()
        releaser = Releaser(topics, cluster.partition_counts, tables.gate.partitioner)
        answers = Answers(Deps(settings, store, ingest, publisher, releaser, rules, metrics, schemas))
        registry = Registry(tables.registry)
        models = Models(registry, store, Gates(_gates_of(tables)))
        doubts = Doubts(registry, store)
        parts.callback(doubts.stop)
        pages = Pages(settings, store, answers, models, Door(settings, store, users), metrics)
        ingest.start()
        publisher.start()
        doubts.start()
        yield Service(pages.app(), store, ingest, publisher, doubts, records)


def _gates_of(tables: Any) -> tuple[str, ...]:
    """Return where the gates tell their figures: as set, else the gate that the same settings start on this machine."""
    port = tables.gate.metrics_port
    return tables.review.gate_metrics or ((f"http://127.0.0.1:{port}/metrics",) if port else ())


def serve(tables: Any, *, rebuild: bool = False) -> None:
    """Serve the page until told to stop. Raises SettingInvalid, KafkaRefused."""
    serving = Serving()
    with (
        listen("review", tables.review.bind, tables.review.port) as listener,
        service(tables, rebuild=rebuild, failed=serving.end) as running,
    ):
        if rebuild:
            print(f"rebuilt from {running.caught_up_records} records and verdicts", file=sys.stderr)  # noqa: T201
        serving.run(running.app, listener)
        for error in (running.ingest.error, running.publisher.error):
            if error is not None:
                raise error
