"""Both chats of a pair in one sequence for TRL's RewardTrainer: what they share is read once (arXiv 2410.20305).

    [shared][rest of chosen][rest of rejected]

The second rest does not see the first and both start at the same place, so the rewards are those of two plain chats; a
margin, a weight and a doubt stand beside each pair. Shapes: B pairs, T tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler
from trl import RewardTrainer

from stream.encode import last_read
from stream.score import tree_of
from trainer.last_layer import last_layer_at, read_at

SORTED_BATCHES = 16  # enough that a batch's lengths differ by a few tokens, few enough that most are shuffled


class PairCollator:
    """Examples with chosen_ids, rejected_ids, margin, weight, doubt -> one row a pair.

    Leaves input_ids_BT, position_ids_BT, attention_mask_B1TT (additive float32), read_B2 (places of chosen and rejected), and
    tokens_B, margin_B, weight_B, doubt_B. `[5, 6, 7]` over `[5, 6, 9]` becomes ids `[5, 6, 7, 9]`, positions `[0, 1, 2, 2]`, read `[2, 3]`.
    """

    def __init__(self, pad_id: int) -> None:
        """Take the id that pads, which is also the one that transformers does not read a reward at."""
        self._pad_id = pad_id

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the batch."""
        pairs = [(list(each["chosen_ids"]), list(each["rejected_ids"])) for each in examples]
        shared_B = np.array([_shared(*pair) for pair in pairs])
        chosen_B = np.array([len(chosen) for chosen, _ in pairs])
        ends_B = np.array([len(chosen) + len(rejected) for chosen, rejected in pairs]) - shared_B
        width = int(ends_B.max())
        ids_BT = np.full((len(pairs), width), self._pad_id, dtype=np.int64)
        read_B2 = np.empty((len(pairs), 2), dtype=np.int64)
        for row, ((chosen, rejected), shared, end) in enumerate(zip(pairs, shared_B, ends_B, strict=True)):
            ids_BT[row, :end] = [*chosen, *rejected[shared:]]
            last = [last_read(chat, self._pad_id) for chat in (chosen, rejected)]
            read_B2[row] = last[0], last[1] if last[1] < shared else last[1] + len(chosen) - shared
        mask_B1TT, positions_BT = tree_of(shared_B, chosen_B, ends_B, width, torch.float32)
        batch = {
            "input_ids": torch.from_numpy(ids_BT),
            "attention_mask": mask_B1TT,
            "position_ids": positions_BT,
            "read": torch.from_numpy(read_B2),
            "tokens": torch.from_numpy(ends_B),
        }
        return batch | {name: torch.tensor([float(each[name]) for each in examples]) for name in ("margin", "weight", "doubt")}


def _shared(chosen: Sequence[int], rejected: Sequence[int]) -> int:
    """Return how many tokens both begin with, at least one of each left over."""
    most = min(len(chosen), len(rejected)) - 1
    return next((place for place in range(most) if chosen[place] != rejected[place]), most)


