"""What the verbs share: the option for the settings file, the settings in force, and how a result is printed."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from foundation.settings import Table, load

Config = Annotated[
    Path | None, typer.Option("--config", envvar="WINNOW_CONFIG", help="Settings file; default ./winnow.toml if there is one.")
]


def tables() -> dict[str, type[Table]]:
    """Return every settings table of every package, by its name in winnow.toml."""
    from model_registry.config import RegistrySettings
    from review.config import ReviewSettings
    from stream.config import GateSettings, KafkaSettings, ServeSettings, TopicSettings
    from trainer.config import TrainSettings

    return {
        "kafka": KafkaSettings, "topics": TopicSettings, "gate": GateSettings, "registry": RegistrySettings,
        "train": TrainSettings, "review": ReviewSettings, "serve": ServeSettings,
    }  # fmt: skip


def settings_from(config: Path | None) -> Any:
    """Return the settings in force, one attribute per table. Raises SettingInvalid."""
    from types import SimpleNamespace

    return SimpleNamespace(**load(config, tables(), os.environ))


def words_option(given: str | None) -> tuple[str, ...] | None:
    """Return the verdict words of an option as it was typed, RIGHT,WRONG."""
    return None if given is None else tuple(given.split(","))


def shown(version: Any) -> dict[str, object]:
    """Return what is told of a version."""
    manifest = version.manifest
    return {
        "version": version.label, "digest": version.digest, "method": manifest.method, "created": manifest.created,
        "threshold": manifest.threshold.p_chosen, "certified": manifest.threshold.certified, "reason": manifest.threshold.reason,
        "metrics": manifest.metrics,
    }  # fmt: skip


def result(fields: dict[str, object], sentence: str) -> None:
    """Print a result: a sentence on a terminal, one JSON line elsewhere."""
    typer.echo(sentence if sys.stdout.isatty() else json.dumps(fields, ensure_ascii=False))
