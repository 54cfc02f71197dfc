"""The joint objective on unlabelled records: what the starter learns before anybody has answered.

One sequence per record holds both answers (stream/score.py). A batch is B records and B corrupted copies:
  contrastive   softplus(-d(record)) + softplus(d(copy)), so d is a log-odds from the first step
  next token    on the records alone: at the last layer for lm/, and at the middle layer, so that the layers above can
                hold each token against what was expected there
  surprise      below the last layer each token's place says how unexpected the token was at the middle layer: the
                head must see surprise, and learns it far faster when it is asked for
  where         below the last layer each token's place says whether the token was changed (ELECTRA's replaced
                tokens, arXiv 2003.10555)
The probes of the last two are thrown away afterwards. docs/experiments/starter.md has what each part gave.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, Qwen2ForCausalLM

from stream.encode import Encoder
from stream.render import Rendered
from stream.score import SharedBatch, read_rewards, shared_batch
from trainer.corrupt import Corrupter
from trainer.last_layer import last_layer_at, read_at

NEXT_TOKEN_WEIGHT = 0.3
LAST_LAYER_SHARE = 0.25
WHERE_WEIGHT = 1.0
SURPRISE_WEIGHT = 0.3
CENTRE_WEIGHT = 0.01
SUSPECT_SHARE = 0.25
DOUBTFUL = 0.5


class Losses(NamedTuple):
    """The parts of one step's loss, as floats, for the progress line."""

    contrastive: float
    next_token: float
    where: float


