"""`winnow score`: the gate's stages over a file, without Kafka; JSON lines out, or a table for a person at a terminal."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from foundation.errors import DataRefused
from foundation.terminal import as_shown
from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from stream import wire
from stream.config import GateSettings
from stream.files import read_values
from stream.judge import Judge
from stream.records import Content, Decision, Record
from stream.rules import Rules

_AT_ONCE = 256


def score_file(path: Path, settings: GateSettings, registry: RegistrySettings, reference: str | None, *, use_rules: bool) -> None:
    """Judge every record of a file, in input order. Raises DataRefused, ModelRefused."""
    if str(path) != "-" and not path.is_file():
        raise DataRefused(f"there is no file {path}")
    rules = Rules.load(settings.rules_file) if use_rules else Rules()
    model = None
    if settings.mode != "rules":
        version = Registry(registry).verified(reference or settings.model)
        from stream.live_model import load_live_model

        model = load_live_model(version, settings)
    judged = judge_values(read_values(path), Judge(settings, rules, model))
    rows = (as_row(value, content, decision) for value, content, decision in judged)
    if sys.stdout.isatty():
        _print_table(rows, *(("rules alone", None) if model is None else (model.label, model.threshold)))
        return
    for row in rows:
        sys.stdout.write(wire.as_json_line(row) + "\n")
        sys.stdout.flush()


def judge_values(values: Iterable[bytes], judge: Judge) -> Iterator[tuple[bytes, Content | None, Decision]]:
    """Yield each value with its content, None where it cannot be read, and decision, in order, some hundreds at a time."""
    numbered = enumerate(values)
    while part := list(itertools.islice(numbered, _AT_ONCE)):
        records = [Record("", 0, offset, 0, None, value, []) for offset, value in part]
        read = judge.read(records)
        yield from zip([value for _, value in part], map(read.content, range(len(part))), judge.decide(read), strict=True)


def as_row(value: bytes, content: Content | None, decision: Decision) -> dict[str, Any]:
    """Return the contract's fields of one record; rewards and probabilities are None where no model judged."""
    rewards, p = decision.rewards, decision.p_chosen
    return {
        "record": _shown(value, content),
        "reward_right": None if rewards is None else rewards.right,
        "reward_wrong": None if rewards is None else rewards.wrong,
        "p_chosen": p,
        "p_rejected": None if p is None else round(1 - p, 6),
        "route": decision.route.value,
        "reason": str(decision.reason),
    }


def _shown(value: bytes, content: Content | None) -> Any:
    if content is not None and not content.oddities:
        return content.data
    return value.decode("utf-8", "replace")


def _print_table(rows: Iterable[dict[str, Any]], label: str, threshold: float | None) -> None:
    table = Table(title=label if threshold is None else f"{label}, clean from p_chosen {threshold:.6f}")
    for name in ("route", "reason", "P(right)", "reward right", "reward wrong", "record"):
        table.add_column(name, overflow="fold")
    for row in rows:
        record = row["record"] if isinstance(row["record"], str) else json.dumps(row["record"], ensure_ascii=False)
        numbers = _numbers(row, ("p_chosen", "reward_right", "reward_wrong"))
        table.add_row(row["route"], row["reason"], *numbers, as_shown(record))
    Console().print(table)


def _numbers(row: dict[str, Any], names: Sequence[str]) -> list[str]:
    return ["" if row[name] is None else f"{row[name]:.4f}" for name in names]
