"""Corruptions learned from what people called wrong, beside generic ones alone: whether training on them judges better.

`none` trains without learned edits, `guessed` with those that winnow guesses (trainer/edits.py), `corrected` with those that it finds where
every record that was called wrong was corrected, too (tables alone); a number after a colon is the largest share of the contrastive pairs'
wrong halves that have one. Tables of `../shared/data/errors` and twins of the demo, verdicts at random, 5 % of those on twins mistaken;
AUROC of the text alone and of text and evidence together, on a fifth of the table that nobody is asked about, on strangers among the twins,
and on twins with kinds of error that nobody has met (`later`). The last line is one JSON object, means over the seeds.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.addresses import data_directory
from bench.changed import changed
from bench.evidence import ROW_NUMBERS
from bench.machine import keep
from bench.starters import readable, tables_in
from bench.table import never_asked, read_table
from demo.errors import LATER_ERRORS
from demo.twins import UNREADABLE, Twin, take
from stream.config import GateSettings
from trainer.bases import encoder_of, load_base
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.corrupt import MOST_EDITED
from trainer.datasets import Labelled, is_held_out
from trainer.learned import d_of, d_with
from trainer.make_starter import make_starter
from trainer.pairs import RENDERING, encode_labelled, text_of_content
from trainer.train import learn_from, words_of, workplace

NONE, CORRECTED = "none", "corrected"
WAYS = (NONE, "guessed", CORRECTED)
TWINS, STREAM, STRANGERS, MISTAKEN_SHARE = "twins", 4_000, 3_000, 0.05


class Task(NamedTuple):
    """A stream, what is said of some of it, and records to judge, by name."""

    past: list[str]
    said: list[Labelled]
    strangers: dict[str, list[Labelled]]


def of_table(name: str, verdicts: int, seed: int) -> Task:
    """Return a table as a task."""
    place = data_directory() / "errors" / name
    dirty, clean = place / "dirty.csv", place / "clean.csv"
    table = read_table(dirty, clean, ROW_NUMBERS[name])
    right = table._replace(cells=read_table(clean, clean, ROW_NUMBERS[name]).cells).contents()  # under the names that the stream has
    contents, held = table.contents(), never_asked(len(table.cells), seed)
    asked = np.random.default_rng(seed).permutation(np.flatnonzero(~held))[:verdicts]
    said = [Labelled(contents[row], not table.is_wrong[row], correction=right[row] if table.is_wrong[row] else "") for row in asked]
    strangers = [Labelled(contents[row], not table.is_wrong[row]) for row in np.flatnonzero(held)]
    return Task([content for content, is_held in zip(contents, held, strict=True) if not is_held], said, {"strangers": strangers})


def of_twins(verdicts: int, seed: int) -> Task:
    """Return twins as a task; what is said of a record is mistaken now and then, and nobody corrects one."""
    known, rng = readable(STREAM, seed), np.random.default_rng(seed)
    asked = [known[row] for row in rng.permutation(len(known))[:verdicts]]
    is_mistaken = rng.random(verdicts) < MISTAKEN_SHARE
    said = [each._replace(is_right=each.is_right != flipped) for each, flipped in zip(_known(asked), is_mistaken, strict=True)]
    later = [twin for twin in take(STRANGERS, seed + 2_000_003, kinds=tuple(LATER_ERRORS)) if twin.truth.kind != UNREADABLE]
    strangers = {"strangers": _known(readable(STRANGERS, seed + 1_000_003)), "later": _known(later)}
    return Task([twin.value.decode() for twin in known], said, strangers)


def _known(twins: Sequence[Twin]) -> list[Labelled]:
    return [Labelled(twin.value.decode(), not twin.truth.is_wrong) for twin in twins]


def one(task: Task, ways: Sequence[str], minutes: float, seed: int, place: Path) -> dict[str, float]:
    """Train a starter once and a model in each way; one seed."""
    settings = TrainSettings(seed=seed)
    source = place / "past.txt"
    source.write_text("\n".join(task.past) + "\n", encoding="utf-8")
    made = make_starter(tables_in(place, GateSettings(), settings), str(source), place / "starter", minutes, None, seed, len(task.past))
    learn = [each for each in task.said if not is_held_out(text_of_content(each.content), settings.held_out_share)]
    test = [each for each in task.said if is_held_out(text_of_content(each.content), settings.held_out_share)]
    found = {"steps": float(made["steps"]), "wrong": float(sum(not each.is_right for each in learn))}
    for way in ways:
        if way.startswith(CORRECTED) and not any(each.correction for each in learn):
            continue
        what, _, share = way.partition(":")
        heard = learn if what == CORRECTED else [each._replace(correction="") for each in learn]
        base = load_base(str(place / "starter"))
        encoder = encoder_of(base, words_of(base, settings), settings.max_length)
        otherwise: dict[str, Any] = {"trainer.corrupt.MOST_EDITED": float(share or MOST_EDITED)}
        if what == NONE:
            otherwise = {"trainer.train.edits_of": lambda _wrong, _stream, _seed: {}}
        with changed(otherwise), workplace(settings) as work:
            learned = learn_from(base, encoder, heard, test, task.past, settings, work, is_measured_once=True)
            learned.saved.reloaded.result()  # before its files are gone
        for name, strangers in task.strangers.items():
            seen = encode_labelled(strangers, encoder, RENDERING)
            truth = np.array([record.is_right for record in seen.records], dtype=bool)
            found[f"{name}, {way}, text"] = auroc_of(d_of(learned.scorer, seen.ids), truth)
            found[f"{name}, {way}, with evidence"] = auroc_of(d_with(learned.scorer, learned.evidence, seen), truth)
    return {name: round(float(figure), 4) for name, figure in found.items()}


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join([*ROW_NUMBERS, TWINS]))
    parser.add_argument("--verdicts", default="20,100")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1.0, help="of the starter")
    given = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {}
    for name in given.tasks.split(","):
        for verdicts in map(int, given.verdicts.split(",")):
            runs = []
            for seed in range(given.seeds):
                task = of_twins(verdicts, seed) if name == TWINS else of_table(name, verdicts, seed)
                with tempfile.TemporaryDirectory() as work:
                    runs.append(one(task, given.ways.split(","), given.minutes, seed, Path(work)))
                print(f"{name}, {verdicts} verdicts, seed {seed}: {json.dumps(runs[-1])}", file=sys.stderr, flush=True)
            found[f"{name}, {verdicts}"] = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
    keep("channel", {"minutes": given.minutes, "seeds": given.seeds, **found})


if __name__ == "__main__":
    main()
