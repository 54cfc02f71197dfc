"""The cluster as an administrator sees it: what topics there are, and making the missing ones.

Enters: settings. Leaves: counts, ids, reports. With kafka.py and tail.py the only place that imports confluent_kafka.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, NewTopic, ResourceType

from foundation.errors import BrokerUnreachable, KafkaRefused, SettingInvalid, TopicMissing
from foundation.secret_file import read_named
from stream.config import KafkaSettings, TopicSettings
from stream.records import Record

log = logging.getLogger("winnow.kafka")

CALL_TIMEOUT_SECONDS = 10.0
EXTRA_BYTES = 65_536
_RECORD_SECONDS = 2.0
_PROBE_SECONDS = 3.0
_REFUSED = (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED)  # noqa: SLF001
# what a client says while no broker, or not the one that is in charge, answers
_AWAY = frozenset(
    {
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._TIMED_OUT_QUEUE,  # noqa: SLF001
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.CONCURRENT_TRANSACTIONS,  # the one before is still being ended
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
    }
)
Administrator = AdminClient
NO_LIMIT = "9223372036854775807"
DEFAULT_PARTITIONS = 4


class Cluster(NamedTuple):
    """What is fixed at boot: partition counts of every topic of ours, and Kafka's UUID of the input topic."""

    partition_counts: dict[str, int]
    topic_ids: dict[str, str]


def base_config(settings: KafkaSettings) -> dict[str, Any]:
    """Return what every client shares: brokers, our pass-through settings with their secrets. Raises SettingInvalid."""
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": "winnow",
        "log_level": 3,
        **settings.extra,
        **read_named("kafka.secrets", settings.secrets),
    }


def is_away(error: KafkaError) -> bool:
    """Return whether an error says that Kafka does not answer at present, rather than that it refuses."""
    return error.retriable() or error.code() in _AWAY


def look_at_cluster(settings: KafkaSettings, needed: Iterable[str], records_topic: str) -> Cluster:
    """Return the partition counts of the `needed` topics and the id of the input topic.

    Raises BrokerUnreachable after `kafka.connect_timeout_seconds`, TopicMissing naming the topic.
    """
    admin = administrator(settings)
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
            f"kafka.connect_timeout_seconds = {settings.connect_timeout_seconds:g}: {_why(settings) or error.args[0].str()}"
        ) from error
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


def _why(settings: KafkaSettings) -> str:
    """Return what the client says of its connections: that a login or a certificate is refused, a call that times out does not tell."""
    said: list[KafkaError] = []
    probe = AdminClient({**base_config(settings), "log_level": 0, "error_cb": said.append}, logger=log)  # it is heard, not logged
    deadline = time.monotonic() + _PROBE_SECONDS
    while time.monotonic() < deadline:
        probe.poll(0.1)
        refused = next((each for each in said if each.code() in _REFUSED), None)
        if refused is not None:
            return str(refused.str())
    return ""


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


def administrator(settings: KafkaSettings) -> AdminClient:
    """Return a client for the cluster. Raises SettingInvalid where kafka.extra cannot be used."""
    try:
        return AdminClient(base_config(settings), logger=log)
    except KafkaException as error:
        raise SettingInvalid(f"kafka.extra cannot be used: {error.args[0].str()}") from error


def missing_rights(admin: AdminClient, read: str, written: list[str], group: str) -> list[str]:
    """Return what whoever the settings log in as may not do, in words; a broker without an authorizer allows all. Raises KafkaRefused.

    Rights on transactional ids are not among them: transaction.py tries one.
    """
    needs = {read: AclOperation.READ, **dict.fromkeys(written, AclOperation.WRITE)}
    described = admin.describe_topics(
        TopicCollection(list(needs)), include_authorized_operations=True, request_timeout=CALL_TIMEOUT_SECONDS
    )
    with _said_no("Kafka would not say who may do what"):
        allowed = {name: described[name].result().authorized_operations for name in needs}
    missing = [f"{need.name} on {name}" for name, need in needs.items() if allowed[name] is not None and need not in allowed[name]]
    if not _may_join(admin, group):
        missing.append(f"READ on group {group}")
    return missing


