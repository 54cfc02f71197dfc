"""Law 4: one shared pass gives what two plain chats give, alone, in any batch, beside longer records."""

import json
import os
import subprocess
import sys
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
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from foundation.errors import ModelRefused
from stream.batching import batches, packed_batches
from stream.between import Between
from stream.encode import Encoder
from stream.packed_pass import PackedPass
from stream.score import Scorer, reference_rewards
from tests.conftest import WORDS
from tests.trunks import KNOWN, trunks

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def scorers(starter_directory: Path) -> dict[str, Scorer]:
    directory = starter_directory / "reward"
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 512)
    found = {name: Scorer(model, encoder, 700) for name, model in trunks(starter_directory).items()}
    assert [name for name, scorer in found.items() if scorer._pass is None] == ["biased"], "the others run our own pass"
    return found


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


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 900))
def test_batches_without_padding_are_filled(lengths: list[int], budget: int) -> None:
    found = packed_batches(lengths, budget)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    sizes = [sum(lengths[place] for place in batch) for batch in found]
    assert all(len(batch) == 1 or size <= budget for batch, size in zip(found, sizes, strict=True))
    assert all(size + lengths[after[0]] > budget for size, after in zip(sizes, found[1:], strict=False)), "the next one did not fit"


@pytest.mark.parametrize("head", [(), tuple(range(20, 45))])
@pytest.mark.parametrize("name", KNOWN)
def test_a_pass_without_padding_is_two_plain_chats(scorers: dict[str, Scorer], name: str, head: tuple[int, ...]) -> None:
    """A GPU's layout, with torch's own operations."""
    scorer = scorers[name]
    encoder = copy(scorer.encoder)
    pad = encoder.pad_id
    encoder.template = encoder.template._replace(head=head, wrong=(*encoder.template.wrong, pad))  # a reward that is not read at the end
    random = np.random.default_rng(2)
    records = [random.integers(5, 560, length).tolist() for length in (0, 1, 40, 41, 90)]
    truth = reference_rewards(scorer.model, encoder, records)
    without = PackedPass(scorer.model, encoder.template, pad, torch.float32, torch.device("cpu"), Between())
    assert np.abs(without.rewards(records).numpy() - truth).max() <= TOLERANCE
    assert np.abs(without.rewards(records[:1]).numpy() - truth[:1]).max() <= TOLERANCE


def test_a_scorer_without_padding_counts_what_it_reads(starter_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.score.kernels_for", lambda device, dtype: Between())
    directory = starter_directory / "reward"
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 512)
    scorer = Scorer(AutoModelForSequenceClassification.from_pretrained(directory).eval(), encoder, 150)
    random = np.random.default_rng(3)
    records = [random.integers(5, 560, length).tolist() for length in (3, 90, 1, 40, 41, 0, 200)]
    truth = reference_rewards(scorer.model, encoder, records)
    scorer.let_go()
    assert np.abs(scorer.rewards(records) - truth).max() <= TOLERANCE, "each in its place"
    head, overhead = len(encoder.template.head), encoder.template.shared_overhead_tokens
    spent = scorer.take_spent()
    assert spent.passes == 3 and spent.padding_tokens == 0
    assert spent.record_tokens == sum(map(len, records)) + len(records) * (overhead - head) + spent.passes * head


def test_kernels_that_fail_leave_the_padded_pass(starter_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Between):
        def gated(self, x_T2I: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no C compiler")

    monkeypatch.setattr("stream.score.kernels_for", lambda device, dtype: Broken())
    directory = starter_directory / "reward"
    encoder = Encoder(AutoTokenizer.from_pretrained(directory), WORDS, "chat@1", 512)
    scorer = Scorer(AutoModelForSequenceClassification.from_pretrained(directory).eval(), encoder, 700)
    assert np.abs(scorer.rewards([[5, 6]]) - reference_rewards(scorer.model, encoder, [[5, 6]])).max() <= TOLERANCE


def test_our_kernels_do_what_torch_does() -> None:
    """In Triton's interpreter; tests/gpu runs them as compiled."""
    pytest.importorskip("triton", reason="torch brings Triton along on Linux alone")
    from tests.kernels_run import LEAST, TOLERANCES

    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "tests.kernels_run"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= LEAST
    for name, (difference, greatest) in found.items():
        assert difference <= greatest * TOLERANCES[name.rpartition(" ")[2]], name


@pytest.mark.parametrize("name", KNOWN)
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
