"""The starter: tokenizer and small model from nothing but unlabelled records, so that a gate works before any verdict.

Enters: rendered records. Leaves: DIR/lm (causal), DIR/reward (one-output classifier on the same trunk, head trained),
DIR/starter.json, and DIR/unlabelled.jsonl, the records, for later training. A tenth of them, by a hash, is not learned from.
Same seed, steps, threads and machine give the same digest.
"""

import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from foundation.errors import DataRefused, SettingInvalid
from stream.encode import Encoder
from stream.render import Rendered
from trainer.datasets import is_unseen
from trainer.doubt import look, rows_looked_at
from trainer.joint import JointModel, Losses, PairSource
from trainer.starter_files import FACTS, UNLABELLED, digest_of
from trainer.starter_steps import DOUBTING_AT, learn

MINIMUM_RECORDS = 50
TIMED_STEPS, TIMED_ROWS, TIMES = 8, 100, 3
LOOKING_BIAS, LOOKING_ROTATIONS = 6.0, 4
PAD, END_TURN = "<|endoftext|>", "<|im_end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
# one token a role: a record of 55 tokens should not carry 14 of ceremony
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Shape(NamedTuple):
    """The size of the starter's model; the default is what two cores train in minutes."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 344
    vocabulary: int = 2_000
    max_length: int = 2_048


class Plan(NamedTuple):
    """How long and how fast to learn; `minutes` is turned into steps by timing, and only steps are run."""

    steps: int | None = None
    minutes: float | None = None
    seed: int = 0
    pairs_per_batch: int = 12
    learning_rate: float = 3e-3


class Starter(NamedTuple):
    """What was learned: the steps that were run, the last losses, and the parts to save."""

    tokenizer: PreTrainedTokenizerFast
    model: JointModel
    encoder: Encoder
    steps: int
    losses: Losses | None


def train_starter(
    records: Sequence[Rendered],
    words: tuple[str, str],
    plan: Plan,
    shape: Shape | None = None,
    started: Callable[[int], None] = lambda steps: None,
    watch: Callable[[int, Losses], None] = lambda step, losses: None,
) -> Starter:
    """Train tokenizer, trunk and head on unlabelled records; `started` hears the number of steps before the first.

    Raises DataRefused when there are too few records to learn from.
    """
    shape = shape or Shape()
    if len(records) < MINIMUM_RECORDS:
        raise DataRefused(f"{len(records)} records are too few for a starter, which needs at least {MINIMUM_RECORDS}")
    torch.manual_seed(plan.seed)
    seen = [record for record in records if not is_unseen(record.text)]
    tokenizer = train_tokenizer([record.text for record in seen], words, shape)
    encoder = Encoder(tokenizer, words, "chat@1", shape.max_length)
    model = _new_model(tokenizer, shape)
    steps = plan.steps if plan.steps is not None else _steps_in(plan, model, seen, encoder)
    started(steps)
    last: list[Losses] = []

    def keep(step: int, losses: Losses) -> None:
        last[:] = [losses]
        watch(step, losses)

    learn(model, PairSource(seen, encoder, plan.pairs_per_batch, plan.seed), steps, plan.learning_rate, keep)
    return Starter(tokenizer, model, encoder, steps, last[0] if last else None)


def train_tokenizer(texts: Sequence[str], words: tuple[str, str], shape: Shape) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which every digit is a token of its own and both verdict words are short."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=shape.vocabulary,
        special_tokens=[PAD, END_TURN, *ROLES],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*texts, *[*words] * max(10, len(texts) // 10)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_TURN, pad_token=PAD)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = shape.max_length
    return tokenizer


def _new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape) -> JointModel:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",  # type: ignore[call-arg]  # a flash SDPA backward takes more than half of a CPU step
        dtype="float32",
    )
    lm = Qwen2ForCausalLM(config)
    classifier = copy.deepcopy(config)
    classifier.num_labels = 1
    reward = Qwen2ForSequenceClassification(classifier)
    # the usual 0.02 would keep d near 0, and the trunk without gradient, for the first hundred steps
    nn.init.normal_(reward.get_parameter("score.weight"), std=shape.hidden**-0.5)
    listen_to_the_left(lm)
    return JointModel(lm, reward, nn.Linear(shape.hidden, 2))


@torch.no_grad()
def listen_to_the_left(lm: Qwen2ForCausalLM) -> None:
    """Begin with heads that look at the token before, by the biases of queries and keys alone.

    Rotary positions turn both by their place, so constant biases make logits that depend on the distance alone; they
    are set to peak at 1 (and 2 in the first layer). Heads that look back are what a new model learns first and slowly
    (Olsson et al. 2022, "In-context Learning and Induction Heads"); here they are there from the first step.
    """
    first, *others = lm.model.layers[:-1]
    _peak_at(lm, first.self_attn, head=0, distance=1)
    _peak_at(lm, first.self_attn, head=1, distance=2)
    for place, layer in enumerate(others):
        _peak_at(lm, layer.self_attn, head=0, distance=1)
        if place:
            _peak_at(lm, layer.self_attn, head=1, distance=1)


def _peak_at(lm: Qwen2ForCausalLM, attention: nn.Module, head: int, distance: int) -> None:
    """Set one head's biases on its four fastest rotations: the logit at distance x is a sum of cos(rate (x - distance))."""
    width = lm.config.hidden_size // lm.config.num_attention_heads
    rates = lm.model.rotary_emb.inv_freq[:LOOKING_ROTATIONS]
    first = head * width
    fast = slice(first, first + len(rates))
    turned = slice(first + width // 2, first + width // 2 + len(rates))
    key, query = attention.get_parameter("k_proj.bias"), attention.get_parameter("q_proj.bias")
    key[fast], key[turned] = LOOKING_BIAS, 0.0
    query[fast], query[turned] = LOOKING_BIAS * torch.cos(rates * distance), -LOOKING_BIAS * torch.sin(rates * distance)


def _steps_in(plan: Plan, model: JointModel, records: Sequence[Rendered], encoder: Encoder) -> int:
    """Time a few steps on a copy that is thrown away, so that the run itself depends on the number of steps alone."""
    minutes = plan.minutes if plan.minutes is not None else 1.0
    state = torch.get_rng_state()
    rehearsal = _new_copy(model)
    source = PairSource(records, encoder, plan.pairs_per_batch, plan.seed)
    learn(rehearsal, source, 3, plan.learning_rate, doubting_at=())
    seconds_per_step = _least_seconds(lambda: learn(rehearsal, source, TIMED_STEPS, plan.learning_rate, doubting_at=())) / TIMED_STEPS
    sample = source.ids[:TIMED_ROWS]
    seconds_per_row = _least_seconds(lambda: look(rehearsal, encoder, sample)) / max(1, len(sample))
    doubting_seconds = seconds_per_row * rows_looked_at(len(source)) * len(DOUBTING_AT)
    torch.set_rng_state(state)
    steps = int((minutes * 60 - doubting_seconds) / seconds_per_step)
    if steps < 1:
        least = (doubting_seconds + seconds_per_step) / 60
        raise SettingInvalid(f"--minutes {minutes:g} is less than one step with its look for doubtful records takes here, {least:.2g}")
    return steps


def _least_seconds(work: Callable[[], object]) -> float:
    """Return the least that some work took: what else the machine does for a moment must not make a shorter starter."""
    found = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return min(found)


def _new_copy(model: JointModel) -> JointModel:
    lm = Qwen2ForCausalLM(model.lm.config)
    lm.load_state_dict(model.lm.state_dict())
    return JointModel(lm, Qwen2ForSequenceClassification(model.reward.config), copy.deepcopy(model.probes))


def save_starter(starter: Starter, records: Sequence[str], directory: Path, facts: dict[str, object]) -> str:
    """Write lm/, reward/, unlabelled.jsonl and starter.json, and return the digest of everything but starter.json."""
    for name, model in (("lm", starter.model.lm), ("reward", starter.model.reward)):
        model.save_pretrained(directory / name)
        starter.tokenizer.save_pretrained(directory / name)
    with (directory / UNLABELLED).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    digest = digest_of(directory)
    (directory / FACTS).write_text(json.dumps({**facts, "digest": digest}, ensure_ascii=False, indent=2) + "\n")
    return digest
