"""The cluster as an administrator sees it: what topics there are, and making the missing ones.

Enters: settings. Leaves: counts, ids, reports. With kafka.py and tail.py the only place that imports confluent_kafka.
"""

import logging
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from foundation.errors import BrokerUnreachable, KafkaRefused, TopicMissing
from stream.config import KafkaSettings, TopicSettings
from stream.records import Record

log = logging.getLogger("winnow.kafka")

CALL_TIMEOUT_SECONDS = 10.0
EXTRA_BYTES = 65_536
NO_LIMIT = "9223372036854775807"
DEFAULT_PARTITIONS = 4


class Cluster(NamedTuple):
    """What is fixed at boot: partition counts of every topic of ours, and Kafka's UUID of the input topic."""

    partition_counts: dict[str, int]
    topic_ids: dict[str, str]


def base_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return what every client shares: brokers, our pass-through settings, and logs by way of Python."""
    return {"bootstrap.servers": settings.bootstrap_servers, "client.id": "winnow", "log_level": 3, **settings.extra}


def look_at_cluster(settings: KafkaSettings, needed: Iterable[str], records_topic: str) -> Cluster:
    """Return the partition counts of the `needed` topics and the id of the input topic.

    Raises BrokerUnreachable after `kafka.connect_timeout_seconds`, TopicMissing naming the topic.
    """
    admin = AdminClient(base_config(settings), logger=log)
    topics = list_topics(admin, settings)
    counts = {}
    for name in needed:
        if name not in topics:
            raise TopicMissing(f"topic {name} does not exist on {settings.bootstrap_servers}; `winnow topics` creates it")
        counts[name] = topics[name]
    described = admin.describe_topics(TopicCollection([records_topic]), request_timeout=CALL_TIMEOUT_SECONDS)
    try:
        return Cluster(counts, {records_topic: str(described[records_topic].result().topic_id)})
    except KafkaException as error:
        raise KafkaRefused(f"Kafka would not describe the topic {records_topic}: {error.args[0].str()}") from error


def list_topics(admin: AdminClient, settings: KafkaSettings) -> dict[str, int]:
    """Return the partition count of every topic; BrokerUnreachable if nobody answers in time."""
    try:
        metadata = admin.list_topics(timeout=settings.connect_timeout_seconds)
    except KafkaException as error:
        raise BrokerUnreachable(
            f"no broker answered at kafka.bootstrap_servers = {settings.bootstrap_servers} within "
            f"kafka.connect_timeout_seconds = {settings.connect_timeout_seconds:g}: {error.args[0].str()}"
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def record_of(message: Message) -> Record:
    """Return a consumed message as a record, bytes as they came."""
    try:
        headers = message.headers() or []
    except UnicodeDecodeError:  # a header name that is no UTF-8 cannot be carried; Java clients cannot write one
        log.warning("dropped headers with unreadable names", extra={"offset": message.offset()})
        headers = []
    return Record(message.topic(), message.partition(), message.offset(), message.timestamp()[1], message.key(), message.value(), headers)


def topic_names(topics: TopicSettings, *, with_audit: bool) -> list[str]:
    """Return the topics a gate needs: the input and every output it may write."""
    names = [topics.records, topics.clean, topics.quarantine, topics.dead_letter]
    return [*names, topics.audit] if with_audit else names


class TopicReport(NamedTuple):
    """One topic: created now or found, and how it differs from what winnow would make."""

    topic: str
    created: bool
    partitions: int
    differences: tuple[str, ...]


def make_topics(settings: KafkaSettings, topics: TopicSettings, partitions: int | None) -> list[TopicReport]:
    """Create what is missing and compare what is there; outputs take the input's partition count and size limit.

    Raises BrokerUnreachable, KafkaRefused.
    """
    admin = AdminClient(base_config(settings), logger=log)
    existing = list_topics(admin, settings)
    reports = []
    if topics.records not in existing:
        _create(admin, topics.records, partitions or DEFAULT_PARTITIONS, {"message.timestamp.after.max.ms": NO_LIMIT})
        reports.append(TopicReport(topics.records, True, partitions or DEFAULT_PARTITIONS, ()))
    else:
        reports.append(TopicReport(topics.records, False, existing[topics.records], ()))
    count = reports[0].partitions
    input_bytes = int(_config(admin, topics.records)["max.message.bytes"])
    for name, wanted in _wanted(topics, input_bytes).items():
        if name not in existing:
            _create(admin, name, count, wanted)
            reports.append(TopicReport(name, True, count, ()))
            continue
        found = _config(admin, name)
        differences = [f"{key} = {found.get(key)}, winnow would set {value}" for key, value in wanted.items() if found.get(key) != value]
        if existing[name] != count:
            differences.append(f"{existing[name]} partitions, the input has {count}")
        reports.append(TopicReport(name, False, existing[name], tuple(differences)))
    return reports


def _wanted(topics: TopicSettings, input_bytes: int) -> dict[str, dict[str, str]]:
    output = {
        "max.message.bytes": str(input_bytes + EXTRA_BYTES),
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": NO_LIMIT,
    }
    kept = {**output, "cleanup.policy": "delete", "retention.ms": "-1"}
    return {
        topics.clean: output,
        topics.quarantine: kept,
        topics.dead_letter: kept,
        topics.audit: kept,
        topics.verdicts: {**kept, "max.message.bytes": str(3 * input_bytes)},
    }


def _create(admin: AdminClient, name: str, partitions: int, config: dict[str, str]) -> None:
    made = admin.create_topics([NewTopic(name, num_partitions=partitions, config=config)], request_timeout=15)
    try:
        made[name].result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise KafkaRefused(f"Kafka would not create the topic {name}: {error.args[0].str()}") from error


def _config(admin: AdminClient, topic: str) -> dict[str, str]:
    """Return a topic's settings; a topic made a moment ago may not be known to every broker yet."""
    resource = ConfigResource(ResourceType.TOPIC, topic)
    deadline = time.monotonic() + CALL_TIMEOUT_SECONDS
    while True:
        try:
            found = admin.describe_configs([resource], request_timeout=15)[resource].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise KafkaRefused(f"the settings of topic {topic} cannot be read: {error.args[0].str()}") from error
            time.sleep(0.1)
        else:
            return {name: entry.value for name, entry in found.items()}
