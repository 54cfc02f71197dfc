"""Tables whose errors nobody here looked at: clean tables spoiled by recipes that are drawn by chance, judged by the evidence alone.

A recipe is two to four faults (a unit behind a number, another date, empty cells, typos, values of other records, merged
columns and others), each in one or two columns and with a chance of its own for each cell, from one in thirty to two in five, so that
what is wrong may be as usual as what is right. Of each table the first 2,000 records; a fifth is never asked about, judged, and
no part of what is learned from. Beside it the evidence without trees, and gradient boosting on column figures, of the past alone and of
the whole table, from the same verdicts (`bench.baselines`). `--write` keeps the tables as CSV for `bench.judgement` and judges nothing;
else the last line is one JSON object: AUROC by table, number of verdicts and judge, one figure a draw, null where verdicts of one kind
teach nothing.
"""

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.addresses import data_directory
from bench.baselines import PAST, WHOLE, auroc_of_wrong, boosted, column_features
from bench.changed import changed
from bench.evidence import ROW_NUMBERS, evidence_of
from bench.machine import keep
from bench.table import Table, never_asked, read_table
from stream.values import number_of
from trainer.pairs import RENDERING, rendered
from trainer.weigh import Said

VERDICTS = (20, 50, 100, 300)
LEAST_SHARE, MOST_SHARE, MOST_RECORDS = 1 / 30, 0.4, 2_000
OURS, NO_TREES = "evidence", "evidence without trees"
JUDGES = (OURS, NO_TREES, PAST, WHOLE)
NOTHING = ("", "N/A", "-", "null", "unknown")
UNITS = (" oz", " kg", "%", " min", "m", " USD", "元")

Row = list[str]
Fault = Callable[[Row, int, "Draws"], None]


class Draws(NamedTuple):
    """What a fault draws from: chance by record, what this fault does in this table, and all values of each column."""

    random: Random
    manner: int
    columns: list[list[str]]


def unit(row: Row, place: int, draws: Draws) -> None:
    """Write a unit behind what holds a digit."""
    if any(c.isdecimal() for c in row[place]):
        row[place] += UNITS[draws.manner % len(UNITS)]


def decimals(row: Row, place: int, draws: Draws) -> None:
    """Write numbers with other decimals."""
    number = number_of(row[place])
    if number is not None:
        row[place] = f"{number:.{draws.manner % 3 + 1}f}"


def scaled(row: Row, place: int, draws: Draws) -> None:
    """Write a number in another unit."""
    number = number_of(row[place])
    if number is not None:
        row[place] = f"{number * (10, 100, 1_000, 0.1, 0.001)[draws.manner % 5]:.12g}"


def reversed_parts(row: Row, place: int, _draws: Draws) -> None:
    """Write the parts of a value in the opposite order, as dates and names are."""
    for mark in ("/", "-", ":", ", ", " "):
        if mark in row[place]:
            row[place] = mark.join(row[place].split(mark)[::-1])
            return


def marks(row: Row, place: int, draws: Draws) -> None:
    """Write other marks between the parts of a value."""
    old, new = (("-", "/"), (" ", "_"), (":", "."), (".", ","), (" ", ""))[draws.manner % 5]
    row[place] = row[place].replace(old, new)


def upper(row: Row, place: int, _draws: Draws) -> None:
    """Write capitals."""
    row[place] = row[place].upper()


def abbreviated(row: Row, place: int, _draws: Draws) -> None:
    """Cut long words."""
    row[place] = " ".join(f"{word[:3]}." if len(word) > 4 else word for word in row[place].split(" "))  # noqa: PLR2004


def missing(row: Row, place: int, draws: Draws) -> None:
    """Leave nothing, or a word for nothing."""
    row[place] = NOTHING[draws.manner % len(NOTHING)]


def typo(row: Row, place: int, draws: Draws) -> None:
    """Replace, drop or double a character."""
    value = row[place]
    if value:
        at = draws.random.randrange(len(value))
        row[place] = (
            value[:at] + draws.random.choice(("", "x", value[at] * 2, draws.random.choice("abcdefghij0123456789"))) + value[at + 1 :]
        )


def another(row: Row, place: int, draws: Draws) -> None:
    """Take the value of another record."""
    row[place] = draws.random.choice(draws.columns[place])


def constant(row: Row, place: int, draws: Draws) -> None:
    """Write the value that some software writes by default."""
    values = draws.columns[place]
    row[place] = values[draws.manner % len(values)]


def merged(row: Row, place: int, _draws: Draws) -> None:
    """Write two columns in one and leave the other empty."""
    other = (place + 1) % len(row)
    row[place], row[other] = f"{row[place]} {row[other]}".strip(), ""


def slipped(row: Row, place: int, _draws: Draws) -> None:
    """Exchange two columns."""
    other = (place + 1) % len(row)
    row[place], row[other] = row[other], row[place]