@dataclass
class JointModel:
    """One trunk with three readers: the language-model head, the reward head, and the probe that is thrown away."""

    lm: Qwen2ForCausalLM
    reward: PreTrainedModel
    probes: nn.Linear
    _seen: dict[str, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Tie the reward model to the language model's trunk and listen in the middle and below the last layer."""
        setattr(self.reward, self.reward.base_model_prefix, self.lm.model)
        layers = self.lm.model.layers
        for name, layer in (("middle", layers[(len(layers) - 1) // 2]), ("below_last", layers[-2])):
            layer.register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[[nn.Module, object, torch.Tensor | tuple[torch.Tensor, ...]], None]:
        def hook(_layer: nn.Module, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
            self._seen[name] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter once."""
        return [*self.lm.parameters(), self.reward.get_parameter("score.weight"), *self.probes.parameters()]

    def loss(self, given: "PairBatch") -> tuple[torch.Tensor, Losses]:
        """Return the joint loss of one batch of records and corrupted copies."""
        batch, changed_BT, record_BT, doubt_N = given
        half = len(doubt_N)
        expects_BT = _some_before(record_BT[:half], LAST_LAYER_SHARE)
        read_BT = read_at(batch.pooled_B2, batch.ids_BT)
        read_BT[:half] |= expects_BT
        hidden_BTH = self._hidden(batch, read_BT)
        rewards_B2 = read_rewards(self.reward, hidden_BTH, batch.pooled_B2)
        d_B = rewards_B2[:, 0] - rewards_B2[:, 1]
        of_records = (1 - doubt_N) * F.softplus(-d_B[:half]) + doubt_N * F.softplus(d_B[:half])
        contrastive = of_records.mean() + F.softplus(d_B[half:]).mean()
        next_token = self._next_token(hidden_BTH[:half], batch.ids_BT[:half], expects_BT)
        unexpected_N, asked_BT = self._unexpected(batch.ids_BT, record_BT)
        of_right_N = asked_BT.nonzero()[:, 0] < half
        expected = unexpected_N[of_right_N].mean()
        probed_NP = self.probes(self._seen["below_last"][:, 1:][asked_BT])
        surprise = F.smooth_l1_loss(probed_NP[:, 0], unexpected_N.detach())
        believed_BT = torch.cat([1 - doubt_N, torch.ones(len(batch.ids_BT) - half)])[:, None].expand(asked_BT.shape)
        where = F.binary_cross_entropy_with_logits(probed_NP[:, 1], changed_BT[:, 1:][asked_BT], believed_BT[asked_BT])
        total = contrastive + NEXT_TOKEN_WEIGHT * (next_token + expected) + SURPRISE_WEIGHT * surprise + WHERE_WEIGHT * where
        total = total + CENTRE_WEIGHT * rewards_B2.sum(dim=1).square().mean()
        return total, Losses(contrastive.item() / 2, expected.item(), where.item())

    def next_token_loss(self, batch: SharedBatch, record_BT: torch.Tensor) -> tuple[torch.Tensor, Losses]:
        """Return the next-token loss of a batch of right records, at the middle and at the last layer."""
        expects_BT = _some_before(record_BT, LAST_LAYER_SHARE)
        next_token = self._next_token(self._hidden(batch, expects_BT), batch.ids_BT, expects_BT)
        unexpected_N, asked_BT = self._unexpected(batch.ids_BT, record_BT)
        expected = unexpected_N.mean()
        probed_N = self.probes(self._seen["below_last"][:, 1:][asked_BT])[:, 0]
        surprise = F.smooth_l1_loss(probed_N, unexpected_N.detach())
        return next_token + expected + SURPRISE_WEIGHT * surprise, Losses(0.0, expected.item(), 0.0)

    def _unexpected(self, ids_BT: torch.Tensor, record_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the middle layer's cross-entropy of every record token, in nats, and where those tokens are (from 1 on)."""
        asked_BT = record_BT[:, 1:]
        logits_NV = self.lm.lm_head(self.lm.model.norm(self._seen["middle"])[:, :-1][asked_BT])
        return F.cross_entropy(logits_NV, ids_BT[:, 1:][asked_BT], reduction="none"), asked_BT

    def _hidden(self, batch: SharedBatch, read_BT: torch.Tensor) -> torch.Tensor:
        """Return hidden_BTH of the last layer, of use where it is read."""
        with last_layer_at(self.lm, read_BT):
            found: torch.Tensor = self.lm.model(
                input_ids=batch.ids_BT, attention_mask=batch.mask_B1TT, position_ids=batch.positions_BT, use_cache=False
            ).last_hidden_state
        return found

    def _next_token(self, hidden_BTH: torch.Tensor, ids_BT: torch.Tensor, expects_BT: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the tokens that stand behind the places expects_BT."""
        logits_NV = self.lm.lm_head(hidden_BTH[expects_BT])
        return F.cross_entropy(logits_NV, ids_BT[:, 1:][expects_BT[:, :-1]])


def _some_before(record_BT: torch.Tensor, share: float) -> torch.Tensor:
    """Return the places before a random share of the record tokens."""
    chosen_BT = record_BT[:, 1:] & (torch.rand(record_BT[:, 1:].shape) < share)
    return F.pad(chosen_BT, (0, 1))


class PairBatch(NamedTuple):
    """N records, then their corrupted copies, as one batch of B = 2 N rows.

    changed_BT is 1.0 where a copy's token differs; record_BT marks record tokens, the only ones learned from; doubt_N is
    the probability that the record itself is wrong.
    """

    batch: SharedBatch
    changed_BT: torch.Tensor
    record_BT: torch.Tensor
    doubt_N: torch.Tensor


class PairSource:
    """Endless batches of (records, corrupted copies), sorted by length within a few batches so that little is padded."""

    def __init__(self, records: Sequence[Rendered], encoder: Encoder, pairs_per_batch: int, seed: int) -> None:
        """Encode the records once; those too long for the model are left out."""
        encoded = zip(records, encoder.encode([record.text for record in records]), strict=True)
        self._kept = [(record, ids) for record, ids in encoded if ids is not None]
        self.encoder = encoder
        self._pairs = pairs_per_batch
        self._random = Random(seed)
        self._corrupter = Corrupter([record for record, _ in self._kept], seed)
        self._waiting: list[list[tuple[list[int], list[int], float]]] = []
        self._order: list[int] = []
        self._doubts = [0.0] * len(self._kept)
        self._suspects: list[int] = []

    def __len__(self) -> int:
        """Return how many records there are to learn from."""
        return len(self._kept)

    @property
    def ids(self) -> list[list[int]]:
        """The token ids of every record."""
        return [ids for _, ids in self._kept]

    def copies(self, count: int) -> list[list[int]]:
        """Return the ids of that many corrupted copies of records drawn by chance."""
        drawn = [self._random.randrange(len(self._kept)) for _ in range(count)]
        return [copy for copy in self.encoder.encode([self._corrupter.corrupt(self._kept[place][0]) for place in drawn]) if copy]

    def doubt(self, doubts: Sequence[float]) -> None:
        """Take the probability of each record to be wrong; from now on those in doubt come more often."""
        self._doubts = list(doubts)
        self._suspects = [place for place, doubt in enumerate(doubts) if doubt >= DOUBTFUL]
        self._waiting = []

    def next(self) -> PairBatch:
        """Return one batch of records and corrupted copies."""
        if not self._waiting:
            self._refill()
        pairs = self._waiting.pop()
        rows = [right for right, _, _ in pairs] + [copy for _, copy, _ in pairs]
        template = self.encoder.template
        batch = shared_batch(rows, template, self.encoder.pad_id, torch.float32)
        changed_BT = torch.zeros(batch.ids_BT.shape)
        record_BT = self._record_places(batch, rows)
        first = len(template.head)
        for row, (right, copy, _) in enumerate(pairs, start=len(pairs)):
            start, end = changed_range(right, copy)
            changed_BT[row, first + start : first + end] = 1.0
        return PairBatch(batch, changed_BT, record_BT, torch.tensor([doubt for _, _, doubt in pairs]))

    def next_right(self) -> tuple[SharedBatch, torch.Tensor]:
        """Return one batch of records alone, twice as many as a batch has pairs, and its record_BT."""
        rows = [self._kept[self._draw()][1] for _ in range(2 * self._pairs)]
        batch = shared_batch(rows, self.encoder.template, self.encoder.pad_id, torch.float32)
        return batch, self._record_places(batch, rows)

    def _record_places(self, batch: SharedBatch, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        record_BT = torch.zeros(batch.ids_BT.shape, dtype=torch.bool)
        first = len(self.encoder.template.head)
        for row, ids in enumerate(rows):
            record_BT[row, first : first + len(ids)] = True
        return record_BT

    def _refill(self, batches: int = 8) -> None:
        drawn = [self._draw_or_suspect() for _ in range(batches * self._pairs)]
        copies = self.encoder.encode([self._corrupter.corrupt(self._kept[place][0]) for place in drawn])
        pairs = [(self._kept[place][1], copy, self._doubts[place]) for place, copy in zip(drawn, copies, strict=True) if copy]
        pairs.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
        self._waiting = [pairs[at : at + self._pairs] for at in range(0, len(pairs), self._pairs)]
        self._random.shuffle(self._waiting)

    def _draw_or_suspect(self) -> int:
        if self._suspects and self._random.random() < SUSPECT_SHARE:
            return self._random.choice(self._suspects)
        return self._draw()

    def _draw(self) -> int:
        if not self._order:
            self._order = list(range(len(self._kept)))
            self._random.shuffle(self._order)
        return self._order.pop()


def changed_range(right: Sequence[int], copy: Sequence[int]) -> tuple[int, int]:
    """Return the half-open range of `copy` outside what it shares with `right` at both ends; never empty."""
    shortest = min(len(right), len(copy))
    start = 0
    while start < shortest and right[start] == copy[start]:
        start += 1
    same_end = 0
    while same_end < shortest - start and right[-1 - same_end] == copy[-1 - same_end]:
        same_end += 1
    end = len(copy) - same_end
    return (start, end) if start < end else (min(start, len(copy) - 1), min(start, len(copy) - 1) + 1)
