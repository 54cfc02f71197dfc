"""Which verdicts are probably mistakes: each is judged by a model that has not seen it.

Out of fold, a logistic regression on what the base's trunk says of a record (the difference of the two pooled states that
the reward head reads, and d) gives every verdict its probability. Confident learning (Northcutt et al. 2021, arXiv
1911.00068) in its simplest form: a verdict that the others make improbable is a suspect.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel

from stream.batching import batches
from stream.encode import Encoder
from stream.score import pooled_states, shared_batch
from trainer.datasets import Labelled
from trainer.last_layer import last_layer_at, read_at

Noise = Literal["review", "smooth", "flip", "drop"]
FOLDS = 5
FEWEST = 50
SUSPECT_BELOW, FLIP_BELOW = 0.2, 0.05
_BATCH_TOKENS = 4_096


class Doubted(NamedTuple):
    """The verdicts to learn from and their places, and the places of the suspects, the most improbable first."""

    records: list[Labelled]
    kept: list[int]
    suspects: list[int]


def probability_of_verdicts(
    model: PreTrainedModel, encoder: Encoder, ids: Sequence[Sequence[int]], is_right: np.ndarray, seed: int
) -> np.ndarray | None:
    """Return how probable each verdict is to a model that has not seen it; None where there are too few to say."""
    if too_few(is_right):
        return None
    features = features_of(model, encoder, ids)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2_000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    p_right: np.ndarray = cross_val_predict(judge, features, is_right, cv=folds, method="predict_proba")[:, 1]
    return np.where(is_right, p_right, 1 - p_right)


def of_all(probability: np.ndarray, places: Sequence[int], agreed: Sequence[bool]) -> np.ndarray:
    """Return the same for all verdicts, those that the model cannot read among them.

    probability: of the verdicts at `places`. What cannot be read is not doubted, nor is what a second person has agreed to: who else
    should be asked?
    """
    found = np.ones(len(agreed))
    found[list(places)] = probability
    found[np.array(agreed, dtype=bool)] = 1.0
    return found


def too_few(is_right: np.ndarray) -> str:
    """Return why so few verdicts cannot be looked at, empty where they can."""
    right, wrong = int(is_right.sum()), int((~is_right).sum())
    if right + wrong >= FEWEST and min(right, wrong) >= FOLDS:
        return ""
    return f"{right} right and {wrong} wrong ones, and it takes {FEWEST} with {FOLDS} of each"


@torch.no_grad()
def features_of(model: PreTrainedModel, encoder: Encoder, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return features_NF: the difference of the pooled states of both chats, and d."""
    head_H = model.get_parameter("score.weight")[0].float()
    overhead = encoder.template.shared_overhead_tokens
    features_NF = np.empty((len(ids), len(head_H) + 1), dtype=np.float32)
    for places in batches([len(record) + overhead for record in ids], _BATCH_TOKENS):
        batch = shared_batch([ids[place] for place in places], encoder.template, encoder.pad_id, model.dtype, head_H.device)
        with last_layer_at(model, read_at(batch.pooled_B2, batch.ids_BT)):
            pooled_B2H = pooled_states(model, batch).float()
        difference_BH = pooled_B2H[:, 0] - pooled_B2H[:, 1]
        features_NF[places] = torch.cat([difference_BH, (difference_BH @ head_H)[:, None]], dim=1).cpu().numpy()
    return features_NF


def treat(records: Sequence[Labelled], probability: np.ndarray | None, how: Noise) -> Doubted:
    """Return what is to be learned from: suspects left out for review, softened, turned round, or dropped."""
    if probability is None:
        return Doubted(list(records), list(range(len(records))), [])
    suspects = [int(place) for place in np.argsort(probability) if probability[place] < SUSPECT_BELOW]
    doubted = set(suspects)
    if how == "smooth":
        softened = [r._replace(doubt=round(float(1 - probability[n]) / 2, 6)) if n in doubted else r for n, r in enumerate(records)]
        return Doubted(softened, list(range(len(records))), suspects)
    if how == "flip":
        turned = [r._replace(is_right=not r.is_right) if n in doubted and probability[n] < FLIP_BELOW else r for n, r in enumerate(records)]
        return Doubted(turned, list(range(len(records))), suspects)
    kept = [n for n in range(len(records)) if n not in doubted]
    return Doubted([records[n] for n in kept], kept, suspects)
