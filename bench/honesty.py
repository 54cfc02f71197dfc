"""Simulated worlds with known truth: whether a certificate holds, an interval covers, an easy world is certified.

A world is a stream of records with a share of wrong ones that a model let pass or not; audits are drawn from it by the
flat lottery, and the certificate is made from those alone. The last line is one JSON object.
"""

import sys
from typing import NamedTuple

import numpy as np

from bench.machine import keep
from stream.missed import wrong_passed
from trainer.certify import Certificate, certify, drawn_alike

STREAM_RECORDS = 100_000


class World(NamedTuple):
    """How many audits are drawn in calm times on average, the share of wrong records, and how far apart the model's logits of both lie.

    drifting: in this last share of the stream ten times as many records are wrong, and the lottery draws three times as often.
    """

    audits: int
    wrong: float
    separation: float = 3.0
    drifting: float = 0.0


class Coverage(NamedTuple):
    """Shares of worlds: certified at all; where the bound holds (or nothing is claimed); where the interval covers."""

    certified: float
    holds: float
    interval_covers: float


def coverage(world: World, worlds: int, seed: int, alpha: float, delta: float) -> Coverage:
    """Simulate and count."""
    random = np.random.default_rng(seed)
    certified = holds = covers = 0
    for _ in range(worlds):
        is_late = np.arange(STREAM_RECORDS) >= (1 - world.drifting) * STREAM_RECORDS
        is_wrong = random.random(STREAM_RECORDS) < np.where(is_late, 10 * world.wrong, world.wrong)
        p = 1 / (1 + np.exp(-(random.normal(size=STREAM_RECORDS) + 2 - world.separation * is_wrong)))
        tickets = random.random(STREAM_RECORDS)
        propensity = np.where(is_late, 3.0, 1.0) * world.audits / STREAM_RECORDS
        drawn = np.flatnonzero(tickets < propensity)
        unlabelled = random.choice(p, 2_000)
        alike = drawn[drawn_alike(propensity[drawn].tolist(), random.random(len(drawn)).tolist())]
        found = certify(p[alike], is_wrong[alike], unlabelled, alpha, delta)
        if isinstance(found, Certificate):
            certified += 1
            holds += float(is_wrong[p >= found.threshold].mean()) <= alpha
        else:
            holds += 1
        passes = p >= np.quantile(unlabelled, 0.05)
        estimate = wrong_passed(passes[drawn], is_wrong[drawn], propensity[drawn])
        covers += estimate is not None and estimate[1] <= float(is_wrong[passes].mean()) <= estimate[2]
    return Coverage(certified / worlds, holds / worlds, covers / worlds)


def main() -> None:
    """Run 1,000 worlds of each kind."""
    worlds, alpha, delta = 1_000, 0.01, 0.05
    kinds = {
        "common": World(1_000, 0.05),
        "at the limit": World(2_000, 0.0125),
        "hard to tell": World(1_000, 0.011, 0.0),
        "rare": World(1_000, 0.002, 0.0),
        "too few": World(200, 0.002),
        "drifting": World(2_000, 0.004, 0.0, drifting=0.2),
        "drifting, rare": World(2_000, 0.001, 0.0, drifting=0.2),
    }
    found = {name: coverage(world, worlds, place, alpha, delta)._asdict() for place, (name, world) in enumerate(kinds.items())}
    passed = (
        all(each["holds"] >= 1 - delta - 0.02 and each["interval_covers"] >= 0.93 for each in found.values())
        and found["rare"]["certified"] >= 0.8
        and found["drifting, rare"]["certified"] >= 0.8
        and found["too few"]["certified"] == 0
    )
    result = {
        "worlds": worlds,
        "alpha": alpha,
        "delta": delta,
        **{name.replace(", ", "_").replace(" ", "_"): each for name, each in found.items()},
        "passed": passed,
    }
    keep("honesty", result)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    main()
