"""What a twin said before, in the prompt: the text alone, without a verdict, beside the same text after the twin's last record.

An experiment: the gate keeps no state, so none of this can be served. The past is the record of the same key that came last in the same
stream, right or wrong; where there is none, the text is the record alone. Corruptions change the record, never its past. A starter with
the past has twice the tokens a step, so one without it is asked at as many steps and at as many seconds. AUROC on twins of another
stream, all of them (`strangers`, and `later` for kinds of error that no training had) and those that have a past. The last line is
one JSON object, means over the seeds and each seed's own.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.changed import changed
from bench.machine import keep
from demo.errors import LATER_ERRORS
from demo.twins import UNREADABLE, Twin, take
from stream.decode import decode_value
from stream.records import Content
from stream.render import Field, Rendered, render
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.corrupt import Corrupter
from trainer.starter import Plan, train_starter
from trainer.train import scorer_of

UNLABELLED, STRANGERS, ASKED = 6_000, 8_000, 4_000
NOW = "\nnow\n"


class PastCorrupter(Corrupter):
    """Corrupts a record behind its past."""

    def corrupt(self, record: Rendered) -> str:
        """Return the record's text with something wrong in it behind a past that stays."""
        past, between, text = record.text.rpartition(NOW)
        first = len(past) + len(between)
        fields = tuple(Field(field.path, field.start - first, field.end - first) for field in record.fields)
        return past + between + super().corrupt(Rendered(text, fields))


def behind_its_past(twins: Sequence[Twin]) -> list[Rendered]:
    """Return readable twins as the model reads them, each after what its key said last."""
    last: dict[bytes, str] = {}
    found = []
    for twin, record in _read(twins):
        before = last.get(twin.key)
        last[twin.key] = record.text
        if before is None:
            found.append(record)
            continue
        first = len(before) + len(NOW)
        fields = tuple(Field(field.path, field.start + first, field.end + first) for field in record.fields)
        found.append(Rendered(before + NOW + record.text, fields))
    return found


def alone(twins: Sequence[Twin]) -> list[Rendered]:
    """Return readable twins as the model reads them."""
    return [record for _, record in _read(twins)]


def _read(twins: Sequence[Twin]) -> list[tuple[Twin, Rendered]]:
    readings = [(twin, decode_value(twin.value, "auto")) for twin in twins if twin.truth.kind != UNREADABLE]
    return [(twin, render(content)) for twin, content in readings if isinstance(content, Content)]


def one(steps: int, seed: int, *, has_past: bool) -> dict[str, float]:
    """Train one starter and ask it about the latest twins of other streams."""
    shown = behind_its_past if has_past else alone
    begun = time.monotonic()
    with changed({"trainer.joint.Corrupter": PastCorrupter} if has_past else {}):
        made = train_starter(shown(take(UNLABELLED, seed)), TrainSettings().verdict_words, Plan(steps=steps, seed=seed))
    found = {"seconds": time.monotonic() - begun}
    scorer = scorer_of(made.model.reward.eval(), made.encoder)
    streams = {"strangers": take(STRANGERS, seed + 1_000_003), "later": take(STRANGERS, seed + 2_000_003, kinds=tuple(LATER_ERRORS))}
    for name, twins in streams.items():
        records, known = shown(twins)[-ASKED:], [twin for twin, _ in _read(twins)][-ASKED:]
        rewards_N2 = scorer.rewards([ids or [] for ids in scorer.encoder.encode([record.text for record in records])])
        d, is_right = rewards_N2[:, 0] - rewards_N2[:, 1], np.array([not twin.truth.is_wrong for twin in known])
        with_past = np.array([NOW in record.text for record in behind_its_past(twins)[-ASKED:]])
        found[name] = auroc_of(d, is_right)
        found[f"{name}_with_past"] = auroc_of(d[with_past], is_right[with_past])
    return {key: round(float(value), 4) for key, value in found.items()}


def main() -> None:
    """Train each way with every seed and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    ways = {"alone": (given.steps, False), "alone, twice the steps": (2 * given.steps, False), "behind its past": (given.steps, True)}
    for name, (steps, has_past) in ways.items():
        runs = [one(steps, seed, has_past=has_past) for seed in range(given.seeds)]
        found[name] = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]} | {"runs": runs}
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    keep("past", {"steps": given.steps, **found})


if __name__ == "__main__":
    main()
