"""How loud the evidence is beside the text: the text may have learned its records by heart, or tell right from wrong by itself.

Enters: raw d of the text and evidence, of records that neither has learned from: the stream's unseen tenth as right and corrupted copies
of it as wrong, and verdicts learned from, each as it was judged without it. Leaves: one factor for the evidence. A logistic regression with
two weights; few records leave them where they begin, at a text that counts less than what other records say
(docs/experiments/judgement.md).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from model_registry.manifest import Calibration
from stream.evidence import Evidence
from stream.render import Rendered, reread
from stream.score import Scorer
from trainer.corrupt import Corrupter
from trainer.datasets import is_unseen
from trainer.pairs import Encoded
from trainer.voices import loud
from trainer.weigh import SURE_BELOW, Weighed

STREAM_WEIGHT, PRIOR = 5.0, 1.0
TEXT_AT_FIRST, EVIDENCE_AT_FIRST = 0.5, 1.0
MOST_UNSEEN, FEWEST_UNSEEN, COPIES = 500, 20, 2
LEAST_WEIGHT = 0.05
LEAST_GAIN = 0.01  # in nats: as good as equal, the text is heard whole
LEAST, MOST = 1.0, 10.0
MOST_LEARNED = 500


class Heard(NamedTuple):
    """Records with what text and evidence say of them, in nats, whether they are right, and how much each counts."""

    d: np.ndarray
    evidence: np.ndarray
    is_right: np.ndarray
    weight: np.ndarray

    @classmethod
    def nothing(cls) -> "Heard":
        """Return no record."""
        return cls(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool), np.zeros(0))

    def beside(self, other: "Heard") -> "Heard":
        """Return both."""
        return Heard(*(np.concatenate(both) for both in zip(self, other, strict=True)))


class Balance(NamedTuple):
    """The factor of the evidence, temperature and bias of the sum that the weights speak of, and what the text's d counts at most."""

    factor: float
    temperature: float
    bias: float
    most_text: float = math.inf

    def loud(self, evidence: Evidence) -> Evidence:
        """Return evidence as loud as it should be beside the text."""
        return evidence.scaled(self.factor, self.most_text)

    @property
    def calibration(self) -> Calibration:
        """What calibrates the sum of both where no held-out verdicts do."""
        return Calibration(temperature=self.temperature, bias=self.bias)


def balanced(scorer: Scorer, weighed: Weighed, stream: Sequence[Rendered], seed: int, verdicts: Heard | None = None) -> Balance:
    """Return how loud the evidence should be beside the text, as heard in the stream and in verdicts."""
    heard = heard_in_stream(scorer, weighed.evidence, stream, seed)
    return balance(heard if verdicts is None else heard.beside(verdicts))


def heard_in_stream(scorer: Scorer, evidence: Evidence, stream: Sequence[Rendered], seed: int) -> Heard:
    """Return what is heard of the unseen tenth of a stream and of corrupted copies of it, STREAM_WEIGHT together for each kind."""
    unseen = [record for record in stream if is_unseen(record.text)][:MOST_UNSEEN]
    if len(unseen) < FEWEST_UNSEEN:
        return Heard.nothing()
    corrupter = Corrupter(unseen, seed)
    copies = [(reread(corrupter.corrupt(source), source), source) for source in unseen for _ in range(COPIES)]
    told = [(record, evidence.of(record), True) for record in unseen]
    told += [(copy, evidence.of_copy(copy, source), False) for copy, source in copies]
    encoded = scorer.encoder.encode([record.text for record, _, _ in told])
    fitting = [place for place, ids in enumerate(encoded) if ids]
    rewards_B2 = scorer.rewards([encoded[place] or [] for place in fitting])
    is_right = np.array([told[place][2] for place in fitting])
    weight = np.where(is_right, STREAM_WEIGHT / max(1, is_right.sum()), STREAM_WEIGHT / max(1, (~is_right).sum()))
    return Heard(rewards_B2[:, 0] - rewards_B2[:, 1], np.array([told[place][1] for place in fitting]), is_right, weight)


def heard_in_verdicts(before: np.ndarray, fresh: Sequence[int], weighed: Weighed, train_set: Encoded) -> Heard:
    """Return what is heard of verdicts that were learned from: of each, what text and evidence said without it.

    before: raw d of the records of train_set at the places `fresh`, by a text that had learned from none of them.
    """
    sure = [place for place, each in enumerate(train_set.records) if each.doubt < SURE_BELOW]
    left_out = dict(zip(sure, weighed.left_out.tolist(), strict=True))
    heard = [place for place in fresh if place in left_out]
    is_right = np.array([train_set.records[place].is_right for place in heard], dtype=bool)
    is_sure = np.array([place in left_out for place in fresh], dtype=bool)
    return Heard(before[is_sure], np.array([left_out[place] for place in heard]), is_right, np.ones(len(heard)))


def balance(heard: Heard) -> Balance:
    """Return how loud the evidence should be beside the text, and whether the text may speak for a record, or only against one.

    A text that knows its table by heart finds nothing odd in the wrong values that come often: what it says for a record is worth
    nothing then, and what it says against one still is.
    """
    whole, loss = _balanced(heard)
    against, its_loss = _balanced(heard._replace(d=np.minimum(heard.d, 0.0)))
    return whole if loss <= its_loss + LEAST_GAIN else against._replace(most_text=0.0)


def _balanced(heard: Heard) -> tuple[Balance, float]:
    """Return the most probable balance, and how improbable it makes what was heard, in nats."""
    said_NV, first_V = np.stack([heard.d, heard.evidence], axis=1), np.array([TEXT_AT_FIRST, EVIDENCE_AT_FIRST])
    found = loud(said_NV, heard.is_right, heard.weight, first_V, PRIOR, np.full(2, LEAST_WEIGHT))
    of_text, of_evidence = found.weight_V
    factor = float(np.clip(of_evidence / of_text, LEAST, MOST))
    # where the factor is cut at MOST, the temperature is the one that suits the evidence, not the text
    temperature = float(min(1 / of_text, factor / of_evidence))
    return Balance(round(factor, 4), round(temperature, 4), round(found.bias, 4)), found.loss