FAULTS: tuple[Fault, ...] = (
    unit, decimals, scaled, reversed_parts, marks, upper, abbreviated, missing, missing, typo, typo, another, another, constant,
    merged, slipped,
)  # fmt: skip


def spoiled(clean: Table, seed: int) -> tuple[Table, list[str]]:
    """Return the table with faults drawn by `seed`, and what they are in words, with the share of the records that each changed."""
    random = Random(seed)
    columns = [list(column) for column in zip(*clean.cells, strict=True)]
    rows = [list(row) for row in clean.cells]
    faults, said = random.randint(2, 4), list[str]()
    while len(said) < faults:
        fault = random.choice(FAULTS)
        places = random.sample(range(len(columns)), random.randint(1, 2))
        share = float(np.exp(random.uniform(np.log(LEAST_SHARE), np.log(MOST_SHARE))))
        draws = Draws(random, random.randrange(1_000), columns)
        before = [list(row) for row in rows]
        for row in rows:
            for place in places:
                if random.random() < share:
                    fault(row, place, draws)
        changed = np.mean([row != was for row, was in zip(rows, before, strict=True)])
        if changed:  # a unit behind what is no number is no fault
            said.append(f"{fault.__name__} in {', '.join(clean.columns[place] for place in places)}: {changed:.3f}")
    cells = [tuple(row) for row in rows]
    wrong_RC = np.array([[one != other for one, other in zip(row, was, strict=True)] for row, was in zip(cells, clean.cells, strict=True)])
    return Table(clean.columns, cells, wrong_RC), said


def clean_tables() -> dict[str, Table]:
    """Return the true side of each table at hand, and the Chinese divisions, the first records of each."""
    data = data_directory()
    files = {name: (data / "errors" / name / "clean.csv", dropped) for name, dropped in ROW_NUMBERS.items()}
    files["adcodes"] = (data / "zh" / "adcodes.csv", [])
    whole = {name: read_table(path, path, dropped) for name, (path, dropped) in files.items()}
    return {name: Table(each.columns, each.cells[:MOST_RECORDS], each.wrong_RC[:MOST_RECORDS]) for name, each in whole.items()}


def judged(table: Table, seeds: int) -> dict[str, Any]:
    """Return the AUROC of evidence, with and without trees, and of gradient boosting by number of verdicts, one figure a draw."""
    records = rendered(table.contents(), RENDERING)
    features_RF = {name: column_features(table, name) for name in (PAST, WHOLE)}
    found: dict[str, Any] = {}
    for verdicts in VERDICTS:
        figures: dict[str, list[float | None]] = {name: [] for name in JUDGES}
        for seed in range(seeds):
            held = never_asked(len(records), seed)
            asked = np.random.default_rng(seed).permutation(np.flatnonzero(~held))[:verdicts]
            said = [Said(records[row], not table.is_wrong[row]) for row in asked]
            past, apart = ([records[row] for row in np.flatnonzero(rows)] for rows in (~held, held))
            for name, names in ((OURS, {}), (NO_TREES, {"trainer.grow.FEWEST_OF_EACH": 10**9})):
                with changed(names):
                    figures[name].append(auroc_of_wrong(table.is_wrong[held], -evidence_of(past, said, seed).of_all(apart)))
            for name, features in features_RF.items():
                figures[name].append(auroc_of_wrong(table.is_wrong[held], boosted(features, table, asked, held)))
        found[str(verdicts)] = figures
    return found


def write(table: Table, clean: Table, place: Path) -> None:
    """Write both sides as CSV."""
    place.mkdir(parents=True, exist_ok=True)
    for name, cells in (("dirty", table.cells), ("clean", clean.cells)):
        with (place / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([table.columns, *cells])


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", type=int, default=4, help="of each table")
    parser.add_argument("--first", type=int, default=0, help="number of the first recipe")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the verdicts")
    parser.add_argument("--write", type=Path, help="keep each table in a directory of its own under this one, and judge nothing")
    given = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {}
    for name, clean in clean_tables().items():
        for recipe in range(given.first, given.first + given.recipes):
            table, said = spoiled(clean, recipe)
            if given.write:
                write(table, clean, given.write / f"{name}-{recipe}")
                continue
            label = f"{name}, {recipe}"
            found[label] = {"wrong": round(float(table.is_wrong.mean()), 3), "faults": said, **judged(table, given.seeds)}
            print(f"{label}: {found[label]}", file=sys.stderr, flush=True)
    if found:
        keep("spoiled", {"above": {str(count): _above(found, str(count)) for count in VERDICTS}, **found})


def _above(found: dict[str, Any], verdicts: str) -> dict[str, str]:
    """Return in how many draws the evidence is above each other judge, of those in which both say something."""
    counted = {}
    for name in (NO_TREES, PAST, WHOLE):
        pairs = [(a, b) for each in found.values() for a, b in zip(each[verdicts][OURS], each[verdicts][name], strict=True)]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        counted[name] = f"{sum(a > b for a, b in known)} of {len(known)}"
    return counted


if __name__ == "__main__":
    main()
