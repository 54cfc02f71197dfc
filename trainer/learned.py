"""A model that a training has made, with what it makes of the held-out records.

Enters: the trained model and both sets as ids. Leaves: raw d, calibrated p_chosen, counts.
"""

from typing import NamedTuple

import numpy as np

from model_registry.manifest import Calibration
from stream.evidence import Evidence
from stream.render import Rendered
from stream.score import Scorer
from trainer.calibrate import p_of
from trainer.pairs import Encoded
from trainer.publish import Saved
from trainer.reward import Trained

SCORE_TOKENS = 8_192


class OfStream(NamedTuple):
    """Records of the stream, what a model makes of them: raw d and calibrated p_chosen."""

    shown: list[Rendered]
    d: np.ndarray
    p_chosen: np.ndarray


class Learned(NamedTuple):
    """A trained model, and what it makes of the held-out records.

    measured_with: the calibration of d_test, where the evidence that is served has been weighed with the held-out records since.
    """

    trained: Trained
    scorer: Scorer
    train_set: Encoded
    test_set: Encoded
    contrastive: int
    d_test: np.ndarray
    measured_with: Calibration
    calibration: Calibration
    metrics: dict[str, float]
    saved: Saved
    evidence: Evidence | None = None

    @property
    def test_is_right(self) -> np.ndarray:
        """What people said of the held-out records."""
        return np.array([record.is_right for record in self.test_set.records], dtype=bool)

    @property
    def p_test(self) -> np.ndarray:
        """Calibrated p_chosen of the held-out records."""
        return p_of(self.d_test, self.measured_with)

    @property
    def test_weight(self) -> np.ndarray:
        """How many records of the stream each held-out one stands for."""
        return np.array([record.weight for record in self.test_set.records])

    def p_of(self, encoded: Encoded) -> np.ndarray:
        """Return the calibrated p_chosen of records."""
        return self.judged(encoded).p_chosen

    def judged(self, encoded: Encoded) -> OfStream:
        """Return what the model makes of records."""
        return judged_stream(self.scorer, self.evidence, encoded, self.calibration)

    @property
    def counts(self) -> dict[str, int]:
        """How many records there were of each kind."""
        return _counts(self.train_set, self.test_set, self.contrastive)


def judged_stream(scorer: Scorer, evidence: Evidence | None, encoded: Encoded, calibration: Calibration) -> OfStream:
    """Return what a model makes of records."""
    d = d_with(scorer, evidence, encoded)
    return OfStream(encoded.shown, d, p_of(d, calibration))


def d_of(scorer: Scorer, ids: list[list[int]]) -> np.ndarray:
    """Return raw d of every record."""
    rewards_B2 = scorer.rewards(ids)
    d: np.ndarray = rewards_B2[:, 0] - rewards_B2[:, 1]
    return d


def d_with(scorer: Scorer, evidence: Evidence | None, encoded: Encoded) -> np.ndarray:
    """Return raw d of every record with what other records say of it."""
    if not encoded.ids:
        return np.zeros(0)
    d = d_of(scorer, encoded.ids)
    if evidence is None:
        return d
    added: np.ndarray = np.minimum(d, evidence.most_text) + evidence.of_all(encoded.shown)
    return added


def _counts(train_set: Encoded, test_set: Encoded, contrastive: int) -> dict[str, int]:
    return {
        "train": len(train_set.ids),
        "train_wrong": sum(not record.is_right for record in train_set.records),
        "held_out": len(test_set.ids),
        "contrastive": contrastive,
        "unreadable": train_set.unreadable + test_set.unreadable,
        "too_long": train_set.too_long + test_set.too_long,
    }
