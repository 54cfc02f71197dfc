"""A model that always says the same: decode, rules, rendering, tokenising and headers run, only the forward is replaced."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from stream.decide import Calibration
from stream.encode import Encoder
from stream.live_model import LiveModel
from stream.score import Scorer, Spent
from stream.tokenise import Ids
from trainer.starter import Shape, train_tokenizer

WORDS = ("正确", "错误")
RECORDS_PER_SECOND = 1e9


class ConstantScorer(Scorer):
    """Rewards that depend on nothing but a record's length, so that both routes are taken."""

    def __init__(self, encoder: Encoder) -> None:
        """Keep the encoder; there is no model."""
        self.encoder = encoder
        self.budget_tokens = 8_192
        self.device = torch.device("cpu")
        self._spent = Spent()

    def rewards(self, records: Sequence[Sequence[int] | Ids]) -> np.ndarray:
        """Return 1 and 0 for most records, 0 and 1 for those whose length ends in 0."""
        rewards_B2 = np.tile(np.array([1.0, 0.0], dtype=np.float32), (len(records), 1))
        held = [place for place, ids in enumerate(records) if len(ids) % 10 == 0]
        rewards_B2[held] = (0.0, 1.0)
        return rewards_B2


def save_tokenizer(texts: Sequence[str], directory: Path) -> None:
    """Train the tokenizer that a starter would have and save it."""
    train_tokenizer(texts, WORDS, Shape()).save_pretrained(directory)


def constant_model(directory: Path) -> LiveModel:
    """Return a live model that costs nothing to ask, with a real tokenizer."""
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 2_048)
    return LiveModel("constant@1", "sha256:" + "0" * 64, ConstantScorer(encoder), "fields@1", Calibration(), 0.5, RECORDS_PER_SECOND)
