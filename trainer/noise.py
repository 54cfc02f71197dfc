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

from stream.encode import Encoder
from trainer.datasets import Labelled

Noise = Literal["review", "smooth", "flip", "drop"]
FOLDS = 5
FEWEST = 50
SUSPECT_BELOW, FLIP_BELOW = 0.2, 0.05
_BATCH = 64


class Doubted(NamedTuple):
    """The verdicts to learn from and their places, and the places of the suspects, the most improbable first."""

    records: list[Labelled]
    kept: list[int]
    suspects: list[int]


def probability_of_verdicts(
    model: PreTrainedModel, encoder: Encoder, ids: Sequence[Sequence[int]], is_right: np.ndarray, seed: int
) -> np.ndarray | None:
    """Return how probable each verdict is to a model that has not seen it; None where there are too few to say."""
    if len(ids) < FEWEST or min(is_right.sum(), (~is_right).sum()) < FOLDS:
        return None
    features = features_of(model, encoder, ids)
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=2_000))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    p_right: np.ndarray = cross_val_predict(judge, features, is_right, cv=folds, method="predict_proba")[:, 1]
    return np.where(is_right, p_right, 1 - p_right)


@torch.no_grad()
def features_of(model: PreTrainedModel, encoder: Encoder, ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return features_NF: the difference of the pooled states of both chats, and d."""
    head = model.get_parameter("score.weight")[0].float()
    trunk = model.base_model
    found = []
    for at in range(0, len(ids), _BATCH):
        chats = [chat for record in ids[at : at + _BATCH] for chat in encoder.chats(record)]
        longest = max(map(len, chats))
        ids_BT = torch.tensor([[*chat, *[encoder.pad_id] * (longest - len(chat))] for chat in chats], device=head.device)
        mask_BT = torch.tensor([[1] * len(chat) + [0] * (longest - len(chat)) for chat in chats], device=head.device)
        states_BTH = trunk(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state.float()
        last = mask_BT.sum(1) - 1
        pooled_BH = states_BTH[torch.arange(len(chats)), last]
        difference_NH = pooled_BH[0::2] - pooled_BH[1::2]
        found.append(torch.cat([difference_NH, (difference_NH @ head)[:, None]], dim=1).cpu().numpy())
    return np.concatenate(found)


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
