"""Small trunks of every shape that passes of our own know, and one that they do not."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
)

KNOWN = ("starter", "llama", "qwen3")


def trunks(starter_directory: Path) -> dict[str, PreTrainedModel]:
    """Return models in eval mode by name; gains and biases, which begin as ones and zeros, have values that show when left out."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"vocab_size": 700, "num_labels": 1, "max_position_embeddings": 512, "pad_token_id": 0}
    found = {
        "starter": AutoModelForSequenceClassification.from_pretrained(starter_directory / "reward", attn_implementation="sdpa"),
        "llama": LlamaForSequenceClassification(LlamaConfig(**shape, **more)),
        "qwen3": Qwen3ForSequenceClassification(Qwen3Config(**shape, **more, head_dim=8)),
        "biased": LlamaForSequenceClassification(LlamaConfig(**shape, **more, attention_bias=True)),
    }
    for model in found.values():
        for name, each in model.named_parameters():
            if each.dim() == 1:
                torch.nn.init.normal_(each, 1.0 if "norm" in name else 0.0, 0.3)
    return {name: model.eval() for name, model in found.items()}
