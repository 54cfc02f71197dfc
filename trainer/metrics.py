"""Every Prometheus object of `winnow train --watch`, served beside /livez and /readyz while it waits and while it trains."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from model_registry.registry import Version
from stream.metrics import Health, MetricsServer
from trainer.config import TrainSettings

OUTCOMES = ("promoted", "challenger", "refused", "failed")
_SECONDS = (10, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800)
_STUCK_SECONDS = 7 * 86_400.0  # a training may take days; what is stuck for a week is


class TrainMetrics:
    """The trainer's metrics on a registry of their own."""

    def __init__(self) -> None:
        """Create every metric and initialise the labels that are known."""
        self.registry = CollectorRegistry()
        self.cycles = Counter("winnow_train_cycles", "Cycles, by what they came to.", ("outcome",), registry=self.registry)
        self.cycle_seconds = Histogram(
            "winnow_train_cycle_seconds", "Length of the cycles that published a version.", buckets=_SECONDS, registry=self.registry
        )
        self.is_training = Gauge("winnow_train_running", "1 while a cycle runs, else 0.", registry=self.registry)
        self.waiting = Gauge("winnow_train_verdicts_waiting", "Answered records that no cycle has learned from.", registry=self.registry)
        self.needed = Gauge("winnow_train_verdicts_needed", "How many of them start a cycle.", registry=self.registry)
        self.drift = Gauge("winnow_train_drift", "1 while drift of the champion is said and not answered, else 0.", registry=self.registry)
        self.started_seconds = Gauge(
            "winnow_train_started_timestamp_seconds", "Unix time when the trainer was started.", registry=self.registry
        )
        self.started_seconds.set_to_current_time()
        self.newest_created_seconds = Gauge(
            "winnow_train_newest_created_timestamp_seconds", "Unix time when the newest version was published.", registry=self.registry
        )
        self.auroc = Gauge("winnow_train_auroc", "AUROC on the hold-out of the last version this trainer made.", registry=self.registry)
        self.certified = Gauge("winnow_train_certified", "1 where that version's threshold is certified, else 0.", registry=self.registry)
        self.suspects = Gauge("winnow_train_suspects", "Verdicts that its training found doubtful.", registry=self.registry)
        for outcome in OUTCOMES:
            self.cycles.labels(outcome)

    def made(self, version: Version, *, suspects: int) -> None:
        """Say what a cycle has published."""
        manifest = version.manifest
        self.newest_created_seconds.set(datetime.fromisoformat(manifest.created).timestamp())
        self.auroc.set(float(manifest.metrics.get("auroc", float("nan"))))
        self.certified.set(manifest.threshold.certified)
        self.suspects.set(suspects)


@contextmanager
def served(settings: TrainSettings, metrics: TrainMetrics) -> Iterator[Health]:
    """Serve the metrics where the settings say; yields the health that the loop keeps up. Raises SettingInvalid."""
    health = Health(_STUCK_SECONDS)
    with ExitStack() as parts:
        if settings.metrics_port:
            server = MetricsServer(settings.metrics_bind, settings.metrics_port, metrics.registry, health, "train.metrics_port")
            parts.callback(server.close)
        yield health
