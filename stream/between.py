"""What a pass without padding does between its matrix products, in torch's own operations, one after the other.

kernels.py does the same on a GPU and reads and writes every number once. Shapes: T tokens end to end, S keys end to end, H hidden,
N heads, K key heads, D head width, C = N × D columns, I inner width.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from inspect import signature
from typing import Any, NamedTuple, cast

import torch
from torch.nn import functional as F


class Stretches(NamedTuple):
    """Where stretches of queries and of their keys begin and the last ends, and the longest of each."""

    queries: torch.Tensor
    keys: torch.Tensor
    most_queries: int
    most_keys: int


class Turn(NamedTuple):
    """The place of every token, the rotation of every place (cosine and sine side by side), head width and epsilon of norms."""

    places_T: torch.Tensor
    rotation_PD: torch.Tensor
    width: int
    eps: float


class Between:
    """Norms, rotations, gates and attention of a pass."""

    def add_normed(self, x_TH: torch.Tensor, more_TH: torch.Tensor | None, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """Add to x in place, and return it scaled to root mean square 1."""
        if more_TH is not None:
            x_TH.add_(more_TH)
        return (x_TH * torch.rsqrt(x_TH.square().mean(-1, keepdim=True) + eps)).to(dtype)

    def turned(self, x_TC: torch.Tensor, gain_N1D: torch.Tensor | None, source_S: torch.Tensor | None, turn: Turn) -> torch.Tensor:
        """Return heads_TND of the columns, normed where there is a gain and turned by their places; picked by source, heads_SND."""
        x_TND = x_TC.unflatten(1, (-1, turn.width)).float()
        if gain_N1D is not None:
            x_TND = x_TND * torch.rsqrt(x_TND.square().mean(-1, keepdim=True) + turn.eps) * gain_N1D.squeeze(1)
        pairs, turns = (
            torch.view_as_complex(each.unflatten(-1, (-1, 2)).contiguous()) for each in (x_TND, turn.rotation_PD[turn.places_T])
        )
        found = torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x_TC.dtype)
        return found if source_S is None else found.index_select(0, source_S)

    def gated(self, x_T2I: torch.Tensor) -> torch.Tensor:
        """Return SiLU of the first half times the second."""
        gate, up = x_T2I.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def attention(self, query_TND: torch.Tensor, key_SKD: torch.Tensor, value_SKD: torch.Tensor, stretches: Stretches) -> torch.Tensor:
        """Return out_TND of every stretch of queries, which is the causal end of its stretch of keys."""
        if query_TND.device.type == "cuda":
            return _flash()(
                query_TND, key_SKD, value_SKD, stretches.queries, stretches.keys, stretches.most_queries, stretches.most_keys
            )  # fmt: skip
        queries = query_TND.split(stretches.queries.diff().tolist())
        keys, values = (_cut(each, stretches.keys) for each in (key_SKD, value_SKD))
        return torch.cat([_causal_end(*each) for each in zip(queries, keys, values, strict=True)])


@cache
def _flash() -> Callable[..., torch.Tensor]:
    """Return flash attention over stretches; it is imported where it runs, as that takes a second."""
    from torch.nn.attention.varlen import varlen_attn

    says_groups: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}  # 2.11 does it unasked
    return cast(Callable[..., torch.Tensor], partial(varlen_attn, scale=1.0, window_size=(-1, 0), **says_groups))


def _cut(x_SKD: torch.Tensor, edges: torch.Tensor) -> Sequence[torch.Tensor]:
    found: Sequence[torch.Tensor] = x_SKD[int(edges[0]) :].split(edges.diff().tolist())
    return found


def _causal_end(query_QND: torch.Tensor, key_CKD: torch.Tensor, value_CKD: torch.Tensor) -> torch.Tensor:
    """Return attention of queries that are the last of the keys' tokens."""
    queries, keys = len(query_QND), len(key_CKD)
    sees = torch.ones(queries, keys, dtype=torch.bool, device=query_QND.device).tril(keys - queries)
    query, key, value = (each.transpose(0, 1)[None] for each in (query_QND, key_CKD, value_CKD))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=1.0, enable_gqa=True)[0].transpose(0, 1)
