"""Whom to ask: ways to choose the records that people answer, and how much is learned from as many answers.

Tables with their truth are read as a stream: after a fifth, three fifths and all of it, people answer their share of the verdicts about
the past, and the evidence is weighed again. A fifth of the records is never asked about; AUROC is on it. Half of what is asked is drawn by
chance in every way but `chance` itself, where all is: the floor without which nobody knows what passes. The other half: the least sure
(`uncertain`), the most suspect (`suspect`), the least sure of each group that looks alike, group after group (`groups`, as the page tells
records apart: suspect field and the pattern of its value), and by how much an answer would narrow down a logistic regression on the signs
(`design`, D-optimal: both unsure and unlike what has been asked). The last line is one JSON object: mean AUROC by table, number of
verdicts and way, and each draw's.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit
from sklearn.feature_extraction import DictVectorizer

from bench.addresses import data_directory
from bench.baselines import auroc_of_wrong
from bench.evidence import ROW_NUMBERS, evidence_of
from bench.machine import keep
from bench.spoiled import clean_tables, spoiled
from bench.table import Table, never_asked, read_table
from review.pattern import pattern_of
from stream.evidence import Evidence, signs_of
from stream.memory import Memory
from stream.render import Rendered
from trainer.pairs import RENDERING, rendered
from trainer.weigh import Said

VERDICTS = (20, 100)
STAGES = (0.2, 0.6, 1.0)
BY_CHANCE = 0.5
ROOM = 1.0  # of a weight of a sign before anybody was asked, in nats


class Known(NamedTuple):
    """What is known when people are asked: the free records, what the evidence says of each, those answered, and all of the past."""

    free: list[Rendered]
    nats: np.ndarray
    answered: list[Rendered]
    past: list[Rendered]
    evidence: Evidence


def _by_order(order: np.ndarray, count: int) -> list[int]:
    return [int(place) for place in order[:count]]


def uncertain(known: Known, count: int) -> list[int]:
    """Return the least sure: in the middle of what is said of the free records."""
    return _by_order(np.argsort(np.abs(known.nats - np.median(known.nats))), count)


def suspect(known: Known, count: int) -> list[int]:
    """Return the most suspect."""
    return _by_order(np.argsort(known.nats), count)


def groups(known: Known, count: int) -> list[int]:
    """Return the least sure of each group that looks alike, then the second of each, and so on."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    turns: list[tuple[int, int, int]] = []
    for place in uncertain(known, len(known.free)):
        record = known.free[place]
        blamed = known.evidence.by_field(record)
        path = max(blamed, key=lambda each: blamed[each])
        group = path, pattern_of(next(record.text[field.start : field.end] for field in record.fields if field.path == path))
        turns.append((seen[group], len(turns), place))
        seen[group] += 1
    return [place for _, _, place in sorted(turns)[:count]]


def design(known: Known, count: int) -> list[int]:
    """Return, one after the other, where an answer narrows down a logistic regression on the signs the most."""
    memory = Memory.of(known.past)
    signs = [signs_of(*memory.look(record)) for record in [*known.free, *known.answered]]
    features_NS = DictVectorizer(sparse=False).fit_transform(signs)
    features_NS = features_NS / np.maximum(features_NS.std(axis=0), 0.05)
    p = expit(known.nats - np.median(known.nats))
    free_FS = features_NS[: len(known.free)] * np.sqrt(p * (1 - p))[:, None]
    asked_AS = features_NS[len(known.free) :]
    inverse_SS = np.linalg.inv(np.eye(features_NS.shape[1]) / ROOM**2 + asked_AS.T @ asked_AS / 4)
    chosen: list[int] = []
    for _ in range(count):
        gain = np.einsum("fs,st,ft->f", free_FS, inverse_SS, free_FS, optimize=True)
        gain[chosen] = -1.0
        best = int(gain.argmax())
        chosen.append(best)
        along_S = inverse_SS @ free_FS[best]
        inverse_SS -= np.outer(along_S, along_S) / (1 + free_FS[best] @ along_S)
    return chosen


Way = Callable[[Known, int], list[int]]
WAYS: dict[str, Way | None] = {"chance": None, "uncertain": uncertain, "suspect": suspect, "groups": groups, "design": design}


def one(table: Table, verdicts: int, way: Way | None, seed: int) -> float | None:
    """Read the table as a stream once and return the AUROC on the fifth that nobody is asked about."""
    records, held = rendered(table.contents(), RENDERING), never_asked(len(table.cells), seed)
    random = np.random.default_rng(seed)
    asked: list[int] = []
    for share in STAGES:
        end = round(len(records) * share)
        rows = np.flatnonzero(~held[:end])
        past = [records[row] for row in rows]
        free = random.permutation(np.setdiff1d(rows, asked))
        count = round(verdicts * share) - len(asked)
        by_chance = count if way is None else round(count * BY_CHANCE)
        new, free = list(free[:by_chance]), free[by_chance:]
        if way is not None:
            evidence = evidence_of(past, _said(table, records, asked), seed)
            left = [records[row] for row in free]
            known = Known(left, evidence.of_all(left), [records[row] for row in [*asked, *new]], past, evidence)
            new += [free[place] for place in way(known, count - by_chance)]
        asked += [int(row) for row in new]
    told = evidence_of(past, _said(table, records, asked), seed)
    return auroc_of_wrong(table.is_wrong[held], -np.array([told.of(records[row]) for row in np.flatnonzero(held)]))


def _said(table: Table, records: list[Rendered], asked: list[int]) -> list[Said]:
    return [Said(records[row], not table.is_wrong[row]) for row in asked]


def tables(recipes: int) -> dict[str, Table]:
    """Return the tables at hand, and the first recipes of spoiled ones."""
    found = {}
    for name, dropped in ROW_NUMBERS.items():
        place = data_directory() / "errors" / name
        found[name] = read_table(place / "dirty.csv", place / "clean.csv", dropped)
    for name, clean in clean_tables().items():
        for recipe in range(recipes):
            found[f"{name}, {recipe}"] = spoiled(clean, recipe)[0]
    return found


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", type=int, default=1, help="of each spoiled table")
    parser.add_argument("--verdicts", default=",".join(map(str, VERDICTS)))
    parser.add_argument("--ways", default=",".join(WAYS))
    given = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {}
    for name, table in tables(given.recipes).items():
        for verdicts in map(int, given.verdicts.split(",")):
            areas = {way: [one(table, verdicts, WAYS[way], seed) for seed in range(given.seeds)] for way in given.ways.split(",")}
            found[f"{name}, {verdicts}"] = {way: _mean(each) for way, each in areas.items()} | {"draws": areas}
            print(f"{name}, {verdicts}: {found[f'{name}, {verdicts}']}", file=sys.stderr, flush=True)
    means = {
        f"{way}, {verdicts}": _mean([each[way] for name, each in found.items() if name.endswith(f", {verdicts}")])
        for way in given.ways.split(",")
        for verdicts in given.verdicts.split(",")
    }
    keep("asking", {"means": means, **found})


def _mean(areas: list[float | None]) -> float | None:
    known = [each for each in areas if each is not None]
    return round(float(np.mean(known)), 4) if known else None


if __name__ == "__main__":
    main()