class ByLength(Sampler[int]):
    """Places of examples in batches of like length, so that little is padded; which ones are together, and when, is up to chance.

    transformers' own group_by_length ends each of its large batches with the shortest examples, and so the training.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        """Take the length of each example and how many make a batch; each pass over them draws anew."""
        self._lengths_N = np.array(lengths)
        self._batch = batch
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        """Return how many examples there are."""
        return len(self._lengths_N)

    def __iter__(self) -> Iterator[int]:
        """Yield all places once: sorted by length among SORTED_BATCHES batches, whose order is then shuffled."""
        drawn_N = self._random.permutation(len(self))
        at_once = SORTED_BATCHES * self._batch
        for some in (drawn_N[at : at + at_once] for at in range(0, len(self), at_once)):
            by_length = some[self._lengths_N[some].argsort(kind="stable")]
            whole = len(some) // self._batch  # what is left over must come last, else the batches behind it would straddle two
            left_over = np.sort(self._random.choice(len(some), len(some) - whole * self._batch, replace=False))
            batches_MB = np.delete(by_length, left_over).reshape(whole, self._batch)
            yield from self._random.permutation(batches_MB).flatten().tolist()
            yield from by_length[left_over].tolist()


class OnePassRewardTrainer(RewardTrainer):  # type: ignore[misc]
    """TRL's trainer on PairCollator's batches; with weight 1 and doubt 0 its loss is TRL's own of the two plain chats.

    A doubt s makes the target soft: the loss is (1-s) of the pair's own and s of the pair turned round.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
        return self._by_length(self.train_dataset if train_dataset is None else train_dataset, self._train_batch_size)

    def _get_eval_sampler(self, eval_dataset: Any) -> ByLength:
        return self._by_length(eval_dataset, self.args.eval_batch_size)

    def _by_length(self, pairs: Any, batch: int) -> ByLength:
        lengths = [len(chosen) + len(rejected) for chosen, rejected in zip(pairs["chosen_ids"], pairs["rejected_ids"], strict=True)]
        return ByLength(lengths, batch, self.args.seed)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: list[str] = ["chosen_ids", "rejected_ids", "margin", "weight", "doubt"]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """Return the loss of a batch; TRL's own code sees the rewards where it expects them and keeps its metrics."""
        weight_B, doubt_B, read_B2 = (inputs.pop(name) for name in ("weight", "doubt", "read"))
        outputs = self._outputs(model, inputs, read_B2)
        seen = {"attention_mask": inputs["tokens"], "margin": inputs["margin"]}  # TRL sums the mask to count tokens
        super().compute_loss(lambda **_: outputs, seen, return_outputs=True, num_items_in_batch=num_items_in_batch)
        chosen_B, rejected_B = torch.chunk(outputs.logits.squeeze(-1), 2)
        loss = (weight_B * self._losses(chosen_B - rejected_B - inputs["margin"], doubt_B)).mean()
        if self.args.center_rewards_coefficient is not None:
            loss = loss + self.args.center_rewards_coefficient * torch.mean((chosen_B + rejected_B) ** 2)
        return (loss, outputs) if return_outputs else loss

    def _losses(self, d_B: torch.Tensor, doubt_B: torch.Tensor) -> torch.Tensor:
        return -(1 - doubt_B) * nn.functional.logsigmoid(d_B) - doubt_B * nn.functional.logsigmoid(-d_B)

    def _outputs(self, model: Callable[..., Any], inputs: dict[str, torch.Tensor], read_B2: torch.Tensor) -> Any:
        """Run the model once and put the rewards of all chosen, then of all rejected, where it says one a row.

        transformers scores every token and then picks one of each row; the hook sees them all.
        """
        seen: list[torch.Tensor] = []
        bare = self.accelerator.unwrap_model(model)
        mask = inputs["attention_mask"]
        if bare.config._attn_implementation == "sdpa":  # noqa: SLF001 - its only name; SDPA wants the mask in the type of the queries, or as truth
            mask = mask == 0
        head = _head_of(bare)
        hook = head.register_forward_hook(lambda _, __, scored: seen.append(scored))
        ids_BT = inputs["input_ids"]
        try:
            with last_layer_at(bare, read_at(read_B2, ids_BT)):
                outputs = model(input_ids=ids_BT, attention_mask=mask, position_ids=inputs["position_ids"], use_cache=False)
        finally:
            hook.remove()
        rows_B1 = torch.arange(len(read_B2), device=read_B2.device)[:, None]
        rewards_B2 = seen[-1].squeeze(-1)[rows_B1, read_B2].float()
        outputs.logits = torch.cat([rewards_B2[:, 0], rewards_B2[:, 1]])[:, None]
        return outputs


def _head_of(model: nn.Module) -> nn.Module:
    """Return the reward head, the trained copy of it where a LoRA keeps one."""
    found: nn.Module = next(module for name, module in model.named_modules() if name == "score" or name.endswith(".score"))
    return found
