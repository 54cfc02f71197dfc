"""`winnow topics`: make the topics that are missing, as the contract says, and say where existing ones differ."""

from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from foundation.errors import KafkaRefused
from stream.config import KafkaSettings, TopicSettings
from stream.kafka import base_config, list_topics

EXTRA_BYTES = 65_536
NO_LIMIT = "9223372036854775807"
DEFAULT_PARTITIONS = 4


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
    admin = AdminClient(base_config(settings))
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
    resource = ConfigResource(ResourceType.TOPIC, topic)
    found = admin.describe_configs([resource], request_timeout=15)[resource].result()
    return {name: entry.value for name, entry in found.items()}
