"""Any table with its truth, read as a stream: what winnow finds wrong with few verdicts, beside other detectors.

Records come in file order. Three times (after a fifth, three fifths, and all of them) a starter learns from the
unlabelled past, people answer their share of the verdicts about records of that past, and a model is trained and
published as a cycle does. `auroc` is that of the last model on a fifth of the records that nobody is ever asked about,
and that no training reads either: a model that has learned a thousand records by heart would only know them again;
`auroc_prequential` judges every record after the first fifth by the model of its time. The last line is one JSON object.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef

from bench.baselines import auroc_of_wrong, baselines
from bench.machine import keep
from bench.starters import tables_in
from bench.table import Table, never_asked, read_table
from foundation.errors import WinnowError
from model_registry.registry import Version
from stream.config import GateSettings
from stream.decode import decode_value
from stream.explain import suspects
from stream.live_model import LiveModel, load_live_model
from stream.records import Content
from trainer.config import TrainSettings
from trainer.datasets import Labelled, write_labelled
from trainer.make_starter import make_starter
from trainer.train import train_and_publish

LOWEST = -1e9
STAGES = (0.2, 0.6, 1.0)
STARTER_SHARES = (0.15, 0.2, 0.4)


class Judged(NamedTuple):
    """What a model says of records, in order: calibrated d, and whether it holds them; p_chosen is equal to six digits for many."""

    d: np.ndarray
    is_held: np.ndarray


def judge(model: LiveModel, contents: Sequence[str]) -> Judged:
    """Score records as the gate does; what is too long is held, and as wrong as can be."""
    found = model.d_of([_read(content) for content in contents])
    is_held = [each is None or model.calibration.p_chosen(each) < model.threshold for each in found]
    temperature, bias = model.calibration.temperature, model.calibration.bias
    return Judged(np.array([LOWEST if each is None else each / temperature + bias for each in found]), np.array(is_held))


def field_hits(model: LiveModel, table: Table, places: np.ndarray) -> float | None:
    """Return the share of wrong records whose most suspect field is a wrong one."""
    wrong = [int(place) for place in places if table.is_wrong[place]]
    if not wrong:
        return None
    contents = table.contents()
    found = suspects([_read(contents[place]) for place in wrong], model.scorer, model.rendering, model.evidence)
    column = {name: place for place, name in enumerate(table.columns)}
    blamed = [column.get(fields[0][0]) if fields else None for fields in found]
    hits = [each is not None and bool(table.wrong_RC[place, each]) for place, each in zip(wrong, blamed, strict=True)]
    return round(float(np.mean(hits)), 4)


def choose(d: np.ndarray, free: np.ndarray, count: int, sampling: str, rng: np.random.Generator) -> np.ndarray:
    """Return the places of `count` records to ask about, of those that are free; winnow's own way draws half at random."""
    free = rng.permutation(free)
    if sampling == "random":
        return free[:count]
    by_chance = free[: count // 2]
    left = free[count // 2 :]
    nearest = left[np.argsort(np.abs(d[left] - np.median(d[left])))] if len(left) else left
    return np.concatenate([by_chance, nearest[: count - len(by_chance)]])


def run(table: Table, verdicts: int, seed: int, minutes: float, sampling: str, place: Path) -> dict[str, Any]:
    """Read the table as a stream once."""
    begun = time.perf_counter()
    rng = np.random.default_rng(seed)
    contents, held = table.contents(), never_asked(len(table.cells), seed)
    ends = [round(len(contents) * share) for share in STAGES]
    d_as_it_came = np.full(len(contents), np.nan)
    asked = np.zeros(0, dtype=int)
    for stage, end in enumerate(ends):
        work = place / str(stage)
        work.mkdir()
        tables = tables_in(work, GateSettings(), TrainSettings(seed=seed))
        source = work / "past.txt"
        past = [content for content, is_held in zip(contents[:end], held[:end], strict=True) if not is_held]
        source.write_text("\n".join(past) + "\n", encoding="utf-8")
        base = work / "starter"
        made = make_starter(tables, str(source), base, minutes * STARTER_SHARES[stage], None, seed, end)
        version = train_and_publish(tables, tables.train, str(base), None, None)
        model = load_live_model(version, tables.gate)
        share = round(verdicts * STAGES[stage]) - len(asked)
        if share:
            free = np.setdiff1d(np.flatnonzero(~held[:end]), asked)
            chosen = choose(judge(model, contents[:end]).d, free, share, sampling, rng)
            asked = np.concatenate([asked, chosen])
        if len(asked):
            version = _trained(tables, base, table, contents, asked, work)
            model = load_live_model(version, tables.gate)
        coming = contents[end : ends[stage + 1]] if stage + 1 < len(ends) else []
        if coming:
            d_as_it_came[end : end + len(coming)] = judge(model, coming).d
        print(f"{end} records, {len(asked)} verdicts, {made['steps']} steps", file=sys.stderr, flush=True)
    told = judge(model, [contents[row] for row in np.flatnonzero(held)])
    return {**_figures(table, held, told, d_as_it_came), "verdicts": len(asked), "seconds": round(time.perf_counter() - begun, 1),
            "field_hit_rate": field_hits(model, table, np.flatnonzero(held)), "baselines": baselines(table, asked, held)}  # fmt: skip


def _trained(tables: Any, base: Path, table: Table, contents: list[str], asked: np.ndarray, work: Path) -> Version:
    said = work / "verdicts.jsonl"
    write_labelled([Labelled(contents[row], not table.is_wrong[row]) for row in asked], said, "preference", tables.train.verdict_words)
    return train_and_publish(tables, tables.train, str(base), str(said), None)


def _figures(table: Table, held: np.ndarray, told: Judged, d_as_it_came: np.ndarray) -> dict[str, float | None]:
    """Return the figures of the held records; an AUROC is None where none of them, or all, are wrong."""
    wrong, came = table.is_wrong[held], ~np.isnan(d_as_it_came)
    figures = {
        "auroc": auroc_of_wrong(wrong, -told.d),
        "auroc_prequential": auroc_of_wrong(table.is_wrong[came], -d_as_it_came[came]),
        "ap": average_precision_score(wrong, -told.d),
        "f1": f1_score(wrong, told.is_held),
        "f1_clean": f1_score(~wrong, ~told.is_held),
        "mcc": matthews_corrcoef(wrong, told.is_held),
    }
    return {name: None if value is None else round(float(value), 4) for name, value in figures.items()}


def _read(content: str) -> Content:
    reading = decode_value(content.encode(), "auto")
    assert isinstance(reading, Content)
    return reading


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dirty", type=Path, required=True)
    parser.add_argument("--clean", type=Path, required=True)
    parser.add_argument("--verdicts", type=int, required=True, help="verdicts in total, over the whole stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-minutes", type=float, default=12.0)
    parser.add_argument("--sampling", choices=["winnow", "random"], default="winnow")
    parser.add_argument("--drop", action="append", default=[], help="column to leave out, such as a row number; may be given again")
    given = parser.parse_args()
    torch.set_num_threads(2)
    try:
        table = read_table(given.dirty, given.clean, given.drop)
        with tempfile.TemporaryDirectory() as place:
            found = run(table, given.verdicts, given.seed, given.budget_minutes, given.sampling, Path(place))
    except WinnowError as error:
        print(f"bench.judgement: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    keep(f"judgement-{given.dirty.parent.name}-{given.verdicts}-{given.seed}", found)


if __name__ == "__main__":
    main()
