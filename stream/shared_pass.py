"""Both rewards of a batch in one pass of our own through a packed trunk: records of like length, padded to the longest.

    [cached head] | record, tail (padded to the longest) | right answer, wrong answer

The prefix sees itself causally and needs no mask; the answers see the prefix and themselves, not each other. Keys and values
of the template's head are computed once a model. In the last layer only the two tokens whose rewards are read go through
queries, output and MLP. The residual stream stays in float32 whatever the matrix products run in.

Shapes: B records, P prefix tokens, A answer tokens, S = P + A, H hidden, N query heads, K key heads, D head width, C cached
head tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from stream.encode import Template, last_read
from stream.tokenise import Ids
from stream.trunk import Layer, packed

_SHORT = 512  # prefix tokens up to which attention is a plain product of matrices
_SCORES = 600_000  # numbers in one such product: what stays in a core's cache
_LEAST_CACHED = 8  # a shorter head costs less than the copies of its keys


class Batch(NamedTuple):
    """ids_BS, rotation_B1SD (complex, D/2), mask_B1AS over cached, prefix and answer keys, mask_prefix_PP over cached and prefix ones."""

    ids_BS: torch.Tensor
    rotation_B1SD: torch.Tensor
    mask_B1AS: torch.Tensor
    mask_prefix_PP: torch.Tensor


class SharedPass:
    """A trunk with its head, ready to run; its weights are its own, so those of the model it was made of can be let go."""

    def __init__(self, model: PreTrainedModel, template: Template, pad_id: int, dtype: torch.dtype, device: torch.device) -> None:
        """Pack the weights for a device; `dtype` is what matrix products run in. Raises UnknownShape."""
        trunk = packed(model, dtype, device)
        self._template, self._pad_id, self._dtype, self._device = template, pad_id, dtype, device
        # small products in float32 are faster on a CPU than its flash attention, and nearer to the truth than bfloat16
        self._attends_in = torch.float32 if device.type == "cpu" else dtype
        self._embedding, self._layers, self._score_H, self._rotation = trunk.embedding, trunk.layers, trunk.score_H, trunk.rotation
        self._heads, self._key_heads, self._width, self._eps = trunk.heads, trunk.key_heads, trunk.width, trunk.eps
        right, wrong = len(template.right), len(template.wrong)
        self._answers = [*template.right, *template.wrong]
        self._offsets_A = np.array([*range(right), *range(wrong)])
        self._read = [last_read(template.right, pad_id), right + last_read(template.wrong, pad_id)]
        side_A = np.array([0] * right + [1] * wrong)
        sees = (side_A[:, None] == side_A[None, :]) & (np.arange(right + wrong)[:, None] >= np.arange(right + wrong)[None, :])
        self._answers_see_AA = torch.from_numpy(sees).to(self._device)
        is_cached = len(template.head) >= _LEAST_CACHED
        self._before = () if is_cached else template.head
        self._cached: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        if is_cached:
            self._cached = self._head_cache(template.head)

    @torch.inference_mode()
    def rewards(self, records: Sequence[Sequence[int] | Ids]) -> torch.Tensor:
        """Return rewards_B2 (right, wrong) in float32 of one batch of record ids."""
        return self.through(self.laid_out(records))

    def through(self, batch: Batch) -> torch.Tensor:
        """Return rewards_B2 of a batch that is laid out."""
        x_BSH = F.embedding(batch.ids_BS, self._embedding)
        for place, layer in enumerate(self._layers[:-1]):
            query, key, value = self._query_key_value(x_BSH, layer, batch.rotation_B1SD)
            x_BSH = self._after_attention(x_BSH, self._attention(query, key, value, place, batch), layer)
        return self._last_layer(x_BSH, batch)

    def laid_out(self, records: Sequence[Sequence[int] | Ids]) -> Batch:
        """Return one batch of record ids as `through` takes it."""
        before, tail, answers = self._before, self._template.tail, len(self._answers)
        lengths_B = np.array([len(ids) for ids in records]) + len(before) + len(tail)
        prefix = int(lengths_B.max())
        ids_BS = np.full((len(records), prefix + answers), self._pad_id, dtype=np.int64)
        ids_BS[:, : len(before)] = before
        ids_BS[:, prefix:] = self._answers
        for row, (ids, end) in enumerate(zip(records, lengths_B, strict=True)):
            ids_BS[row, len(before) : end - len(tail)] = ids
            ids_BS[row, end - len(tail) : end] = tail
        cached = 0 if self._cached is None else len(self._template.head)
        positions_BS = np.empty(ids_BS.shape, dtype=np.int64)
        positions_BS[:, :prefix] = np.arange(cached, cached + prefix)
        positions_BS[:, prefix:] = cached + lengths_B[:, None] + self._offsets_A
        lengths = torch.from_numpy(lengths_B).to(self._device)
        sees_BP = torch.arange(prefix, device=self._device) < lengths[:, None]
        sees_BAS = torch.cat(
            [
                torch.ones(len(records), answers, cached, dtype=torch.bool, device=self._device),
                sees_BP[:, None].expand(-1, answers, -1),
                self._answers_see_AA.expand(len(records), -1, -1),
            ],
            dim=2,
        )
        return Batch(
            torch.from_numpy(ids_BS).to(self._device),
            self._rotation[torch.from_numpy(positions_BS).to(self._device)][:, None],
            _additive(sees_BAS, self._attends_in)[:, None],
            _causal_after(cached, prefix, self._attends_in, self._device),
        )

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        """Return x scaled to root mean square 1, without the gain."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * torch.rsqrt(length.square().div_(x.shape[-1]).add_(self._eps))

    def _heads_of(self, x_BSH: torch.Tensor, layer: Layer, rows: slice) -> torch.Tensor:
        """Return heads_BSND of some rows of the projection."""
        bias = None if layer.project_bias is None else layer.project_bias[rows]
        found: torch.Tensor = F.linear(self._normed(x_BSH).to(self._dtype), layer.project[rows], bias).unflatten(-1, (-1, self._width))
        return found

    def _query_key_value(
        self, x_BSH: torch.Tensor, layer: Layer, rotation_B1SD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return query_BNSD and key_BKSD, both turned, and value_BKSD."""
        asked, value = (
            self._heads_of(x_BSH, layer, slice(None)).transpose(1, 2).split([self._heads + self._key_heads, self._key_heads], dim=1)
        )
        query, key = self._turned(asked, layer.gain_N1D, rotation_B1SD).split([self._heads, self._key_heads], dim=1)
        return query, key, value

    def _turned(self, x_BNSD: torch.Tensor, gain_N1D: torch.Tensor | None, rotation_B1SD: torch.Tensor) -> torch.Tensor:
        """Return queries or keys normed by head, where the trunk does that, and turned by their places, laid out for attention."""
        x = x_BNSD.to(torch.float32, memory_format=torch.contiguous_format)
        if gain_N1D is not None:
            x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._eps) * gain_N1D
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * rotation_B1SD).flatten(-2).to(self._attends_in)

    def _attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, place: int, batch: Batch) -> torch.Tensor:
        """Return out_BS(ND): the prefix on itself and the cached head, the answers on all that they may see."""
        answers = len(self._answers)
        prefix = query.shape[2] - answers
        key, value = self._keys(key, place, 0), self._keys(value, place, 1)
        seen = key.shape[2] - answers
        if self._attends_in == torch.float32 and prefix <= _SHORT:
            of_prefix = _attend_short(query[:, :, :prefix], key[:, :, :seen], value[:, :, :seen], batch.mask_prefix_PP)
        else:
            is_causal = self._cached is None
            of_prefix = F.scaled_dot_product_attention(
                query[:, :, :prefix], key[:, :, :seen], value[:, :, :seen],
                attn_mask=None if is_causal else batch.mask_prefix_PP, is_causal=is_causal, scale=1.0,
            )  # fmt: skip
        of_answers = _attend(query[:, :, prefix:], key, value, batch.mask_B1AS)
        out = torch.empty(len(query), prefix + answers, self._heads, self._width, dtype=self._dtype, device=query.device)
        out[:, :prefix] = of_prefix.transpose(1, 2)
        out[:, prefix:] = of_answers.transpose(1, 2)
        return out.flatten(2)

    def _keys(self, key_BKSD: torch.Tensor, place: int, which: int) -> torch.Tensor:
        """Return keys or values as BN(C+S)D: the cached head's before them, each shared by its query heads."""
        key = key_BKSD.to(self._attends_in, memory_format=torch.contiguous_format)
        if self._cached is not None:
            key = torch.cat([self._cached[place][which].expand(len(key), -1, -1, -1), key], dim=2)
        groups = self._heads // self._key_heads
        return key if groups == 1 else key.repeat_interleave(groups, dim=1)

    def _after_attention(self, x: torch.Tensor, out: torch.Tensor, layer: Layer) -> torch.Tensor:
        """Add what attention and MLP say to the residual stream."""
        x = x + F.linear(out, layer.out)
        gate, up = F.linear(self._normed(x).to(self._dtype), layer.gate_up).chunk(2, dim=-1)
        return x.add_(F.linear(F.silu(gate).mul_(up), layer.down))

    def _last_layer(self, x_BSH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return rewards_B2: keys and values of all tokens, all else of the two that are read."""
        place, layer = len(self._layers) - 1, self._layers[-1]
        prefix, queries = x_BSH.shape[1] - len(self._answers), self._heads * self._width
        at = [prefix + each for each in self._read]
        gain_q, gain_k = (None, None) if layer.gain_N1D is None else layer.gain_N1D.split([self._heads, self._key_heads])
        key, value = self._heads_of(x_BSH, layer, slice(queries, None)).transpose(1, 2).chunk(2, dim=1)
        key = self._turned(key, gain_k, batch.rotation_B1SD)
        x_B2H = x_BSH[:, at]
        query = self._turned(self._heads_of(x_B2H, layer, slice(queries)).transpose(1, 2), gain_q, batch.rotation_B1SD[:, :, at])
        out = _attend(query, self._keys(key, place, 0), self._keys(value, place, 1), batch.mask_B1AS[:, :, self._read])
        x_B2H = self._after_attention(x_B2H, out.transpose(1, 2).flatten(2).to(self._dtype), layer)
        return self._normed(x_B2H) @ self._score_H

    @torch.inference_mode()
    def _head_cache(self, head: tuple[int, ...]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return keys_1KCD and values_1KCD of the template's head, layer by layer."""
        x_1CH = F.embedding(torch.tensor([head], device=self._device), self._embedding)
        rotation = self._rotation[: len(head)][None, None]
        groups = self._heads // self._key_heads
        found = []
        for layer in self._layers:
            query, key, value = self._query_key_value(x_1CH, layer, rotation)
            value = value.to(self._attends_in)
            found.append((key, value))
            wide_key, wide_value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
            out = F.scaled_dot_product_attention(query, wide_key, wide_value, is_causal=True, scale=1.0)
            x_1CH = self._after_attention(x_1CH, out.transpose(1, 2).flatten(2).to(self._dtype), layer)
        return found


def _additive(sees: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return 0 where a token may look and minus infinity elsewhere."""
    return torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, -torch.inf)


def _causal_after(cached: int, prefix: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return the mask of a prefix behind a cached head: all of the head, and what came before."""
    sees = torch.ones(prefix, cached + prefix, dtype=torch.bool, device=device).tril(cached)
    return _additive(sees, dtype)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return attention of few queries on many keys; mask broadcasts over heads."""
    weights = torch.softmax(torch.matmul(query, key.transpose(-1, -2)).add_(mask), dim=-1)
    return torch.matmul(weights, value)


def _attend_short(query_BNPD: torch.Tensor, key_BNSD: torch.Tensor, value_BNSD: torch.Tensor, mask_PS: torch.Tensor) -> torch.Tensor:
    """Return attention as two products, so many records at once that their scores stay in the cache."""
    records, heads, places, width = query_BNPD.shape
    seen = key_BNSD.shape[2]
    out_BNPD = torch.empty(records, heads, places, width, device=query_BNPD.device)
    step = max(1, _SCORES // (heads * places * seen))
    for at in range(0, records, step):
        query, key, value, out = (each[at : at + step].flatten(0, 1) for each in (query_BNPD, key_BNSD, value_BNSD, out_BNPD))
        torch.bmm(torch.softmax(torch.baddbmm(mask_PS, query, key.transpose(1, 2)), dim=-1), value, out=out)
    return out_BNPD
