"""Wrong records hide in the unlabelled stream: those that the half-trained starter itself doubts.

Enters: a joint model that has read and judged for a while, its records, and fresh corrupted copies. Leaves: for every
record the probability that it is wrong. A logistic regression tells records from copies by d and by how surprising
their tokens are to the language model; its log-odds with a prior for wrong records in a stream make the doubt. The
head then learns from these doubts what the surprise knows and the corruptions do not show (self-training, Yarowsky
1995; learning from positive and unlabelled data, Elkan and Noto 2008).
"""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from foundation.errors import ModelRefused
from stream.batching import batches
from stream.encode import Encoder
from stream.score import read_rewards, shared_batch
from trainer.joint import JointModel, PairSource

WRONG_PRIOR = 0.05
HIGHEST = 4
MOST_DOUBTED, MOST_COPIES = 8_000, 1_500
_BATCH_TOKENS = 4_096


def doubts(model: JointModel, source: PairSource) -> list[float]:
    """Return the probability to be wrong of every record of the source, in order.

    Of a long stream an even sample is looked at and the others are not doubted; without a copy to compare with nothing is.
    Raises ModelRefused where the training has diverged.
    """
    step = -(-len(source) // MOST_DOUBTED)
    copies = source.copies(min(len(source), MOST_COPIES))
    found = np.zeros(len(source))
    if not copies:
        return [float(doubt) for doubt in found]
    of_records, of_copies = look(model, source.encoder, source.ids[::step]), look(model, source.encoder, copies)
    features = np.concatenate([of_records, of_copies])
    if not np.isfinite(features).all():
        raise ModelRefused("the starter's states are no longer finite: training has diverged; give it another --seed or fewer --steps")
    is_copy = np.repeat([0, 1], [len(of_records), len(of_copies)])
    scale = features.std(axis=0) + 1e-6
    judge = LogisticRegression(max_iter=500, class_weight="balanced").fit(features / scale, is_copy)
    log_odds = judge.decision_function(of_records / scale) + np.log(WRONG_PRIOR / (1 - WRONG_PRIOR))
    found[::step] = 1 / (1 + np.exp(-log_odds))
    return [float(doubt) for doubt in found]


def rows_looked_at(records: int) -> int:
    """Return how many rows `doubts` runs through the model for a stream of that many records."""
    return min(records, MOST_DOUBTED) + min(records, MOST_COPIES)


@torch.inference_mode()
def look(model: JointModel, encoder: Encoder, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Return features_N4: d, the highest, the mean of the four highest and the mean token surprise in nats."""
    was_training = model.lm.training
    model.lm.eval()
    features_N4 = np.zeros((len(rows), 4))
    overhead = encoder.template.shared_overhead_tokens
    first = len(encoder.template.head)
    for places in batches([len(ids) + overhead for ids in rows], _BATCH_TOKENS):
        batch = shared_batch([rows[place] for place in places], encoder.template, encoder.pad_id, torch.float32)
        hidden_BTH = model.lm.model(
            input_ids=batch.ids_BT, attention_mask=batch.mask_B1TT, position_ids=batch.positions_BT, use_cache=False
        ).last_hidden_state
        rewards_B2 = read_rewards(model.reward, hidden_BTH, batch.pooled_B2)
        lengths_B = torch.tensor([len(rows[place]) for place in places])
        # the places before the record's tokens; the head of a starter's chat is never empty
        expects_BT = torch.arange(batch.ids_BT.shape[1] - first) < lengths_B[:, None]
        logits_NV = model.lm.lm_head(hidden_BTH[:, first - 1 : -1][expects_BT])
        surprise_N = F.cross_entropy(logits_NV, batch.ids_BT[:, first:][expects_BT], reduction="none")
        for row, (place, surprise_T) in enumerate(zip(places, surprise_N.split(lengths_B.tolist()), strict=True)):
            highest = surprise_T.topk(min(HIGHEST, len(surprise_T))).values if len(surprise_T) else torch.zeros(1)
            features_N4[place] = [
                float(rewards_B2[row, 0] - rewards_B2[row, 1]),
                float(highest[0]),
                float(highest.mean()),
                float(surprise_T.mean()) if len(surprise_T) else 0.0,
            ]
    model.lm.train(was_training)
    return features_N4
