"""Law 4: one shared pass gives what two plain chats give, alone, in any batch, beside longer records."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from stream.batching import batches
from stream.encode import Encoder
from stream.score import Scorer, reference_rewards
from tests.conftest import WORDS

TOLERANCE = 1e-5


def _models(directory: Path) -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"vocab_size": 700, "num_labels": 1, "max_position_embeddings": 512, "pad_token_id": 0}
    return {
        "starter": AutoModelForSequenceClassification.from_pretrained(directory, attn_implementation="sdpa"),
        "llama": LlamaForSequenceClassification(LlamaConfig(**shape, **more)),
        "qwen3": Qwen3ForSequenceClassification(Qwen3Config(**shape, **more, head_dim=8)),
    }


@pytest.fixture(scope="module")
def scorers(starter_directory: Path) -> dict[str, Scorer]:
    directory = starter_directory / "reward"
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 512)
    return {name: Scorer(model.eval(), encoder, 700) for name, model in _models(directory).items()}


@pytest.mark.parametrize("name", ["starter", "llama", "qwen3"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 90), min_size=1, max_size=9), seed=st.integers(0, 1000))
def test_shared_pass_is_two_plain_chats(scorers: dict[str, Scorer], name: str, lengths: list[int], seed: int) -> None:
    scorer = scorers[name]
    random = np.random.default_rng(seed)
    records = [random.integers(5, 560, length).tolist() for length in lengths]
    rewards = scorer.rewards(records)
    reference = reference_rewards(scorer.model, scorer.encoder, records)
    assert np.abs(rewards - reference).max() <= TOLERANCE
    alone = np.concatenate([scorer.rewards([record]) for record in records])
    assert np.abs(rewards - alone).max() <= TOLERANCE


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 900))
def test_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    found = batches(lengths, budget)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[place] for place in batch) <= budget
