"""Any table with its truth, read as a stream: what winnow finds wrong with few verdicts, beside other detectors.

Records come in file order. Three times (after a fifth, three fifths, and all of them) a starter learns from the
unlabelled past, people answer their share of the verdicts about records of that past, and a model is trained and
published as a cycle does. `auroc` is that of the last model on a fifth of the records that nobody is ever asked about,
and that no training reads either: a model that has learned a thousand records by heart would only know them again;
`auroc_prequential` judges every record after the first fifth by the model of its time. The last line is one JSON object.

Of a table that is too long for the minutes given a starter learns from the latest records, the fewer the less time it has, and of
what is judged an even sample is. A table of fewer than some four hundred records has fewer than three stages.
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
from bench.table import Table, evenly, never_asked, read_table
from foundation.errors import DataRefused, WinnowError
from model_registry.registry import Version
from stream.config import GateSettings
from stream.decode import decode_value
from stream.explain import suspects
from stream.live_model import LiveModel, load_live_model
from stream.records import Content
from trainer.config import TrainSettings
from trainer.datasets import Labelled, is_held_out, write_labelled
from trainer.make_starter import make_starter
from trainer.pairs import text_of_content
from trainer.starter import MINIMUM_RECORDS
from trainer.train import train_and_publish

LOWEST = -1e9
STAGES = (0.2, 0.6, 1.0)
STARTER_SHARES = (0.15, 0.2, 0.4)
RECORDS_A_MINUTE = 10_000  # that a starter reads
JUDGED_A_MINUTE = 1_000  # of each that is judged: what comes until the next stage, the fifth that is never asked about
CHOSEN_FROM, MOST_EXPLAINED = 5_000, 500
THREADS = 2
FEWEST_RECORDS = MINIMUM_RECORDS * 1.25  # a tenth of them is never read by a starter


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
    """Return the share of wrong records whose most suspect field is a wrong one, of MOST_EXPLAINED of them."""
    wrong = evenly(places[table.is_wrong[places]], MOST_EXPLAINED)
    if not len(wrong):
        return None
    contents = table.contents()
    found = suspects([_read(contents[place]) for place in wrong], model.scorer, model.rendering, model.evidence)
    column = {name: place for place, name in enumerate(table.columns)}
    blamed = [column.get(fields[0][0]) if fields else None for fields in found]
    hits = [each is not None and bool(table.wrong_RC[place, each]) for place, each in zip(wrong, blamed, strict=True)]
    return round(float(np.mean(hits)), 4)


def choose(model: LiveModel, contents: Sequence[str], free: np.ndarray, count: int, sampling: str) -> np.ndarray:
    """Return the places of `count` records to ask about, of the free ones in random order.

    Winnow's own way draws half by chance, as the flat lottery does, and takes half as its page orders them: the nearest to the threshold.
    """
    if sampling == "random":
        return free[:count]
    by_chance, left = free[: count // 2], free[count // 2 :][:CHOSEN_FROM]
    if not len(left):
        return by_chance
    threshold = np.log(model.threshold) - np.log1p(-model.threshold) if 0 < model.threshold < 1 else 0.0
    nearest = left[np.argsort(np.abs(judge(model, [contents[row] for row in left]).d - threshold), kind="stable")]
    return np.concatenate([by_chance, nearest[: count - len(by_chance)]])


def run(table: Table, verdicts: int, seed: int, minutes: float, sampling: str, place: Path) -> dict[str, Any]:
    """Read the table as a stream once. Raises DataRefused where it is too short for a starter."""
    begun = time.perf_counter()
    rng = np.random.default_rng(seed)
    contents, held = table.contents(), never_asked(len(table.cells), seed)
    ends = [round(len(contents) * share) for share in STAGES]
    most = max(MOST_EXPLAINED, round(minutes * JUDGED_A_MINUTE))
    d_as_it_came = np.full(len(contents), np.nan)
    asked = np.zeros(0, dtype=int)
    asks, model = None, None  # who chooses whom to ask: what the verdicts so far have taught
    for stage, end in enumerate(ends):
        rows = np.flatnonzero(~held[:end])
        if len(rows) < FEWEST_RECORDS and end < len(contents):
            continue
        torch.set_num_threads(THREADS)
        work = place / str(stage)
        work.mkdir()
        tables = tables_in(work, GateSettings(threads=THREADS), TrainSettings(seed=seed))
        starter_minutes = minutes * STARTER_SHARES[stage]
        source, base = work / "past.txt", work / "starter"
        latest = rows[-max(MINIMUM_RECORDS * 20, round(starter_minutes * RECORDS_A_MINUTE)) :]
        source.write_text("\n".join(contents[row] for row in latest) + "\n", encoding="utf-8")
        made = make_starter(tables, str(source), base, starter_minutes, None, seed, len(latest))
        model = load_live_model(train_and_publish(tables, tables.train, str(base), None, None), tables.gate)
        wanted = round(verdicts * STAGES[stage]) - len(asked)
        if wanted:
            free = rng.permutation(np.setdiff1d(rows, asked))
            asked = np.concatenate([asked, choose(asks or model, contents, free, wanted, sampling)])
        if any(not is_held_out(text_of_content(contents[row]), tables.train.held_out_share) for row in asked):
            model = asks = load_live_model(_trained(tables, base, table, contents, asked, work), tables.gate)
        if stage + 1 < len(ends):
            coming = evenly(np.arange(end, ends[stage + 1]), most)
            d_as_it_came[coming] = judge(model, [contents[row] for row in coming]).d
        print(f"{end} records, {len(latest)} read, {len(asked)} verdicts, {made['steps']} steps", file=sys.stderr, flush=True)
    assert model is not None, "the last stage is never left out"
    judged = evenly(np.flatnonzero(held), most)
    if len(judged) < held.sum():
        print(f"{len(judged)} of the {held.sum()} records that nobody is asked about are judged", file=sys.stderr, flush=True)
    is_judged = np.isin(np.arange(len(contents)), judged)
    told = judge(model, [contents[row] for row in judged])
    figures = {**_figures(table, is_judged, told, d_as_it_came), "verdicts": len(asked), "field_hit_rate": field_hits(model, table, judged)}
    return {**figures, "seconds": round(time.perf_counter() - begun, 1), "baselines": baselines(table, asked, held, is_judged)}


def _trained(tables: Any, base: Path, table: Table, contents: list[str], asked: np.ndarray, work: Path) -> Version:
    said = work / "verdicts.jsonl"
    write_labelled([Labelled(contents[row], not table.is_wrong[row]) for row in asked], said, "preference", tables.train.verdict_words)
    return train_and_publish(tables, tables.train, str(base), str(said), None)


def _figures(table: Table, judged: np.ndarray, told: Judged, d_as_it_came: np.ndarray) -> dict[str, float | None]:
    """Return the figures of the records `judged_R`; None where none of them, or all, are wrong."""
    wrong, came = table.is_wrong[judged], ~np.isnan(d_as_it_came)
    found = {
        "auroc": auroc_of_wrong(wrong, -told.d),
        "auroc_prequential": auroc_of_wrong(table.is_wrong[came], -d_as_it_came[came]),
    }
    if wrong.all() or not wrong.any():
        return {**found, "ap": None, "f1": None, "f1_clean": None, "mcc": None}
    figures = {
        "ap": average_precision_score(wrong, -told.d),
        "f1": f1_score(wrong, told.is_held),
        "f1_clean": f1_score(~wrong, ~told.is_held),
        "mcc": matthews_corrcoef(wrong, told.is_held),
    }
    return found | {name: round(float(value), 4) for name, value in figures.items()}


def _read(content: str) -> Content:
    reading = decode_value(content.encode(), "auto")
    assert isinstance(reading, Content)
    return reading


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dirty", type=Path, required=True, help="CSV as it came, the first line names the columns")
    parser.add_argument("--clean", type=Path, required=True, help="CSV of the same rows as they should be, in the same order")
    parser.add_argument("--verdicts", type=int, required=True, help="verdicts in total, over the whole stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget-minutes", type=float, default=12.0, help="of training, over all three stages (12)")
    parser.add_argument("--sampling", choices=["winnow", "random"], default="winnow", help="who is asked about (winnow)")
    parser.add_argument("--drop", action="append", default=[], help="column to leave out, such as a row number; may be given again")
    given = parser.parse_args()
    try:
        if given.verdicts < 0:
            raise DataRefused(f"--verdicts {given.verdicts} is below 0; 0 asks nobody")
        table = read_table(given.dirty, given.clean, given.drop)
        with tempfile.TemporaryDirectory() as place:
            found = run(table, given.verdicts, given.seed, given.budget_minutes, given.sampling, Path(place))
    except WinnowError as error:
        print(f"bench.judgement: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    name = given.dirty.parent.name + ("" if given.dirty.stem == "dirty" else f"-{given.dirty.stem}")
    keep(f"judgement-{name}-{given.verdicts}-{given.seed}" + ("" if given.sampling == "random" else "-winnow"), found)


if __name__ == "__main__":
    main()
