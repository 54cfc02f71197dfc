"""What each part of the evidence gives: the same records and verdicts with one thing left out, or done otherwise.

Evidence alone, AUROC on records that no memory was made of: tables of `../shared/data/errors`, where they are there, on the fifth that
nobody is asked about; twins on `strangers`, and on `later`, kinds of error that nobody has met. Means over seeds. The rows of
docs/experiments/judgement.md that today's code can repeat. The last line is one JSON object by way.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bench.addresses import data_directory
from bench.changed import changed
from bench.evidence import ROW_NUMBERS, evidence_of
from bench.machine import keep
from bench.starters import readable
from bench.table import never_asked, read_table
from demo.errors import LATER_ERRORS
from demo.twins import UNREADABLE, Twin, take
from stream import memory
from stream.memory import Seen
from stream.render import Rendered
from trainer.calibrate import auroc_of
from trainer.choices import CHOICES, Choice
from trainer.pairs import RENDERING, rendered
from trainer.weigh import Said

VERDICTS = (20, 100, 300)
STREAM, STRANGERS = 4_000, 1_500
_seen: Callable[..., Seen] = memory._seen  # noqa: SLF001 - what is changed here is no part of the program


def _without_parts(*told: Any) -> Seen:
    return _seen(*told)._replace(parted=0, strange=0)


def _without_amid(*told: Any) -> Seen:
    return _seen(*told)._replace(amid=0)


def _the_best_alone(losses_CN: np.ndarray) -> np.ndarray:
    """Hear the choice alone that makes left-out verdicts the least improbable."""
    alone: np.ndarray = np.eye(len(losses_CN))[losses_CN.sum(axis=1).argmin()]
    return alone


def _chosen_from(*choices: Choice) -> dict[str, Any]:
    return {"trainer.choices.CHOICES": choices, "trainer.weigh.CHOICES": choices}


WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no word of what comes beside what": {"stream.agreement.MOST_PREDICTORS": 0},
    "one rule a field, not four": {"stream.agreement.MOST_PREDICTORS": 1},
    "how far apart at worst, not on the average": {"stream.memory._seen": _without_amid},
    "nothing is said of parts of values": {"stream.memory._seen": _without_parts},
    "nobody vouches for what stands beside what": {"trainer.weigh.VOUCHES_BELOW": -1.0},
    "vouching has full room from the first verdict on": {"trainer.weigh.VOUCHING_ENOUGH": 1},
    "no trees": {"trainer.grow.FEWEST_OF_EACH": 10**9},
    "trees from four verdicts of each kind on": {"trainer.grow.FEWEST_OF_EACH": 4},
    "trees as loud as left-out verdicts say, no doubt before": {"trainer.grow.PRIOR": 0.01},
    "trees of three steps": {"trainer.grow.DEPTH": 3},
    "no value is a sign by itself": {"trainer.weigh.VALUES_SHARE": 0.0},
    "values have the room of other signs": {"trainer.weigh.VALUES_SHARE": 1.0, "trainer.weigh.ENOUGH": 1},
    "no form is a sign": {"trainer.weigh.FORMS_ENOUGH": 1e9},
    "signs are not scaled by their spread": {"trainer.weigh.LEAST_SCALE": 1.0},
    "no sparse choice": _chosen_from(*(choice for choice in CHOICES if not choice.is_sparse)),
    "sparse choices alone": _chosen_from(*(choice for choice in CHOICES if choice.is_sparse)),
    "the best choice alone": {"trainer.choices._shares": _the_best_alone},
    "the stream counts three times the verdicts": _chosen_from(Choice(3.0)),
    "as much as the verdicts": _chosen_from(Choice(1.0)),
    "a fiftieth of them": _chosen_from(Choice(0.02)),
}


class Task(NamedTuple):
    """A stream, whether its records are right, places to ask about in a random order, and strangers by name, with their truth."""

    stream: list[Rendered]
    is_right: np.ndarray
    order: np.ndarray
    strangers: dict[str, tuple[list[Rendered], np.ndarray]]


def of_table(name: str, seed: int) -> Task | None:
    """Return a table as a task; None where there is none."""
    place = data_directory() / "errors" / name
    if not place.is_dir():
        return None
    table = read_table(place / "dirty.csv", place / "clean.csv", ROW_NUMBERS[name])
    records, held = rendered(table.contents(), RENDERING), never_asked(len(table.cells), seed)
    known, apart = np.flatnonzero(~held), np.flatnonzero(held)
    order = np.random.default_rng(seed).permutation(len(known))
    return Task(
        [records[row] for row in known], ~table.is_wrong[known], order, {name: ([records[row] for row in apart], ~table.is_wrong[apart])}
    )


def of_twins(seed: int) -> Task:
    """Return a stream of twins as a task."""
    known = readable(STREAM, seed)
    later = [twin for twin in take(STRANGERS, seed + 2_000_003, kinds=tuple(LATER_ERRORS)) if twin.truth.kind != UNREADABLE]
    strangers = {"strangers": _known(readable(STRANGERS, seed + 1_000_003)), "later": _known(later)}
    stream, is_right = _known(known)
    return Task(stream, is_right, np.random.default_rng(seed).permutation(len(stream)), strangers)


def _known(twins: list[Twin]) -> tuple[list[Rendered], np.ndarray]:
    return rendered([twin.value.decode() for twin in twins], RENDERING), np.array([not twin.truth.is_wrong for twin in twins])


def one(task: Task, verdicts: int, names: dict[str, Any], seed: int) -> dict[str, float]:
    """Weigh the evidence in one way and judge the strangers."""
    said = [Said(task.stream[row], bool(task.is_right[row])) for row in task.order[:verdicts]]
    with changed(names):
        evidence = evidence_of(task.stream, said, seed)
        return {name: auroc_of(evidence.of_all(records), truth) for name, (records, truth) in task.strangers.items()}


def main() -> None:
    """Weigh in every way and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--verdicts", default=",".join(map(str, VERDICTS)))
    parser.add_argument("--ways", default=";".join(WAYS), help="some of them, with semicolons between")
    given = parser.parse_args()
    seeds = range(given.seeds)
    tables = [(seed, of_table(name, seed)) for seed in seeds for name in ROW_NUMBERS]
    tasks = [(seed, task) for seed, task in tables if task is not None] + [(seed, of_twins(seed)) for seed in seeds]
    found: dict[str, Any] = {}
    for way in given.ways.split(";"):
        areas: dict[str, list[float]] = {}
        for verdicts in map(int, given.verdicts.split(",")):
            for seed, task in tasks:
                for name, area in one(task, verdicts, WAYS[way], seed).items():
                    areas.setdefault(f"{name}, {verdicts}", []).append(area)
        found[way] = {name: round(float(np.mean(each)), 4) for name, each in areas.items()}
        print(f"{way}: {found[way]}", file=sys.stderr, flush=True)
    keep("evidence-parts", {"seeds": given.seeds, **found})


if __name__ == "__main__":
    main()
