"""Puts a gate together from settings and refuses, in one sentence, what cannot work; then runs it until it is told to stop."""

import gc
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from foundation.errors import SettingInvalid
from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from stream import wire
from stream.cluster import look_at_cluster, topic_names
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.gate import Gate
from stream.judge import Judge
from stream.kafka import Instance, Sink, Source
from stream.metrics import GateMetrics, Health, MetricsServer
from stream.route import Router
from stream.rules import Rules

if TYPE_CHECKING:
    from stream.live_model import LiveModel


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
    model = None
    if gate.mode != "rules":
        version = Registry(registry).verified(gate.model)
        look_at_cluster(kafka, topic_names(topics, with_audit=gate.mode == "observe"), topics.records)
        from stream.live_model import load_live_model  # torch takes seconds: what can be refused without it was

        model = load_live_model(version, gate)
    run_with_model(kafka, topics, gate, rules, model, until_idle_seconds, step)


def run_with_model(
    kafka: KafkaSettings,
    topics: TopicSettings,
    gate: GateSettings,
    rules: Rules,
    model: "LiveModel | None",
    until_idle_seconds: float | None,
    step: Callable[[str], None] = lambda at: None,
) -> None:
    """Run one gate with a model that is already warm; benches bring their own."""
    names = topic_names(topics, with_audit=gate.mode == "observe")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingInvalid(f"the topic name {twice} is used twice in [topics]; every topic needs its own")
    cluster = look_at_cluster(kafka, names, topics.records)
    instance = Instance(kafka, gate.group, gate.instance)
    metrics, health = GateMetrics(rules), Health()
    if model is not None:
        metrics.model.info({"version": model.label, "digest": model.digest})
        metrics.threshold.set(model.threshold)
    stop = _stop_on_signals()
    server = MetricsServer(gate.metrics_bind, gate.metrics_port + instance.slot, metrics.registry, health) if gate.metrics_port else None
    sink = Sink(kafka, f"winnow-{gate.group}-{instance.name}")
    source = Source(kafka, topics.records, gate.group, lambda kind, count: metrics.rebalances.labels(kind).inc(count))
    observe_audit = gate.observe_audit if gate.mode == "observe" else None
    running = Gate(
        source,
        sink,
        Judge(gate, rules, model),
        Router(topics, cluster.partition_counts, gate.partitioner, observe_audit),
        wire.constants(
            cluster.topic_ids,
            None if model is None else model.threshold,
            None if model is None else model.label,
            None if model is None else model.digest,
            rules.digest,
        ),
        metrics,
        health,
        gate.max_poll_records,
        gate.batch_seconds,
        step,
    )
    gc.freeze()
    try:
        running.run(stop, until_idle_seconds)
    finally:
        sink.close()
        instance.release()
        if server is not None:
            server.close()


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    return stop
