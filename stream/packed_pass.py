"""Both rewards of a batch in one pass of our own through a packed trunk, without padding: for GPUs, whose attention takes any lengths.

    head | record, tail, right answer | wrong answer | record, tail, right answer | wrong answer | …

All tokens of a batch lie end to end; matrix products, norms and rotations do not ask whose they are. Attention does: the head
is read once a batch, a record with its right answer sees the head and itself, and the wrong answer sees the head, the record and
itself. So keys and values are gathered, head and record twice, which costs little beside the products, and every stretch of
queries is the causal end of its stretch of keys. An answer ends where its reward is read: nothing behind it can matter.

In the last layer only the two tokens whose rewards are read go through queries, output and MLP. What lies between the products
runs in kernels.py, or as torch has it where Triton cannot run.

Shapes: B records, T tokens end to end, S keys end to end, H hidden, N query heads, K key heads, D head width, I inner width.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from stream.between import Between, Stretches, Turn
from stream.encode import Template, last_read
from stream.tokenise import Ids
from stream.trunk import Layer, UnknownShape, packed

log = logging.getLogger("winnow.score")

_WIDEST, _MULTIPLE = 256, 8  # head widths that flash attention takes
_ALIGNED = 4  # int32 numbers, 16 bytes: Triton compiles a kernel anew for a pointer that is aligned otherwise


class Packed(NamedTuple):
    """ids_T and places_T of all tokens, source_S (the token of every key), the stretches, and read_2B, the tokens that are read."""

    ids_T: torch.Tensor
    places_T: torch.Tensor
    source_S: torch.Tensor
    all_layers: Stretches
    last_layer: Stretches
    read_2B: torch.Tensor


class PackedPass:
    """A trunk with its head, ready to run; its weights are its own, so those of the model it was made of can be let go."""

    def __init__(self, model: PreTrainedModel, template: Template, pad_id: int, dtype: torch.dtype, device: torch.device) -> None:
        """Pack the weights for a device; `dtype` is what matrix products run in. Raises UnknownShape."""
        trunk = packed(model, dtype, device)
        if trunk.width > _WIDEST or trunk.width % _MULTIPLE:
            raise UnknownShape(f"{trunk.width} numbers a head")
        self._trunk, self._dtype, self._device = trunk, dtype, device
        self._layers = trunk.layers
        self._head, self._tail = np.array(template.head, dtype=np.int32), template.tail
        self._right, self._wrong = (answer[: last_read(answer, pad_id) + 1] for answer in (template.right, template.wrong))
        self._rotation_TD = torch.view_as_real(trunk.rotation).flatten(1)
        self._between = between(device)

    @torch.inference_mode()
    def rewards(self, records: Sequence[Sequence[int] | Ids]) -> torch.Tensor:
        """Return rewards_B2 (right, wrong) in float32 of one batch of record ids; a GPU may still be at it."""
        return self.through(self.laid_out(records))

    def through(self, batch: Packed) -> torch.Tensor:
        """Return rewards_B2 of a batch that is laid out."""
        between, trunk = self._between, self._trunk
        x_TH = F.embedding(batch.ids_T, trunk.embedding)
        normed = partial(between.add_normed, eps=trunk.eps, dtype=self._dtype)
        turn = Turn(batch.places_T, self._rotation_TD, trunk.width, trunk.eps)
        more_TH = None
        for layer in self._layers[:-1]:
            projected = F.linear(normed(x_TH, more_TH), layer.project, layer.project_bias)
            key, value = self._keys(projected, layer, turn, batch.source_S)
            out = between.attention(self._query(projected, layer, turn), key, value, batch.all_layers).flatten(1)
            more_TH = self._mlp(normed(x_TH, F.linear(out, layer.out)), layer)
        layer = self._layers[-1]
        normed_TH, queries = normed(x_TH, more_TH), trunk.heads * trunk.width
        bias = (None, None) if layer.project_bias is None else (layer.project_bias[:queries], layer.project_bias[queries:])
        key, value = self._keys(F.linear(normed_TH, layer.project[queries:], bias[1]), layer, turn, batch.source_S)
        asked = F.linear(normed_TH[batch.read_2B], layer.project[:queries], bias[0])
        query = self._query(asked, layer, turn._replace(places_T=batch.places_T[batch.read_2B]))
        out = between.attention(query, key, value, batch.last_layer).flatten(1)
        x_2BH = x_TH[batch.read_2B]
        x_2BH.add_(self._mlp(normed(x_2BH, F.linear(out, layer.out)), layer))
        length = torch.linalg.vector_norm(x_2BH, dim=-1)
        found = (x_2BH @ trunk.score_H) * torch.rsqrt(length.square() / x_2BH.shape[1] + trunk.eps)
        return found.view(-1, 2)

    def laid_out(self, records: Sequence[Sequence[int] | Ids]) -> Packed:
        """Return one batch of record ids as `through` takes it."""
        head, right, wrong = len(self._head), len(self._right), len(self._wrong)
        lengths_B = np.array([len(ids) for ids in records])
        first_B = lengths_B + len(self._tail) + right  # tokens of a record with its right answer
        starts_B = head + np.cumsum(first_B + wrong) - first_B - wrong
        # tokens
        offset_T = _offsets(first_B + wrong)
        size_T, right_T = np.repeat(lengths_B, first_B + wrong), np.repeat(first_B, first_B + wrong)
        ids_T = np.empty(len(offset_T), dtype=np.int32)
        is_record_T = offset_T < size_T
        ids_T[is_record_T] = np.concatenate(records, dtype=np.int32, casting="unsafe")  # an empty list has a type of its own
        ids_T[~is_record_T] = np.tile([*self._tail, *self._right, *self._wrong], len(records))
        places_T = head + offset_T - (offset_T >= right_T) * right
        # keys: the head, a record with its right answer, the head, the record with its wrong one
        sizes_2B = np.stack([head + first_B, head + first_B - right + wrong], axis=1).ravel()
        offset_S, behind_S = _offsets(sizes_2B), np.repeat(np.repeat(starts_B, 2), sizes_2B)
        is_wrong_2B = np.tile([False, True], len(records))
        answers_at_S = np.repeat(np.where(is_wrong_2B, head + np.repeat(first_B, 2) - right, sizes_2B), sizes_2B)
        source_S = np.where(offset_S < head, offset_S, behind_S + offset_S - head + (offset_S >= answers_at_S) * right)
        read_2B = np.stack([starts_B + first_B, starts_B + first_B + wrong], axis=1).ravel() - 1
        queries_2B = np.stack([first_B, np.full_like(first_B, wrong)], axis=1).ravel()
        has_head = [head] * (head > 0)  # the head is the first stretch, and its own keys
        arrays = [
            np.concatenate([self._head, ids_T]),
            np.concatenate([np.arange(head), places_T]),
            np.concatenate([np.arange(head), source_S]),
            _edges([*has_head, *queries_2B]),
            _edges([*has_head, *sizes_2B]),
            _edges([1] * len(sizes_2B)),
            head + _edges(sizes_2B),
            read_2B,
        ]
        ids, places, source, queries, keys, queries_last, keys_last, read = self._sent(arrays)
        longest = int(sizes_2B.max(initial=head))
        return Packed(
            ids, places, source,
            Stretches(queries, keys, int(max(first_B.max(initial=head), wrong)), longest),
            Stretches(queries_last, keys_last, 1, longest),
            read,
        )  # fmt: skip

    def _sent(self, arrays: Sequence[np.ndarray]) -> Sequence[torch.Tensor]:
        """Return arrays as int32 on the device, each aligned, sent there in one piece while it works on other batches."""
        sizes = [len(each) for each in arrays]
        starts = np.cumsum([0, *(-(-size // _ALIGNED) * _ALIGNED for size in sizes)])
        whole = torch.empty(int(starts[-1]), dtype=torch.int32, pin_memory=self._device.type == "cuda")
        written = whole.numpy()
        for each, start in zip(arrays, starts, strict=False):
            written[start : start + len(each)] = each
        sent = whole.to(self._device, non_blocking=True)
        return [sent[start : start + size] for start, size in zip(starts.tolist(), sizes, strict=False)]

    def _query(self, projected: torch.Tensor, layer: Layer, turn: Turn) -> torch.Tensor:
        gain = None if layer.gain_N1D is None else layer.gain_N1D[: self._trunk.heads]
        return self._between.turned(projected[:, : self._trunk.heads * turn.width], gain, None, turn)

    def _keys(self, projected: torch.Tensor, layer: Layer, turn: Turn, source_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return key_SKD, turned, and value_SKD of the last columns, one for every key that a stretch sees."""
        size = self._trunk.key_heads * turn.width
        gain = None if layer.gain_N1D is None else layer.gain_N1D[self._trunk.heads :]
        value_SC = projected[:, -size:].index_select(0, source_S)
        return self._between.turned(projected[:, -2 * size : -size], gain, source_S, turn), value_SC.unflatten(1, (-1, turn.width))

    def _mlp(self, normed_TH: torch.Tensor, layer: Layer) -> torch.Tensor:
        return F.linear(self._between.gated(F.linear(normed_TH, layer.gate_up)), layer.down)


def between(device: torch.device) -> Between:
    """Return kernels of our own on a GPU where Triton can compile them, torch's operations elsewhere."""
    if device.type != "cuda":
        return Between()
    try:
        from stream.kernels import CompiledBetween

        found = CompiledBetween()
        x = torch.ones(1, 8, device=device)
        found.add_normed(x, None, 1e-6, torch.bfloat16)
    except Exception as error:  # noqa: BLE001 - no Triton, no C compiler, a GPU it does not know: slower, not wrong
        log.warning("no kernels of our own here: scoring is slower", extra={"error": f"{type(error).__name__}: {error}"[:300]})
        return Between()
    return found


def is_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the device's attention takes stretches of any length of this type."""
    return device.type == "cuda" and dtype == torch.bfloat16


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """Return 0, 1, … within each of so many stretches: `[2, 3]` becomes `[0, 1, 0, 1, 2]`."""
    found: np.ndarray = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return found


def _edges(sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return where stretches begin and the last ends: `[2, 3]` becomes `[0, 2, 5]`."""
    found: np.ndarray = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return found
