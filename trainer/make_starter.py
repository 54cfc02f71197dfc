"""`winnow starter`: unlabelled records of a file or topic -> the starter's directories, with a progress bar."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foundation.errors import SettingInvalid
from trainer.joint import Losses
from trainer.pairs import read_unlabelled, rendered
from trainer.starter import Plan, save_starter, train_starter

DEFAULT_MINUTES = 3.0


def make_starter(tables: Any, source: str, out: Path, minutes: float | None, steps: int | None, seed: int, limit: int) -> dict[str, Any]:
    """Train and save a starter; return what the command prints. Raises SettingInvalid, DataRefused."""
    if minutes is not None and steps is not None:
        raise SettingInvalid("starter takes --minutes or --steps, not both")
    if out.exists() and any(out.iterdir()):
        raise SettingInvalid(f"--out {out} is not empty; a starter is written to a new directory")
    contents = read_unlabelled(source, tables.kafka, limit)
    records = rendered(contents, "fields@1")
    plan = Plan(steps=steps, minutes=minutes or DEFAULT_MINUTES, seed=seed)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("starter", total=None, loss="")

        def started(planned: int) -> None:
            print(f"starter: {planned} steps", file=sys.stderr, flush=True)  # noqa: T201
            bar.update(task, total=planned)

        def watch(step: int, losses: Losses) -> None:
            bar.update(task, completed=step, loss=f"contrastive {losses.contrastive:.3f}, next token {losses.next_token:.3f}")

        made = train_starter(records, tables.train.verdict_words, plan, started=started, watch=watch)
    out.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {
        "steps": made.steps,
        "records": len(records),
        "seed": seed,
        "verdict_words": list(tables.train.verdict_words),
        "losses": made.losses._asdict() if made.losses else {},
    }
    digest = save_starter(made, contents, out, facts)
    return {**facts, "digest": digest, "out": str(out)}
