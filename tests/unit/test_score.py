"""Law 4: one shared pass gives what two plain chats give, alone, in any batch, beside longer records."""

from copy import copy
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
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

from foundation.errors import ModelRefused
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
        "biased": LlamaForSequenceClassification(LlamaConfig(**shape, **more, attention_bias=True)),
    }


@pytest.fixture(scope="module")
def scorers(starter_directory: Path) -> dict[str, Scorer]:
    directory = starter_directory / "reward"
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 512)
    found = {name: Scorer(_stirred(model).eval(), encoder, 700) for name, model in _models(directory).items()}
    assert [name for name, scorer in found.items() if scorer._pass is None] == ["biased"], "the others run our own pass"
    return found


def _stirred(model: torch.nn.Module) -> torch.nn.Module:
    """Give gains and biases, which begin as ones and zeros, values that show when they are left out."""
    for name, each in model.named_parameters():
        if each.dim() == 1:
            torch.nn.init.normal_(each, 1.0 if "norm" in name else 0.0, 0.3)
    return model


@pytest.mark.parametrize("name", ["starter", "llama", "qwen3", "biased"])
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


@pytest.mark.parametrize("name", ["starter", "llama", "qwen3"])
def test_a_long_head_is_read_once_and_bfloat16_stays_near(scorers: dict[str, Scorer], name: str) -> None:
    scorer = scorers[name]
    encoder = copy(scorer.encoder)
    encoder.template = encoder.template._replace(head=tuple(range(20, 45)))
    random = np.random.default_rng(1)
    records = [random.integers(5, 560, length).tolist() for length in (0, 1, 40, 41, 90)]
    truth = reference_rewards(scorer.model, encoder, records)
    assert np.abs(Scorer(scorer.model, encoder, 700).rewards(records) - truth).max() <= TOLERANCE
    rough = Scorer(scorer.model, encoder, 700, torch.bfloat16).rewards(records)
    p, p_truth = (1 / (1 + np.exp(-(each[:, 0] - each[:, 1]))) for each in (rough, truth))
    assert np.abs(p - p_truth).max() <= 5e-3
    assert not np.array_equal(rough, truth), "it did run in bfloat16"


def test_windows_shorter_than_a_chat_are_refused(scorers: dict[str, Scorer]) -> None:
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen2Config(
        **shape, vocab_size=700, num_labels=1, use_sliding_window=True, sliding_window=16, max_window_layers=0, pad_token_id=0
    )
    with pytest.raises(ModelRefused, match="layers see 16 tokens, a chat may have 512; set train.max_length to 16 or less"):
        Scorer(Qwen2ForSequenceClassification(config).eval(), scorers["starter"].encoder, 700)


def test_a_scorer_that_let_its_model_go_scores_the_same(starter_directory: Path) -> None:
    directory = starter_directory / "reward"
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 512)
    scorer = Scorer(AutoModelForSequenceClassification.from_pretrained(directory).eval(), encoder, 700)
    before = scorer.rewards([[5, 6, 7]])
    scorer.let_go()
    assert np.array_equal(scorer.rewards([[5, 6, 7]]), before)
    assert scorer.model.device.type == "meta"
