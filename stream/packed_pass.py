"""Both rewards of a batch in one pass of our own through a packed trunk, without padding: for GPUs.

    head | record, tail, right answer, wrong answer | record, tail, right answer, wrong answer | …

All tokens of a batch lie end to end; matrix products, norms and rotations do not ask whose they are, and attention is told: the head
is read once a batch, a record with its right answer sees the head and itself, and the wrong answer sees the head, the record and
itself. An answer ends where its reward is read: nothing behind it can matter. In the last layer only the two tokens whose rewards
are read go through output and MLP. What lies between the matrix products runs in kernels.py.

Shapes: B records, T tokens end to end, H hidden, P places, D head width, C columns (queries, keys and values of a token side by side), K
blocks of queries.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from stream.between import Between, Heads, Part, blocks_of
from stream.encode import Template, last_read
from stream.tokenise import Ids
from stream.trunk import Layer, packed

_ALIGNED = 4  # int32 numbers, 16 bytes: Triton compiles a kernel anew for a pointer that is aligned otherwise


class Packed(NamedTuple):
    """ids_T and places_T of all tokens, blocks_6K of attention, and read_2B, the tokens whose rewards are read."""

    ids_T: torch.Tensor
    places_T: torch.Tensor
    blocks_6K: torch.Tensor
    read_2B: torch.Tensor


class PackedPass:
    """A trunk with its head, ready to run; its weights are its own, so those of the model it was made of can be let go."""

    def __init__(
        self, model: PreTrainedModel, template: Template, pad_id: int, dtype: torch.dtype, device: torch.device, between: Between
    ) -> None:
        """Pack the weights for a device; `dtype` is what matrix products run in. Raises UnknownShape."""
        trunk = packed(model, dtype, device)
        self._trunk, self._dtype, self._device = trunk, dtype, device
        self._heads = Heads(trunk.heads, trunk.key_heads, trunk.width, trunk.eps)
        self._head, self._tail = np.array(template.head, dtype=np.int32), template.tail
        self._right, self._wrong = (answer[: last_read(answer, pad_id) + 1] for answer in (template.right, template.wrong))
        self._rotation_PD = torch.view_as_real(trunk.rotation).flatten(1)
        self._between = between

    @torch.inference_mode()
    def rewards(self, records: Sequence[Sequence[int] | Ids]) -> torch.Tensor:
        """Return rewards_B2 (right, wrong) in float32 of one batch of record ids; a GPU may still be at it."""
        # Triton runs on the device that is current for the thread
        with torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext():
            return self._through(self._laid_out(records))

    def _through(self, batch: Packed) -> torch.Tensor:
        """Return rewards_B2 of a batch that is laid out."""
        trunk, read_2B = self._trunk, batch.read_2B
        x_TH = F.embedding(batch.ids_T, trunk.embedding)
        more_TH = None
        for layer in trunk.layers[:-1]:
            out = self._attention(self._normed(x_TH, more_TH), layer, batch)
            more_TH = self._mlp(self._normed(x_TH, F.linear(out, layer.out)), layer)
        layer = trunk.layers[-1]
        out = self._attention(self._normed(x_TH, more_TH), layer, batch)[read_2B]
        x_2BH = x_TH[read_2B]
        x_2BH.add_(self._mlp(self._normed(x_2BH, F.linear(out, layer.out)), layer))
        length = torch.linalg.vector_norm(x_2BH, dim=-1)
        return ((x_2BH @ trunk.score_H) * torch.rsqrt(length.square() / x_2BH.shape[1] + trunk.eps)).view(-1, 2)

    def _laid_out(self, records: Sequence[Sequence[int] | Ids]) -> Packed:
        """Return one batch of record ids as `_through` takes it."""
        head, right, wrong = len(self._head), len(self._right), len(self._wrong)
        lengths_B = np.array([len(ids) for ids in records])
        second_B = lengths_B + len(self._tail) + right
        sizes_B = second_B + wrong
        starts_B = head + np.cumsum(sizes_B) - sizes_B
        offset_T = np.arange(sizes_B.sum()) - np.repeat(starts_B - head, sizes_B)
        ids_T = np.empty(len(offset_T), dtype=np.int32)
        is_record_T = offset_T < np.repeat(lengths_B, sizes_B)
        ids_T[is_record_T] = np.concatenate(records, dtype=np.int32, casting="unsafe")  # an empty list has a type of its own
        ids_T[~is_record_T] = np.tile([*self._tail, *self._right, *self._wrong], len(records))
        places_T = head + offset_T - (offset_T >= np.repeat(second_B, sizes_B)) * right
        answers_B, heads_B = np.full_like(sizes_B, right), np.full_like(sizes_B, head)
        parts = Part(starts_B, sizes_B, second_B, answers_B, heads_B)
        if head:  # it is a part of its own, before the others
            parts = Part(*(np.concatenate(each) for each in zip(([0], [head], [head], [0], [0]), parts, strict=True)))
        blocks_6K = blocks_of(parts)
        ids, places, blocks, read = self._sent(
            [
                np.concatenate([self._head, ids_T]),
                np.concatenate([np.arange(head), places_T]),
                blocks_6K.ravel(),
                np.stack([starts_B + second_B, starts_B + sizes_B], axis=1).ravel() - 1,
            ]
        )
        return Packed(ids, places, blocks.view(blocks_6K.shape), read)

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

    def _normed(self, x_TH: torch.Tensor, more_TH: torch.Tensor | None) -> torch.Tensor:
        return self._between.add_normed(x_TH, more_TH, self._trunk.eps, self._dtype)

    def _attention(self, normed_TH: torch.Tensor, layer: Layer, batch: Packed) -> torch.Tensor:
        projected_TC = F.linear(normed_TH, layer.project, layer.project_bias)
        self._between.turn(projected_TC, layer.gain_N1D, batch.places_T, self._rotation_PD, self._heads)
        return self._between.attention(projected_TC, batch.blocks_6K, self._heads)

    def _mlp(self, normed_TH: torch.Tensor, layer: Layer) -> torch.Tensor:
        return F.linear(self._between.gated(F.linear(normed_TH, layer.gate_up)), layer.down)


def kernels_for(device: torch.device, dtype: torch.dtype) -> Between | None:
    """Return kernels of our own for a pass in bfloat16 on a GPU; None elsewhere, and where there is no Triton."""
    if device.type != "cuda" or dtype != torch.bfloat16 or find_spec("triton") is None:
        return None
    from stream.kernels import CompiledBetween

    return CompiledBetween()
