"""Puts a gate together from settings and refuses, in one sentence, what cannot work; then runs it until it is told to stop."""

import gc
import hashlib
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from foundation.errors import SettingInvalid
from foundation.secret_file import read_secret
from model_registry.config import RegistrySettings
from model_registry.registry import Registry, Version
from stream.cache import RewardCache
from stream.cluster import look_at_cluster, topic_names
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decide import Lotteries
from stream.follow import Follower, Lasting, Service, make_service
from stream.gate import Gate
from stream.kafka import Source
from stream.metrics import GateMetrics, Health, MetricsServer
from stream.reading_process import COLLECT_EVERY
from stream.route import Router
from stream.rules import Rules
from stream.schemas import Schemas
from stream.traces import Tracer
from stream.transaction import TRANSACTIONAL_PREFIX, Instance, Sink

if TYPE_CHECKING:
    from stream.live_model import LiveModel

_SWITCH_SECONDS = 0.0005  # back from Kafka or the device, a thread should not wait 5 ms for the interpreter


def run_gate(
    kafka: KafkaSettings,
    topics: TopicSettings,
    gate: GateSettings,
    registry: RegistrySettings,
    until_idle_seconds: float | None,
    step: Callable[[str], None] = lambda at: None,
) -> None:
    """Run one gate until SIGTERM, Ctrl-C or idleness. The model is loaded and warm before the group is joined."""
    rules = Rules.load(gate.rules_file)
    version = versions = None
    if gate.mode != "rules":
        versions = Registry(registry)
        version = versions.verified(gate.model)
        look_at_cluster(kafka, topic_names(topics, with_audit=_may_audit(gate)), topics.records)
    # the model is this call's alone: kept here, it would outlive its swap
    run_with_model(kafka, topics, gate, rules, None if version is None else _loaded(version, gate), until_idle_seconds, step, versions)


def _loaded(version: Version, gate: GateSettings) -> "LiveModel":
    from stream.live_model import load_aside  # torch takes seconds: what can be refused without it was

    return load_aside(lambda: version, gate)


def run_with_model(
    kafka: KafkaSettings,
    topics: TopicSettings,
    gate: GateSettings,
    rules: Rules,
    model: "LiveModel | None",
    until_idle_seconds: float | None,
    step: Callable[[str], None] = lambda at: None,
    versions: Registry | None = None,
) -> None:
    """Run one gate with a model that is already warm; benches bring their own, and no registry to follow."""
    names = topic_names(topics, with_audit=_may_audit(gate))
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingInvalid(f"the topic name {twice} is used twice in [topics]; every topic needs its own")
    cluster = look_at_cluster(kafka, names, topics.records)
    metrics, health = GateMetrics(rules), Health()
    for topic, count in cluster.partition_counts.items():
        metrics.topic_partitions.labels(topic).set(count)
    cache = RewardCache(gate.cache_records, metrics.count_looked) if gate.cache_records else None
    stop = _stop_on_signals()
    schemas = Schemas(kafka, stop, metrics.schema_registry_failures.inc)
    lasting = Lasting(cluster.topic_ids, load_lotteries(gate), cache, schemas)

    def make(rules: Rules, model: "LiveModel | None", like: Service | None = None) -> Service:
        return make_service(gate, lasting, rules, model, like)

    service = make(rules, model)
    metrics.in_service(rules, model, None)
    with ExitStack() as open_parts:
        open_parts.callback(schemas.close)
        instance = Instance(kafka, gate.group, gate.instance)
        open_parts.callback(instance.release)
        if gate.metrics_port:
            server = MetricsServer(gate.metrics_bind, gate.metrics_port + instance.slot, metrics.registry, health)
            open_parts.callback(server.close)
        sink = Sink(kafka, f"{TRANSACTIONAL_PREFIX}{gate.group}-{instance.name}")
        open_parts.callback(sink.close)
        source = Source(kafka, topics.records, gate.group, lambda kind, count: metrics.rebalances.labels(kind).inc(count))
        follower = Follower(versions, gate, make, service, metrics)
        open_parts.callback(follower.stop)
        router = Router(topics, cluster.partition_counts, gate.partitioner, gate.observe_audit if gate.mode == "observe" else None)
        tracer = None if gate.traces is None else Tracer(gate.traces, instance.name)
        if tracer is not None:
            open_parts.callback(tracer.close)
        running = Gate(source, sink, service, follower, router, metrics, health, gate, step, tracer)
        gc.freeze()  # what lives now lives for ever
        gc.set_threshold(*COLLECT_EVERY)
        sys.setswitchinterval(_SWITCH_SECONDS)
        del service, model  # what a swap replaces, its process too, must not live on here
        follower.start()
        running.run(stop, until_idle_seconds)


def load_lotteries(gate: GateSettings) -> Lotteries:
    """Return the lotteries of the settings with their secret key. Raises SettingInvalid."""
    key = read_secret("gate.audit_key_file", gate.audit_key_file, "key")
    return Lotteries(hashlib.sha256(key).digest() if key else b"", gate.audit_rate, gate.audit_extra_rate, gate.audit_near)


def _may_audit(gate: GateSettings) -> bool:
    return gate.mode == "observe" or (gate.mode == "enforce" and bool(gate.audit_rate or gate.audit_extra_rate))


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    return stop
