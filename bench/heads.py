"""Ensembles of small heads on a frozen trunk beside fine-tuning, the text alone.

One starter. A head is a logistic regression on what the trunk says of a record (the difference of both pooled states, and d), fitted
on verdicts, records of the stream as right and corrupted copies as wrong, these as heavy as three times the verdicts. Eight heads: the
mean of eight, each on a draw of the verdicts with repetition, copies of its own and half of the features. AUROC on twins that nothing has
seen, by number of verdicts drawn as a reviewer would be asked. The last line is one JSON object, means over the seeds and each seed's own.
"""

import argparse

import numpy as np
from sklearn.linear_model import LogisticRegression

from bench.machine import keep
from bench.noise import Ground, labelled, of_every_seed
from demo.twins import Twin
from stream.encode import Encoder
from trainer.bases import Base
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.corrupt import Corrupter
from trainer.learned import d_of
from trainer.noise import features_of
from trainer.pairs import RENDERING, encode_labelled, rendered
from trainer.train import learn_from, workplace
from trainer.unlabelled import unlabelled_of

VERDICTS = (20, 100, 300)
HEADS, FEATURES_SHARE = 8, 0.5
STREAM_RECORDS, STREAM_WEIGHT = 1_000, 3.0
SOFTNESS = 0.05


class Features:
    """What a frozen trunk says of records, standardised on the stream: features_NF."""

    def __init__(self, base: Base, encoder: Encoder, stream: list[str]) -> None:
        """Take the trunk, and look at a part of the stream."""
        self._base, self._encoder = base, encoder
        self._base.model.eval()
        self.records = rendered(stream[:STREAM_RECORDS], RENDERING)
        raw_NF = self._raw([record.text for record in self.records])
        self._middle_F, self._spread_F = raw_NF.mean(axis=0), raw_NF.std(axis=0) + 1e-6
        self.of_stream_NF = (raw_NF - self._middle_F) / self._spread_F

    def of(self, texts: list[str]) -> np.ndarray:
        """Return the features of texts."""
        found: np.ndarray = (self._raw(texts) - self._middle_F) / self._spread_F
        return found

    def copies(self, seed: int) -> np.ndarray:
        """Return the features of one corrupted copy of each record of the stream."""
        corrupter = Corrupter(self.records, seed)
        return self.of([corrupter.corrupt(record) for record in self.records])

    def _raw(self, texts: list[str]) -> np.ndarray:
        return features_of(self._base.model, self._encoder, [ids or [] for ids in self._encoder.encode(texts)])


def heads(features: Features, verdicts_NF: np.ndarray, is_right_N: np.ndarray, asked_MF: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return what the mean of `count` heads says of asked_MF, in nats; one head has all verdicts and all features."""
    random = np.random.default_rng(seed)
    total = np.zeros(len(asked_MF))
    for number in range(count):
        copies_NF = features.copies(seed + number)
        drawn = np.arange(len(verdicts_NF)) if count == 1 else random.integers(0, len(verdicts_NF), len(verdicts_NF))
        width = verdicts_NF.shape[1]
        kept = np.arange(width) if count == 1 else random.choice(width, round(width * FEATURES_SHARE), replace=False)
        of_stream = STREAM_WEIGHT * len(drawn) / (len(copies_NF) + len(features.of_stream_NF))
        seen_NF = np.concatenate([verdicts_NF[drawn], features.of_stream_NF, copies_NF])[:, kept]
        right = np.concatenate([is_right_N[drawn], np.ones(len(features.of_stream_NF), bool), np.zeros(len(copies_NF), bool)])
        weight = np.concatenate([np.ones(len(drawn)), np.full(len(right) - len(drawn), of_stream)])
        head = LogisticRegression(C=SOFTNESS, max_iter=2_000).fit(seen_NF, right, sample_weight=weight)
        total += head.decision_function(asked_MF[:, kept]) / count
    return total


def one(ground: Ground, seed: int) -> dict[str, float]:
    """Compare at every number of verdicts; one seed."""
    settings = ground.tables.train.model_copy(update={"seed": seed})
    random = np.random.default_rng(seed)
    learn, held_out = ground.drawn(seed, random)
    strangers = [twin.value.decode() for twin in ground.strangers]
    truth = np.array([not twin.truth.is_wrong for twin in ground.strangers])
    base, encoder = ground.base(settings)
    stream = unlabelled_of(base, None, ground.tables)
    features = Features(base, encoder, stream)
    asked_MF = features.of(_texts(strangers))
    found = {"text_0": auroc_of(asked_MF[:, -1], truth)}
    for count in VERDICTS:
        some = learn[:count]
        verdicts_NF = features.of(_texts([twin.value.decode() for twin in some]))
        is_right_N = np.array([not twin.truth.is_wrong for twin in some])
        for name, number in (("head", 1), ("heads", HEADS)):
            found[f"{name}_{count}"] = auroc_of(heads(features, verdicts_NF, is_right_N, asked_MF, number, seed), truth)
        found[f"tuned_{count}"] = _tuned(ground, settings, some, held_out, truth)
    return {key: round(value, 4) for key, value in found.items()}


def _tuned(ground: Ground, settings: TrainSettings, some: list[Twin], held_out: list[Twin], truth: np.ndarray) -> float:
    """Return the AUROC of the text after fine-tuning, its evidence left out."""
    base, encoder = ground.base(settings)
    with workplace(settings) as work:
        learned = learn_from(base, encoder, labelled(some), labelled(held_out), unlabelled_of(base, None, ground.tables), settings, work)
        learned.saved.reloaded.result()  # before its files are gone
    seen = encode_labelled(labelled(ground.strangers), encoder, RENDERING)
    assert len(seen.ids) == len(truth)
    return auroc_of(d_of(learned.scorer, seen.ids), truth)


def _texts(contents: list[str]) -> list[str]:
    return [record.text for record in rendered(contents, RENDERING)]


def main() -> None:
    """Run all seeds and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    found, runs = of_every_seed(one, TrainSettings(contrastive_per_verdict=1.0, epochs=2.0), given.seeds, given.steps)
    keep("heads", {"steps": given.steps, **found, "runs": runs})


if __name__ == "__main__":
    main()
