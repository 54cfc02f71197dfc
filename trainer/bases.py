"""What training starts from: a starter's directory, a local model directory (also GGUF), or a hub name.

Leaves: a one-output classifier in float32 with eager attention on the CPU, its tokenizer, and, where a starter left
them, its unlabelled records. A CPU spends more than half of a training step in the backward of flash SDPA.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from foundation.errors import ModelRefused
from stream.encode import Encoder


class Base(NamedTuple):
    """A model to start from; `has_head` says whether its reward head means anything yet."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    has_head: bool
    unlabelled: Path | None
    facts: dict[str, object]


def load_base(name: str) -> Base:
    """Load a base offline from a directory, or by hub name. Raises ModelRefused in one sentence."""
    directory = Path(name)
    if (directory / "starter.json").is_file():
        facts = json.loads((directory / "starter.json").read_text())
        model, tokenizer = _load(directory / "reward", None)
        return Base(f"starter {facts['digest']}", model, tokenizer, True, directory / "unlabelled.jsonl", facts)
    if not directory.is_dir():
        print(f"there is no directory {name} here: the hub is asked for it", file=sys.stderr)  # noqa: T201
    gguf = sorted(directory.glob("*.gguf")) if directory.is_dir() else []
    model, tokenizer = _load(directory if directory.is_dir() else name, gguf[0].name if gguf else None)
    has_head = not gguf and type(model).__name__ in (model.config.architectures or [])
    return Base(name, model, tokenizer, has_head, None, {})


def _load(place: Path | str, gguf_file: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    extra: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    unpacked: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)} if gguf_file else {}
    on_gpu = torch.cuda.is_available()
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **extra)
        model = AutoModelForSequenceClassification.from_pretrained(
            place, num_labels=1, dtype=torch.float32, attn_implementation="sdpa" if on_gpu else "eager", **extra, **unpacked
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelRefused(f"the base {place} cannot be loaded: {str(error).splitlines()[0][:300]}") from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    return cast(PreTrainedModel, model), tokenizer


def encoder_of(base: Base, words: tuple[str, str], max_length: int) -> Encoder:
    """Return what a base reads records by: chats of at most `max_length` tokens, or as many as it knows places for. Raises ModelRefused."""
    return Encoder(base.tokenizer, words, "chat@1", min(max_length, base.model.config.max_position_embeddings))
