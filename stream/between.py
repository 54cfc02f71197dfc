"""What a pass without padding does between its matrix products, in torch's own operations, one after the other.

This is what kernels.py is held to: it does the same on a GPU and reads and writes every number once. Shapes: T tokens end to end,
H hidden, N heads, P places, D head width, C columns (queries, keys and values of a token side by side), I inner width, K blocks.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

QUERIES = 64  # of a block: what attention does at once


class Heads(NamedTuple):
    """How many query and key heads there are, how wide each is, and the epsilon of norms."""

    queries: int
    keys: int
    width: int
    eps: float


class Part(NamedTuple):
    """Tokens that see each other: from `start`, so many; those from `second` on do not see the `answer` tokens before it.

    All see the `head` first tokens of the batch, too.
    """

    start: np.ndarray
    size: np.ndarray
    second: np.ndarray
    answer: np.ndarray
    head: np.ndarray


class Between:
    """Norms, rotations, gates and attention of a pass."""

    def add_normed(self, x_TH: torch.Tensor, more_TH: torch.Tensor | None, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """Add to x in place, and return it scaled to root mean square 1."""
        if more_TH is not None:
            x_TH.add_(more_TH)
        return (x_TH * torch.rsqrt(x_TH.square().mean(-1, keepdim=True) + eps)).to(dtype)

    def turn(
        self, x_TC: torch.Tensor, gain_N1D: torch.Tensor | None, places_T: torch.Tensor, rotation_PD: torch.Tensor, heads: Heads
    ) -> None:
        """Turn queries and keys in place by the places of their tokens, after norming each where there is a gain.

        rotation_PD: cosine and sine of every pair, side by side.
        """
        columns = x_TC[:, : (heads.queries + heads.keys) * heads.width]
        x_TND = columns.unflatten(1, (-1, heads.width)).float()
        if gain_N1D is not None:
            x_TND = x_TND * torch.rsqrt(x_TND.square().mean(-1, keepdim=True) + heads.eps) * gain_N1D.squeeze(1)
        pairs, turns = (torch.view_as_complex(each.unflatten(-1, (-1, 2)).contiguous()) for each in (x_TND, rotation_PD[places_T]))
        columns.copy_(torch.view_as_real(pairs * turns[:, None]).flatten(1))

    def gated(self, x_T2I: torch.Tensor) -> torch.Tensor:
        """Return SiLU of the first half times the second."""
        gate, up = x_T2I.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def attention(self, x_TC: torch.Tensor, blocks_6K: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Return out_T(ND) of turned queries on the keys and values that their part lets them see; blocks as `blocks_of` makes them."""
        found = torch.empty(len(x_TC), heads.queries * heads.width, dtype=x_TC.dtype, device=x_TC.device)
        for first, start, size, second, answer, head in blocks_6K.T.tolist():
            if first:
                continue  # a part is done with its first block
            tokens = torch.cat([torch.arange(head), torch.arange(start, start + size)]).to(x_TC.device)
            at = torch.arange(-head, size, device=x_TC.device)
            mine = at[head:, None]
            sees = (at <= mine) & ~((mine >= second) & (at >= second - answer) & (at < second))
            query, key, value = (
                each.unflatten(1, (-1, heads.width)).transpose(0, 1)[None]
                for each in x_TC[tokens].split([each * heads.width for each in (heads.queries, heads.keys, heads.keys)], dim=1)
            )
            out = F.scaled_dot_product_attention(query[:, :, head:], key, value, attn_mask=sees, scale=1.0, enable_gqa=True)
            found[start : start + size] = out[0].transpose(0, 1).flatten(1)
        return found


def blocks_of(parts: Part) -> np.ndarray:
    """Return blocks of at most QUERIES queries: for each its first query, then start, size, second, answer and head of its part."""
    counts = -(-parts.size // QUERIES)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([within * QUERIES, *(np.repeat(each, counts) for each in parts)]).astype(np.int32)
