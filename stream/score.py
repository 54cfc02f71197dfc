"""Stage 3d: record ids -> both rewards, in one pass over the shared prefix.

One sequence per record, `[head][record][tail][right][wrong]`: the wrong answer does not see the right one and both
start at the same position, so each reward is what the plain chat would give. `reference_rewards` is that plain chat.
Scoring runs shared_pass.py, on a GPU packed_pass.py; `shared_batch` and `pooled_rewards` are the same with transformers' trunk,
for training and for trunks of another shape.

Shapes: B rows, T tokens, H hidden; ids_BT int64, mask_B1TT additive in the model's dtype, rewards_B2 float32.
"""

import copy
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from foundation.errors import ModelRefused
from stream.batching import batches, packed_batches
from stream.encode import Encoder, Template, last_read
from stream.packed_pass import PackedPass, kernels_for
from stream.shared_pass import SharedPass
from stream.tokenise import Ids
from stream.trunk import UnknownShape

log = logging.getLogger("winnow.score")


class SharedBatch(NamedTuple):
    """Tensors of one batch: ids, positions and mask for the trunk, and the places where the two rewards are read."""

    ids_BT: torch.Tensor
    positions_BT: torch.Tensor
    mask_B1TT: torch.Tensor
    pooled_B2: torch.Tensor


