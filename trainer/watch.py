"""Cycles again and again: `winnow train --watch` looks what has been answered, trains when it is enough, and says what it came to.

Enters: the verdict topic, the registry, drift that gates and verdicts have shown. Leaves: versions, by way of cycle.py, and metrics.
"""

import json
import logging
import sys
import time
from datetime import UTC, datetime
from typing import Any

import torch

from foundation.errors import DataRefused, KafkaRefused, ModelRefused, SettingInvalid, WinnowError
from model_registry.aliases import Mark
from model_registry.newest import newest_of_cycles
from model_registry.registry import CHAMPION, Registry
from stream.boot import load_lotteries
from stream.rules import Rules
from trainer.audited import AuditedErrors
from trainer.config import TrainSettings
from trainer.cycle import as_fields, run_cycle
from trainer.metrics import TrainMetrics, served
from trainer.promote import finish_interrupted
from trainer.verdicts import read_snapshot

log = logging.getLogger("winnow.train")

WATCH_SECONDS = 10.0
MOST_PAUSE_SECONDS = 1_800.0
_MOST_SAID = 300


def watch(tables: Any, settings: TrainSettings, base_name: str | None, unlabelled: str | None) -> None:
    """Run a cycle whenever `train.retrain_verdicts` new verdicts have come, or `train.retrain_hours` after the newest version.

    What is refused is tried again when more is answered; what fails, Kafka and the registry too, after a pause that doubles.
    """
    Rules.load(tables.gate.rules_file)  # refused now; later a file half written is tried again
    load_lotteries(tables.gate)
    metrics = TrainMetrics()
    with served(settings, metrics) as health:
        watcher = Watcher(tables, settings, base_name, unlabelled, metrics)
        while True:
            pause = watcher.look()
            health.ready = watcher.is_well
            health.turned()
            time.sleep(pause)


class Watcher:
    """What `--watch` remembers from one look to the next."""

    def __init__(self, tables: Any, settings: TrainSettings, base_name: str | None, unlabelled: str | None, metrics: TrainMetrics) -> None:
        """Begin before the first verdict."""
        self._tables, self._settings = tables, settings
        self._from = base_name, unlabelled
        self._metrics = metrics
        self._registry = Registry(tables.registry)
        self._audited = AuditedErrors(settings.drift_delta, tables.review.wrong_looks)
        self._in_vain = 0  # verdicts that a cycle has been refused with: the same ones would be refused again
        self._pause = WATCH_SECONDS
        self.is_well = False

    def look(self) -> float:
        """Look once, train if it is time, and return after how many seconds to look again."""
        new = self._in_vain
        try:
            finish_interrupted(self._registry)
            self._audited.look(self._registry, self._tables)
            new, drift = new_verdicts(self._registry, self._tables), _drift_of_champion(self._registry)
            self._in_vain = min(self._in_vain, new)  # somebody else may have trained on them meanwhile
            self._say_where_it_stands(new, is_drifting=drift is not None)
            if is_due(new, self._in_vain, _age_seconds(self._registry), self._settings, is_drifting=drift is not None):
                if drift is not None:
                    print(f"drift: {drift.why}", file=sys.stderr)  # noqa: T201
                self._train()
                self._in_vain = 0
            self._pause, self.is_well = WATCH_SECONDS, True
        except DataRefused as error:
            self._metrics.cycles.labels("refused").inc()
            log.error("the cycle gave nothing; it is tried again when more is answered", extra={"detail": str(error)})  # noqa: TRY400
            self._in_vain, self._pause = new, WATCH_SECONDS
        except (KafkaRefused, ModelRefused, SettingInvalid, torch.OutOfMemoryError, MemoryError, OSError) as error:
            self._metrics.cycles.labels("failed").inc()
            pause, self.is_well = self._pause, False
            log.error("the cycle failed; it is tried again", extra={"detail": _sentence(error), "pause_seconds": pause})  # noqa: TRY400
            self._pause = min(2 * pause, MOST_PAUSE_SECONDS)
            return pause
        return WATCH_SECONDS

    def _train(self) -> None:
        metrics, begun = self._metrics, time.monotonic()
        with metrics.is_training.track_inprogress():
            cycle = run_cycle(self._tables, self._settings, *self._from)
        metrics.cycle_seconds.observe(time.monotonic() - begun)
        metrics.cycles.labels("promoted" if cycle.promotion.promoted else "challenger").inc()
        metrics.made(cycle.version, suspects=cycle.version.manifest.data_counts.get("suspects", 0))
        self._say_where_it_stands(0, is_drifting=False)
        print(json.dumps(as_fields(cycle), ensure_ascii=False), flush=True)  # noqa: T201

    def _say_where_it_stands(self, new: int, *, is_drifting: bool) -> None:
        self._metrics.waiting.set(new)
        self._metrics.needed.set(enough(self._settings, is_drifting=is_drifting))
        self._metrics.drift.set(is_drifting)


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, WinnowError) else f"{type(error).__name__}: {str(error).partition(chr(10))[0][:_MOST_SAID]}"


def enough(settings: TrainSettings, *, is_drifting: bool) -> int:
    """Return how many new verdicts start a cycle: fewer where there is drift."""
    return min(settings.retrain_verdicts, settings.drift_verdicts) if is_drifting else settings.retrain_verdicts


def is_due(new: int, in_vain: int, age_seconds: float, settings: TrainSettings, *, is_drifting: bool = False) -> bool:
    """Return whether to train now: enough new verdicts, or some and the newest version is old."""
    is_enough = new - in_vain >= enough(settings, is_drifting=is_drifting)
    return is_enough or (new > in_vain and age_seconds > settings.retrain_hours * 3600)


def new_verdicts(registry: Registry, tables: Any) -> int:
    """Return how many decisions have verdicts behind the offsets of the newest version that was trained on verdicts."""
    newest = newest_of_cycles(registry)
    since = {} if newest is None else {int(partition): after for partition, after in newest.manifest.verdict_offsets.items()}
    snapshot = read_snapshot(tables.kafka, tables.topics.verdicts, since=since)
    return len({verdict.decision_id for verdict in snapshot.verdicts})


def _drift_of_champion(registry: Registry) -> Mark | None:
    """Return what has been said of drift of the version that is champion now."""
    return registry.drift(registry.resolve(CHAMPION).digest) if CHAMPION in registry.aliases() else None


def _age_seconds(registry: Registry) -> float:
    """Return the age of the newest version; without one whatever there is, is late."""
    numbers = registry.versions()
    if not numbers:
        return float("inf")
    created = datetime.fromisoformat(registry.resolve(str(numbers[-1])).manifest.created)
    return (datetime.now(UTC) - created).total_seconds()
