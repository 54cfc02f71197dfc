"""The weights of a Qwen2-, Qwen3- or Llama-shaped trunk with its reward head, folded and packed for passes of our own.

Gains of the norms are folded into the next weights, and the pairs that the rotation turns lie beside each other. What this file
does not know raises UnknownShape, and the caller keeps transformers' own forward.

Shapes: V tokens of the vocabulary, T places, H hidden, N query heads, K key heads, D head width.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

KNOWN = ("qwen2", "qwen3", "llama")
_STATIC_ROPE = ("default", "linear", "llama3", "proportional")
_NO_BIAS = ("o_proj.bias", "gate_proj.bias", "up_proj.bias", "down_proj.bias")


class UnknownShape(Exception):  # noqa: N818
    """The trunk is not one that this file can pack."""


class Layer(NamedTuple):
    """Weights of one layer, norms folded in; rows of queries, then keys (both with their pairs side by side), then values."""

    project: torch.Tensor
    project_bias: torch.Tensor | None
    gain_N1D: torch.Tensor | None
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Trunk(NamedTuple):
    """A trunk with its head: embedding_VH, layers, score_H, rotation_TD (complex, D/2 numbers a place), and its numbers."""

    embedding: torch.Tensor
    layers: list[Layer]
    score_H: torch.Tensor
    rotation: torch.Tensor
    heads: int
    key_heads: int
    width: int
    eps: float


def packed(model: PreTrainedModel, dtype: torch.dtype, device: torch.device) -> Trunk:
    """Fold and pack a model's weights for a device; `dtype` is what matrix products run in. Raises UnknownShape."""
    trunk = _checked(model)
    config = model.config
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    final_gain = trunk.get_parameter("norm.weight").detach().float()
    return Trunk(
        trunk.get_parameter("embed_tokens.weight").detach().float().to(device),
        [_layer(each, heads, key_heads, width, dtype, device) for each in trunk.get_submodule("layers").children()],
        (model.get_parameter("score.weight").detach().float()[0] * final_gain).to(device),
        _rotation(trunk, config.max_position_embeddings, width, model.device).to(device),
        heads,
        key_heads,
        width,
        config.rms_norm_eps,
    )


def _layer(layer: nn.Module, heads: int, key_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> Layer:
    """Fold and pack one layer of transformers'."""
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    before, after = (layer.get_parameter(f"{name}.weight").detach().float() for name in ("input_layernorm", "post_attention_layernorm"))
    paired = torch.arange(width, device=before.device).view(2, -1).T.flatten()  # i and i + D/2 side by side

    def rows(name: str, count: int, *, in_pairs: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        module = attention.get_submodule(name)
        weight = module.get_parameter("weight").detach().float() * before
        bias = None if module.bias is None else module.get_parameter("bias").detach().float()
        if in_pairs:
            weight = weight.view(count, width, -1)[:, paired].flatten(0, 1)
            bias = None if bias is None else bias.view(count, width)[:, paired].flatten()
        return weight, bias

    scale = width**-0.5
    query, query_bias = rows("q_proj", heads, in_pairs=True)
    key, key_bias = rows("k_proj", key_heads, in_pairs=True)
    value, value_bias = rows("v_proj", key_heads, in_pairs=False)
    gain_N1D = None
    if hasattr(attention, "q_norm"):
        gains = [attention.get_parameter(f"{name}.weight").detach().float()[paired] for name in ("q_norm", "k_norm")]
        gain_N1D = torch.cat([(gains[0] * scale).expand(heads, 1, -1), gains[1].expand(key_heads, 1, -1)])
    else:
        query, query_bias = query * scale, None if query_bias is None else query_bias * scale
    biases = [query_bias, key_bias, value_bias]
    mlp_in = torch.cat([mlp.get_parameter(f"{name}.weight").detach().float() * after for name in ("gate_proj", "up_proj")])
    return Layer(
        torch.cat([query, key, value]).to(device, dtype),
        torch.cat([bias for bias in biases if bias is not None]).to(device, dtype) if all(b is not None for b in biases) else None,
        None if gain_N1D is None else gain_N1D.to(device),
        attention.get_parameter("o_proj.weight").detach().to(device, dtype),
        mlp_in.to(device, dtype),
        mlp.get_parameter("down_proj.weight").detach().to(device, dtype),
    )


def _checked(model: PreTrainedModel) -> nn.Module:
    """Return the trunk if it is one of KNOWN without windows, other activations or rotations that depend on the length."""
    config = model.config
    kind = config.model_type
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    layers = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kind not in KNOWN or config.hidden_act != "silu" or rope not in _STATIC_ROPE or layers != {"full_attention"}:
        raise UnknownShape(f"{kind} with {config.hidden_act}, {rope} rotations and {', '.join(sorted(layers))}")
    trunk = model.get_submodule(model.base_model_prefix)
    biased = [name for name, _ in trunk.named_parameters() if name.endswith(_NO_BIAS)]
    if biased:
        raise UnknownShape(f"{kind} with {biased[0]}")
    return trunk


def _rotation(trunk: nn.Module, positions: int, width: int, device: torch.device) -> torch.Tensor:
    """Return the complex rotation of every place, rotation_TD with D/2 numbers, as the trunk itself makes it."""
    places = torch.arange(positions, device=device)[None]
    cos, sin = trunk.get_submodule("rotary_emb")(torch.empty(0, dtype=torch.float32, device=device), places)
    return torch.complex(cos[0, :, : width // 2].contiguous(), sin[0, :, : width // 2].contiguous())