def shared_batch(
    records: Sequence[Sequence[int] | Ids], template: Template, pad_id: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> SharedBatch:
    """Lay out one batch of records; the mask is 0 where a token may look and the dtype's minimum elsewhere."""
    lengths_B = np.array([len(ids) for ids in records])
    prefix_B = lengths_B + len(template.head) + len(template.tail)
    right, wrong = len(template.right), len(template.wrong)
    width = int(prefix_B.max()) + right + wrong
    ids_BT = np.full((len(records), width), pad_id, dtype=np.int64)
    first = len(template.head)
    ids_BT[:, :first] = template.head
    behind = [*template.tail, *template.right, *template.wrong]
    for row, ids in enumerate(records):
        end = first + len(ids)
        ids_BT[row, first:end] = ids
        ids_BT[row, end : end + len(behind)] = behind
    mask_B1TT, positions_BT = tree_of(prefix_B, prefix_B + right, prefix_B + right + wrong, width, dtype, device)
    pooled = [prefix_B + last_read(template.right, pad_id), prefix_B + right + last_read(template.wrong, pad_id)]
    return SharedBatch(
        torch.from_numpy(ids_BT).to(device),
        positions_BT,
        mask_B1TT,
        torch.from_numpy(np.stack(pooled, axis=1)).to(device),
    )


def tree_of(
    shared_B: np.ndarray, first_B: np.ndarray, ends_B: np.ndarray, width: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mask_B1TT and positions_BT of rows `[shared][first][second][padding]`; the three say where each part ends.

    The second does not see the first and begins at the same place; the mask is 0 where a token may look and the dtype's minimum elsewhere.
    """
    column_T = np.arange(width)
    # 0 shared, 1 first, 2 second, 3 padding
    part_BT = sum((column_T >= edge_B[:, None]).astype(np.int8) for edge_B in (shared_B, first_B, ends_B))
    positions_BT = column_T - np.where(np.asarray(part_BT) == 2, (first_B - shared_B)[:, None], 0)  # noqa: PLR2004
    part = torch.from_numpy(np.asarray(part_BT)).to(device)
    sees_BTT = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    sees_BTT &= torch.ones(width, width, dtype=torch.bool, device=device).tril()
    mask = torch.zeros(sees_BTT.shape, dtype=dtype, device=device).masked_fill_(~sees_BTT, torch.finfo(dtype).min)
    return mask[:, None], torch.from_numpy(positions_BT).to(device)


def trunk_of(model: PreTrainedModel) -> nn.Module:
    """Return the transformer below the head."""
    return model.get_submodule(model.base_model_prefix)


def pooled_rewards(model: PreTrainedModel, batch: SharedBatch) -> torch.Tensor:
    """Return rewards_B2 with gradient; the head runs in float32."""
    return _rewards(model, pooled_states(model, batch))


def pooled_states(model: PreTrainedModel, batch: SharedBatch) -> torch.Tensor:
    """Return states_B2H of the trunk where the rewards are read, with gradient, in the model's dtype."""
    hidden_BTH = trunk_of(model)(
        input_ids=batch.ids_BT, attention_mask=batch.mask_B1TT, position_ids=batch.positions_BT, use_cache=False
    ).last_hidden_state
    return _at(hidden_BTH, batch.pooled_B2)


def read_rewards(model: PreTrainedModel, hidden_BTH: torch.Tensor, pooled_B2: torch.Tensor) -> torch.Tensor:
    """Apply the head in float32 where the rewards are read; rewards_B2."""
    return _rewards(model, _at(hidden_BTH, pooled_B2))


def _at(hidden_BTH: torch.Tensor, pooled_B2: torch.Tensor) -> torch.Tensor:
    return hidden_BTH[torch.arange(len(pooled_B2), device=pooled_B2.device)[:, None], pooled_B2]


def _rewards(model: PreTrainedModel, states_B2H: torch.Tensor) -> torch.Tensor:
    return (states_B2H.float() @ model.get_parameter("score.weight").float().T).squeeze(-1)


def refuse_windows(model: PreTrainedModel, longest_tokens: int) -> None:
    """Refuse a trunk whose layers see a window shorter than the longest chat: a ready mask makes transformers skip the window.

    Raises ModelRefused.
    """
    config = model.config
    window = getattr(config, "sliding_window", None)
    if "sliding_attention" in (getattr(config, "layer_types", None) or []) and window is not None and window < longest_tokens:
        raise ModelRefused(
            f"{config.model_type}: layers see {window} tokens, a chat may have {longest_tokens}; set train.max_length to {window} or less"
        )


class Spent(NamedTuple):
    """What scoring has cost: forward passes, tokens of records with their chats, and padding beside them."""

    passes: int = 0
    record_tokens: int = 0
    padding_tokens: int = 0


class Scorer:
    """A reward model in service: record ids in, both rewards out."""

    def __init__(
        self,
        model: PreTrainedModel,
        encoder: Encoder,
        budget_tokens: int,
        precision: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Take a one-output sequence classifier in eval mode; the budget is rows × longest row, on a GPU tokens.

        precision: what matrix products run in, the model's own type by default. device: where it is scored, where the model is by
        default; its packed weights go there, itself only where the trunk is of a shape that trunk.py does not know. Then it runs
        as transformers runs it, on a CPU in its own type. Raises ModelRefused.
        """
        refuse_windows(model, encoder.max_length)
        self.model = model
        self.encoder = encoder
        self.budget_tokens = budget_tokens
        self.device = device or model.device
        self._spent = Spent()
        self.precision = precision or model.dtype
        self._pass: SharedPass | PackedPass | None = None
        self._plain = model
        try:
            self._pass = self._fastest_pass()
        except UnknownShape as unknown:
            if self.device.type == "cpu":
                self.precision = model.dtype
            else:  # a copy: another precision is rounded from the model itself
                self._plain = cast(Any, copy.deepcopy(model) if self.precision != model.dtype else model).to(self.device, self.precision)
            log.info("scored by transformers' own forward", extra={"shape": str(unknown), "precision": str(self.precision)})

    def _fastest_pass(self) -> SharedPass | PackedPass:
        """Return our own pass without padding where its kernels run, else the padded one. Raises UnknownShape."""
        template, kernels = self.encoder.template, kernels_for(self.device, self.precision)
        if kernels is not None:
            try:
                found = PackedPass(self.model, template, self.encoder.pad_id, self.precision, self.device, kernels)
                found.rewards([[]]).cpu()
            except (UnknownShape, torch.OutOfMemoryError):
                raise
            except Exception as error:  # noqa: BLE001 - no C compiler, a GPU or a width that Triton cannot do: slower, not wrong
                log.warning("no kernels of our own here: scoring is slower", extra={"error": f"{type(error).__name__}: {error}"[:300]})
            else:
                return found
        return SharedPass(self.model, template, self.encoder.pad_id, self.precision, self.device)

    def in_precision(self, precision: torch.dtype) -> "Scorer":
        """Return a scorer of the same model whose matrix products run in another type, where its trunk is known."""
        return self if precision == self.precision else Scorer(self.model, self.encoder, self.budget_tokens, precision, self.device)

    def let_go(self) -> None:
        """Free the weights that the pass has packed for itself; only scoring is left."""
        if self._pass is not None or self._plain is not self.model:
            cast(Any, self.model).to("meta")

    def is_shaped_as(self, other: "Scorer") -> bool:
        """Return whether the other model takes as long as this one, on the same device."""
        mine, its = (tuple((name, each.shape) for name, each in scorer.model.named_parameters()) for scorer in (self, other))
        return mine == its and self.device == other.device

    def rewards(self, records: Sequence[Sequence[int] | Ids]) -> np.ndarray:
        """Return rewards_B2 (right, wrong) in the order given, whatever batches they were scored in."""
        rewards_B2 = np.empty((len(records), 2), dtype=np.float32)
        is_packed = isinstance(self._pass, PackedPass)
        head = len(self.encoder.template.head) if is_packed else 0  # once a batch
        overhead = self.encoder.template.shared_overhead_tokens - head
        lengths = [len(ids) + overhead for ids in records]
        planned = (packed_batches if is_packed else batches)(lengths, self.budget_tokens)
        # a GPU is given all batches before the first is read
        for places, found in [(places, self._one_batch([records[place] for place in places])) for places in planned]:
            rewards_B2[places] = found.cpu().numpy()
        tokens = sum(lengths) + head * len(planned)
        laid_out = tokens if is_packed else sum(len(places) * lengths[places[0]] for places in planned)
        spent = self._spent
        self._spent = Spent(spent.passes + len(planned), spent.record_tokens + tokens, spent.padding_tokens + laid_out - tokens)
        return rewards_B2

    def take_spent(self) -> Spent:
        """Return what scoring has cost since the last call; the thread that scores asks."""
        spent, self._spent = self._spent, Spent()
        return spent

    def _one_batch(self, records: Sequence[Sequence[int] | Ids]) -> torch.Tensor:
        return self._by_transformers(records) if self._pass is None else self._pass.rewards(records)

    @torch.inference_mode()
    def _by_transformers(self, records: Sequence[Sequence[int] | Ids]) -> torch.Tensor:
        batch = shared_batch(records, self.encoder.template, self.encoder.pad_id, self._plain.dtype, self._plain.device)
        return pooled_rewards(self._plain, batch)


@torch.inference_mode()
def reference_rewards(model: PreTrainedModel, encoder: Encoder, records: Sequence[Sequence[int]]) -> np.ndarray:
    """Return rewards_B2 from two plain chats per record, one sequence at a time: the truth that faster paths are held to."""
    found = []
    for ids in records:
        row = []
        for chat in encoder.chats(ids):
            ids_1T = torch.tensor([chat], device=model.device)
            row.append(float(model(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T)).logits[0, 0]))
        found.append(row)
    return np.array(found, dtype=np.float32).reshape(-1, 2)
