"""A starter for a benchmark, made as the demo makes its own: generated twins in, its directory and settings tables out."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from demo.twins import UNREADABLE, Twin, take
from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from stream.config import GateSettings, KafkaSettings
from trainer.config import TrainSettings
from trainer.make_starter import make_starter
from trainer.train import train_and_publish


def readable(count: int, seed: int) -> list[Twin]:
    """Return those of `count` twins that can be read."""
    return [twin for twin in take(count, seed) if twin.truth.kind != UNREADABLE]


def tables_in(place: Path, gate: GateSettings, train: TrainSettings) -> Any:
    """Return settings whose registry lies in a directory; nothing is asked of Kafka."""
    registry = RegistrySettings(url=str(place / "registry"))
    return SimpleNamespace(kafka=KafkaSettings(), gate=gate, registry=registry, train=train, review=ReviewSettings())


def published_starter(place: Path, twins: Sequence[Twin]) -> RegistrySettings:
    """Publish a starter of the usual shape, whatever it has learned, as champion of a registry in a directory."""
    tables = tables_in(place, GateSettings(), TrainSettings())
    starter, _ = starter_in(place, tables, twins, steps=20)
    train_and_publish(tables, tables.train, str(starter), None, None)
    found: RegistrySettings = tables.registry
    return found


def starter_in(
    place: Path, tables: Any, twins: Sequence[Twin], *, steps: int | None, minutes: float | None = None, seed: int = 0
) -> tuple[Path, dict[str, Any]]:
    """Make a starter of readable twins; return its directory and what the command says of it."""
    source = place / "twins.jsonl"
    source.write_bytes(b"\n".join(twin.value for twin in twins) + b"\n")
    return place / "starter", make_starter(tables, str(source), place / "starter", minutes, steps, seed, len(twins))
