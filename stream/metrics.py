"""Every Prometheus object of the gate, and the small server of /metrics, /livez and /readyz.

Labels are bounded: routes and reasons are known at start, rule names come from the rules file, no content ever enters.
"""

import threading
import time
from collections import Counter as Counted
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

from foundation.errors import SettingInvalid
from stream.cache import Looked
from stream.decode import ODDITIES
from stream.device import Gpu
from stream.records import Decision, Lottery, Reason, Route
from stream.rules import Rules

DIRECTIONS = ("to-clean", "to-quarantine")
STAGES = ("poll", "read", "judge", "route", "commit")
if TYPE_CHECKING:  # a gate in rules mode starts without torch
    from stream.live_model import LiveModel

_ALIVE_SECONDS = 60.0
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SHARES = tuple(n / 20 for n in range(1, 20))
_REWARDS = (-8.0, -4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
ANSWERS = ("right", "wrong")


class GateMetrics:
    """The gate's metrics on a registry of their own, so that two gates in one process do not collide."""

    def __init__(self, rules: Rules) -> None:
        """Create every metric and initialise the labels that are known."""
        self.registry = CollectorRegistry()
        self.records = self._counter("winnow_records", "Records routed, by route and reason.", "route", "reason")
        self.violations = self._counter("winnow_rule_violations", "Rules broken, by rule and severity.", "rule", "severity")
        self.transactions = self._counter("winnow_transactions", "Kafka transactions, by outcome.", "outcome")
        self.rebalances = self._counter("winnow_rebalances", "Rebalance callbacks, by kind.", "kind")
        self.dropped = self._counter("winnow_records_given_up", "Records polled and then left to the partition's next owner.")
        self.unwritable = self._counter("winnow_records_unwritable", "Records that the broker refused on their output.")
        self.audits_refused = self._counter("winnow_audits_refused", "Audit copies that the broker refused; their records left without.")
        self.stage_seconds = self._histogram("winnow_stage_seconds", "Time per batch and stage.", _SECONDS, "stage")
        self.end_to_end_seconds = BatchHistogram(
            "winnow_end_to_end_seconds", "Record timestamp to commit of its transaction.", (*_SECONDS, 300, 3600), self.registry
        )
        self.p_chosen = BatchHistogram("winnow_p_chosen", "p_chosen of the records a model judged.", _SHARES, self.registry)
        self.rewards = BatchHistogram("winnow_reward", "Rewards a model gave, by answer.", _REWARDS, self.registry, ANSWERS)
        self.passes = self._counter("winnow_passes", "Forward passes of the model in service, warm-up and explanations too.")
        self.tokens = self._counter("winnow_tokens", "Tokens through the model in service: of records, and padding beside them.", "what")
        self.batch_records = self._histogram(
            "winnow_batch_records", "Records per transaction.", (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
        )
        self.cache = self._counter("winnow_cache_records", "Records looked up in the reward cache, by outcome.", "outcome")
        self.lag_records = self._gauge(
            "winnow_lag_records", "Records between what this gate has polled and the end, by owned partition.", "partition"
        )
        self.lag_seconds = self._gauge(
            "winnow_lag_seconds", "Age of the record polled last where more wait behind it, else 0, by owned partition.", "partition"
        )
        self.owned_partitions = self._gauge("winnow_owned_partitions", "Partitions assigned to this gate.")
        self.topic_partitions = self._gauge(
            "winnow_topic_partitions", "Partitions of the gate's topics, as they were at its boot.", "topic"
        )
        self.schema_registry_failures = self._counter(
            "winnow_schema_registry_failures", "Vain tries to fetch a schema that a record names; the gate waits for it."
        )
        self.last_commit_seconds = self._gauge("winnow_last_commit_timestamp_seconds", "Unix time of the last committed transaction.")
        self.ready = self._gauge("winnow_ready", "1 while the gate can judge: Kafka answers, it owns partitions; else 0.")
        self.last_turn_seconds = self._gauge("winnow_last_turn_timestamp_seconds", "Unix time when the gate's loop came round last.")
        self.threshold = self._gauge("winnow_threshold", "p_chosen from which a record is clean.")
        self.model = Info("winnow_model", "The model in service: label and digest as loaded.", registry=self.registry)
        self.model_created_seconds = self._gauge("winnow_model_created_timestamp_seconds", "When the model in service was published.")
        self.gpu_memory_bytes = self._gauge("winnow_gpu_memory_bytes", "Memory of the GPU that judges; 0 without one.", "kind")
        self.gpu_utilisation = self._gauge("winnow_gpu_utilisation_ratio", "Share of time that the GPU works; 0 without one.")
        self.rules = Info("winnow_rules", "The rules in service: digest.", registry=self.registry)
        self.swaps = self._counter("winnow_swaps", "Models and rules taken up while running.")
        self.refused = self._counter("winnow_refused", "Models, aliases and rules refused while running; the old ones serve on.", "what")
        self.audited = self._counter("winnow_audits_drawn", "Judged records drawn for blind review, by lottery.", "lottery")
        self.shadow_records = self._counter("winnow_shadow_records", "Records that the present challenger scored beside the champion.")
        self.shadow_flips = self._counter(
            "winnow_shadow_flips", "Records that would leave the other way by the present challenger.", "direction"
        )
        self.shadow = Info("winnow_shadow", "The challenger in shadow: label and digest as loaded.", registry=self.registry)
        self.held_share = self._gauge("winnow_held_share", "Held share of the last 1,000 records, by rules or model.")
        self.flood = self._gauge("winnow_flood", "1 while the held share is above gate.max_hold_share, else 0.")
        self.drift_psi = self._gauge(
            "winnow_drift_psi",
            "PSI of what passes against the version's baseline: of d, and of the field that has changed most.",
            "of",
        )
        self.drift = self._gauge("winnow_drift", "1 while there is drift, seen here or said in the registry, else 0.")
        self.no_drift()
        self._beside = ("none", "none")
        self._show_labels()
        self.know_rules(rules)

    def _show_labels(self) -> None:
        """Show every series whose labels are known before anything has happened."""
        for what in ("record", "padding"):
            self.tokens.labels(what)
        self.know_gpu(Gpu())
        for what in ("model", "shadow", "rules", "missing", "unreadable", "unreachable"):
            self.refused.labels(what)
        for lottery in Lottery:
            self.audited.labels(lottery.value)
        for direction in DIRECTIONS:
            self.shadow_flips.labels(direction)
        for outcome in Looked._fields:
            self.cache.labels(outcome)
        for outcome in ("committed", "aborted", "split", "unknown"):
            self.transactions.labels(outcome)
        for kind in ("assigned", "revoked", "lost"):
            self.rebalances.labels(kind)
        for stage in STAGES:
            self.stage_seconds.labels(stage)

    def no_drift(self) -> None:
        """Begin anew: nothing is known of what passes."""
        for of in ("d", "field"):
            self.drift_psi.labels(of).set(0)
        self.drift.set(0)

    def know_rules(self, rules: Rules) -> None:
        """Initialise the labels of a rules file and say that it is in service."""
        for route, reason in _known_reasons(rules):
            self.records.labels(route, reason)
        for rule in rules.rules:
            self.violations.labels(rule.name, "error" if rule.is_error else "warn")
        self.rules.info({"digest": rules.digest or "none"})

    def in_service(self, rules: Rules, model: "LiveModel | None", challenger: "LiveModel | None") -> None:
        """Say what is in service from now on."""
        self.know_rules(rules)
        self.know_model(model)
        said = (challenger.label, challenger.digest) if challenger is not None else ("none", "none")
        pair = (said[1], model.digest if model is not None else "none")
        if pair != self._beside:  # flips are a challenger's against a champion: another one of either begins anew
            self._beside = pair
            self.shadow_records.reset()
            for direction in DIRECTIONS:
                self.shadow_flips.labels(direction).reset()
        self.shadow.info({"version": said[0], "digest": said[1]})

    def know_model(self, model: "LiveModel | None") -> None:
        """Say which model judges."""
        if model is not None:
            self.model.info({"version": model.label, "digest": model.digest})
            self.threshold.set(model.threshold)
            self.model_created_seconds.set(model.created_seconds)

    def know_gpu(self, gpu: Gpu) -> None:
        """Say what the GPU holds and does."""
        self.gpu_memory_bytes.labels("used").set(gpu.used_bytes)
        self.gpu_memory_bytes.labels("total").set(gpu.total_bytes)
        self.gpu_utilisation.set(gpu.utilisation)

    def count(self, decisions: list[Decision]) -> None:
        """Count the decisions of a committed transaction."""
        for (route, reason), count in Counted((decision.route, decision.reason) for decision in decisions).items():
            self.records.labels(route.value, reason).inc(count)
        for draw, count in Counted(decision.draw for decision in decisions if decision.draw is not None).items():
            if draw.lottery is not None:
                self.audited.labels(draw.lottery.value).inc(count)
        self.p_chosen.observe([decision.p_chosen for decision in decisions if decision.p_chosen is not None])
        rewards = [decision.rewards for decision in decisions if decision.rewards is not None]
        for answer, values in zip(ANSWERS, zip(*rewards, strict=True), strict=False):
            self.rewards.observe(values, answer)
        for decision in decisions:
            for violation in decision.violations:
                self.violations.labels(violation.rule, "error" if violation.is_error else "warn").inc()

    def count_passes(self, passes: int, record_tokens: int, padding_tokens: int) -> None:
        """Count what the scorer has run since it was last asked."""
        self.passes.inc(passes)
        self.tokens.labels("record").inc(record_tokens)
        self.tokens.labels("padding").inc(padding_tokens)

    def count_looked(self, looked: Looked) -> None:
        """Count what a batch found in the reward cache."""
        for outcome, count in looked._asdict().items():
            self.cache.labels(outcome).inc(count)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Observe how long the block took as a stage's time."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.stage_seconds.labels(stage).observe(time.perf_counter() - begun)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self.registry)


class BatchHistogram(Collector):
    """A histogram that takes the values of a whole batch at once: one by one they cost 2 µs a record.

    `answers`: where given, there is one for each, told apart by the label `answer`.
    """

    def __init__(
        self, name: str, meaning: str, bounds: Sequence[float], registry: CollectorRegistry, answers: tuple[str, ...] = ()
    ) -> None:
        """Start at zero and register."""
        self._name, self._meaning = name, meaning
        self._labels = ["answer"] if answers else []
        self._bounds = np.array(bounds, dtype=np.float64)
        self._counts = {answer: np.zeros(len(bounds) + 1, dtype=np.int64) for answer in answers or ("",)}
        self._sums = dict.fromkeys(self._counts, 0.0)
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, values: Sequence[float] | np.ndarray, answer: str = "") -> None:
        """Add every value to the first bucket whose bound is not below it."""
        values_N = np.asarray(values, dtype=np.float64)
        counts = np.bincount(np.searchsorted(self._bounds, values_N), minlength=len(self._bounds) + 1)
        with self._lock:
            self._counts[answer] += counts
            self._sums[answer] += float(values_N.sum())

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram as it stands."""
        with self._lock:
            found = {answer: (counts.tolist(), self._sums[answer]) for answer, counts in self._counts.items()}
        bounds = [*map(str, self._bounds.tolist()), "+Inf"]
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        for answer, (counts, total) in found.items():
            family.add_metric([answer] if self._labels else [], list(zip(bounds, accumulate(counts), strict=True)), total)
        yield family


def _known_reasons(rules: Rules) -> list[tuple[str, str]]:
    held = [*(f"rule:{name}" for name in ODDITIES), *(f"rule:{rule.name}" for rule in rules.rules if rule.is_error)]
    dead = (Reason.EMPTY, Reason.UNDECODABLE, Reason.BAD_JSON, Reason.TOO_DEEP, Reason.SCORER_FAILED, Reason.UNWRITABLE)
    return [
        *((Route.CLEAN.value, reason.value) for reason in (Reason.MODEL, Reason.RULES, Reason.TOMBSTONE)),
        *((Route.QUARANTINE.value, reason) for reason in (Reason.MODEL.value, Reason.TOO_LONG.value, *held)),
        *((Route.DEAD_LETTER.value, reason.value) for reason in dead),
    ]


class Health:
    """Whether the gate is alive (its loop turns) and ready (model warm, group joined, last transaction went through)."""

    def __init__(self, stale_seconds: float = _ALIVE_SECONDS) -> None:
        """Start neither ready nor stale; a loop that has not turned for so long is stuck."""
        self.ready = False
        self._stale_seconds = stale_seconds
        self._last_turn = time.monotonic()

    def turned(self) -> None:
        """Say that the loop has come round once more."""
        self._last_turn = time.monotonic()

    @property
    def alive(self) -> bool:
        """False when the loop has not turned for too long."""
        return time.monotonic() - self._last_turn < self._stale_seconds


class MetricsServer:
    """Serves /metrics, /livez and /readyz on one address from a thread."""

    def __init__(self, bind: str, port: int, registry: CollectorRegistry, health: Health, setting: str = "gate.metrics_port") -> None:
        """Start serving; `setting` names where the port comes from. Raises SettingInvalid when it is taken."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.split("?")[0] == "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                elif self.path == "/livez":
                    self._answer(200 if health.alive else 503, b"alive\n" if health.alive else b"stuck\n", "text/plain")
                elif self.path == "/readyz":
                    self._answer(200 if health.ready else 503, b"ready\n" if health.ready else b"not ready\n", "text/plain")
                else:
                    self._answer(404, b"there are /metrics, /livez and /readyz\n", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Stay silent: scrapes are normal operation."""

        try:
            self._server = ThreadingHTTPServer((bind, port), Handler)
        except OSError as error:
            raise SettingInvalid(f"{setting} = {port} on {bind} cannot be used: {error.strerror}; 0 turns metrics off") from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
