"""Two records repeated ten thousand times: what training on them does, when somebody insists.

One starter. Trained on the mission's two records, 10,000 times each, which the check refuses by default (`train.check = "warn"` here); and
on 200 different verdicts, as `winnow train` does by itself. Each is asked about twins that nobody has seen: AUROC, the
spread of d over them, how many it would call wrong, and d of the two records themselves. The last line is one JSON object.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.machine import keep
from bench.model import choose
from bench.starters import readable, starter_in, tables_in
from demo.summary import evaluate
from demo.twins import Twin
from foundation.errors import DataRefused
from model_registry.registry import Version
from stream.config import GateSettings
from stream.decode import decode_value
from stream.live_model import load_live_model
from stream.records import Content
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.datasets import Labelled, write_labelled
from trainer.train import train_and_publish

TWO = (
    Labelled("北京市朝阳区和平路12号,邮编:100020,联系电话:13812345678", is_right=True),
    Labelled("北京市朝阳区和平路12号,邮编:100020,联系电话:ddee", is_right=False),
)
STREAM, STRANGERS, DIFFERENT = 4_000, 3_000, 200


def told_of(version: Version, strangers: list[Twin]) -> dict[str, Any]:
    """Return what a version makes of strangers and of the two records."""
    model = load_live_model(version, GateSettings())

    def d_of(values: list[bytes]) -> np.ndarray:
        contents = [content for value in values if isinstance(content := decode_value(value, "auto"), Content)]
        return np.array([d for d in model.d_of(contents) if d is not None])

    d, is_right = d_of([twin.value for twin in strangers]), np.array([not twin.truth.is_wrong for twin in strangers])
    return {
        "auroc": round(auroc_of(d, is_right), 4),
        "d_spread": round(float(np.std(d)), 3),
        "called_wrong": round(float((d < 0).mean()), 4),
        "d_of_the_two": [round(float(each), 2) for each in d_of([record.content.encode() for record in TWO])],
    }


def main() -> None:
    """Run all and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--times", type=int, default=10_000)
    parser.add_argument("--epochs", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        tables = tables_in(place, GateSettings(), TrainSettings(evidence=False))
        twins, strangers = readable(STREAM, 0), readable(STRANGERS, 1_000_003)
        starter, _ = starter_in(place, tables, twins, steps=given.steps)
        cold = train_and_publish(tables, tables.train, str(starter), None, None)
        found: dict[str, Any] = {"before": told_of(cold, strangers)}
        repeated, different = place / "repeated.jsonl", place / "different.jsonl"
        write_labelled(list(TWO) * given.times, repeated, "binary", tables.train.verdict_words)
        try:
            train_and_publish(tables, tables.train, str(starter), str(repeated), None)
        except DataRefused as refused:
            found["refused"] = str(refused)
        insisting = {"check": "warn", "epochs": given.epochs, "contrastive_per_verdict": 0.0, "held_out_share": 0.0}
        by_force = tables.train.model_copy(update=insisting)
        found["two_records"] = told_of(train_and_publish(tables, by_force, str(starter), str(repeated), None), strangers)
        places = choose(twins, evaluate(cold, tables.gate, twins).p_chosen, DIFFERENT, 0)
        said = [Labelled(twins[at].value.decode(), not twins[at].truth.is_wrong) for at in places]
        write_labelled(said, different, "binary", tables.train.verdict_words)
        found["different_records"] = told_of(train_and_publish(tables, tables.train, str(starter), str(different), None), strangers)
    keep("two-records", {"steps": given.steps, "times": given.times, "epochs": given.epochs, **found})


if __name__ == "__main__":
    main()
