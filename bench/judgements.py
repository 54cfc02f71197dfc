"""bench.judgement over the tables of ../shared/data/errors, each number of verdicts and seed; means over the seeds.

The last line is one JSON object by table and number of verdicts.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

import numpy as np

from bench.addresses import data_directory
from bench.evidence import ROW_NUMBERS
from bench.machine import keep

FIGURES = ("auroc", "auroc_prequential", "ap", "f1", "f1_clean", "mcc", "field_hit_rate", "seconds")


def one(name: str, verdicts: int, seed: int, minutes: float, sampling: str) -> dict[str, Any]:
    """Run bench.judgement in a process of its own and return what it found."""
    place = data_directory() / "errors" / name
    dropped = [option for column in ROW_NUMBERS[name] for option in ("--drop", column)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.judgement", "--dirty", str(place / "dirty.csv"), "--clean", str(place / "clean.csv"), *dropped,
         "--verdicts", str(verdicts), "--seed", str(seed), "--budget-minutes", str(minutes), "--sampling", sampling],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run all and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=",".join(ROW_NUMBERS))
    parser.add_argument("--verdicts", default="0,20,100,300")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget-minutes", type=float, default=12.0)
    parser.add_argument("--sampling", choices=["winnow", "random"], default="random")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name in given.tables.split(","):
        for verdicts in map(int, given.verdicts.split(",")):
            runs = [one(name, verdicts, seed, given.budget_minutes, given.sampling) for seed in range(given.seeds)]
            known = {key: [run[key] for run in runs if run[key] is not None] for key in FIGURES}
            means = {key: round(float(np.mean(values)), 4) if values else None for key, values in known.items()}
            others = runs[0]["baselines"].keys()
            beside = {key: [run["baselines"][key] for run in runs] for key in others}
            found[f"{name}, {verdicts}"] = {**means, "auroc_by_seed": [run["auroc"] for run in runs], "baselines": beside}
            print(f"{name}, {verdicts}: {found[f'{name}, {verdicts}']}", file=sys.stderr, flush=True)
    keep("judgement", {"sampling": given.sampling, "budget_minutes": given.budget_minutes, **found})


if __name__ == "__main__":
    main()