def _may_join(admin: AdminClient, group: str) -> bool:
    """Return whether a group may be joined; a group that nobody has joined yet tells no more than whether it may be looked at."""
    described = admin.describe_consumer_groups([group], include_authorized_operations=True, request_timeout=CALL_TIMEOUT_SECONDS)
    try:
        allowed = described[group].result().authorized_operations
    except KafkaException as error:
        return bool(error.args[0].code() != KafkaError.GROUP_AUTHORIZATION_FAILED)
    return allowed is None or AclOperation.READ in allowed


def first_and_last(settings: KafkaSettings, topic: str, partitions: int) -> tuple[list[Message], list[Message]]:
    """Return the first and the last record of every partition that has any. Raises KafkaRefused."""
    found: tuple[list[Message], list[Message]] = ([], [])
    consumer = Consumer(
        {**base_config(settings), "group.id": "winnow-doctor", "enable.auto.commit": False, "isolation.level": "read_committed"}
    )
    try:
        with _said_no(f"{topic} cannot be read"):
            for partition in range(partitions):
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=CALL_TIMEOUT_SECONDS)
                for offset, messages in ((low, found[0]), (high - 1, found[1])):
                    if high > low:
                        consumer.assign([TopicPartition(topic, partition, offset)])
                        message = consumer.poll(_RECORD_SECONDS)
                        if message is not None and message.error() is None:
                            messages.append(message)
    finally:
        consumer.close()
    return found[0], found[1] or found[0]


def records_waiting(settings: KafkaSettings, topic: str, partitions: int, group: str) -> int:
    """Return how many records of a topic a group has not committed. Raises KafkaRefused."""
    consumer = Consumer({**base_config(settings), "group.id": group, "enable.auto.commit": False})
    waiting = 0
    try:
        with _said_no(f"the lag of group {group} cannot be read"):
            for place in consumer.committed([TopicPartition(topic, each) for each in range(partitions)], timeout=CALL_TIMEOUT_SECONDS):
                low, high = consumer.get_watermark_offsets(place, timeout=CALL_TIMEOUT_SECONDS)
                waiting += high - (place.offset if place.offset >= 0 else low)
    finally:
        consumer.close()
    return waiting


@contextmanager
def _said_no(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as error:
        raise KafkaRefused(f"{what}: {error.args[0].str()}") from error


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
    admin = administrator(settings)
    existing = list_topics(admin, settings)
    reports = []
    if topics.records not in existing:
        _create(admin, topics.records, partitions or DEFAULT_PARTITIONS, {"message.timestamp.after.max.ms": NO_LIMIT})
        reports.append(TopicReport(topics.records, True, partitions or DEFAULT_PARTITIONS, ()))
    else:
        reports.append(TopicReport(topics.records, False, existing[topics.records], ()))
    count = reports[0].partitions
    input_bytes = int(topic_settings(admin, topics.records)["max.message.bytes"])
    for name, wanted in _wanted(topics, input_bytes).items():
        if name not in existing:
            _create(admin, name, count, wanted)
            reports.append(TopicReport(name, True, count, ()))
            continue
        differences = _differences(topic_settings(admin, name), wanted, existing[name], count)
        reports.append(TopicReport(name, False, existing[name], tuple(differences)))
    _wait_until_known(admin, settings, [report.topic for report in reports])
    return reports


def _wait_until_known(admin: AdminClient, settings: KafkaSettings, names: list[str]) -> None:
    """Wait until the broker tells of what it has made, which may be a moment later; who starts next must find it."""
    deadline = time.monotonic() + CALL_TIMEOUT_SECONDS
    while not set(names) <= set(list_topics(admin, settings)) and time.monotonic() < deadline:
        time.sleep(0.05)


def settings_that_differ(admin: AdminClient, topics: TopicSettings, existing: dict[str, int]) -> dict[str, tuple[str, ...]]:
    """Return, for every output that is there, how it differs from what winnow would make. Raises KafkaRefused."""
    input_bytes = int(topic_settings(admin, topics.records)["max.message.bytes"])
    return {
        name: tuple(_differences(topic_settings(admin, name), wanted, existing[name], existing[topics.records]))
        for name, wanted in _wanted(topics, input_bytes).items()
        if name in existing
    }


def _differences(found: dict[str, str], wanted: dict[str, str], partitions: int, of_input: int) -> list[str]:
    differences = [f"{key} = {found.get(key)}, winnow would set {value}" for key, value in wanted.items() if found.get(key) != value]
    return differences if partitions == of_input else [*differences, f"{partitions} partitions, the input has {of_input}"]


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


def topic_settings(admin: AdminClient, topic: str) -> dict[str, str]:
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
