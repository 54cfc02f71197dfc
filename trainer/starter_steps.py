"""The steps of a starter: first it reads records alone, then it tells records from corrupted copies, and half-way it doubts its stream.

The first steps read alone because only then is there something to be surprised by (trainer/joint.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils import deterministic

from trainer.doubt import doubts
from trainer.joint import JointModel, Losses, PairSource
from trainer.muon import Muon

READING_SHARE = 0.4
DOUBTING_AT = (0.55,)
BETAS = (0.9, 0.98)


@contextmanager
def _reproducible() -> Iterator[None]:
    """Add up in the same order every time; else places read twice add up their gradients in any order."""
    was, was_filled = torch.are_deterministic_algorithms_enabled(), deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nothing here reads what it has not written
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was)
        deterministic.fill_uninitialized_memory = was_filled  # type: ignore[attr-defined]


def parted(model: JointModel) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the trunk's matrices, and everything else."""
    matrices = [parameter for parameter in model.lm.model.layers.parameters() if parameter.ndim > 1]
    return matrices, [parameter for parameter in model.parameters() if all(parameter is not matrix for matrix in matrices)]


def optimizers_of(model: JointModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Return what moves a starter: the trunk's matrices by Muon, everything else by AdamW (docs/experiments/starter.md)."""
    matrices, others = parted(model)
    return [Muon(matrices, lr=2 * learning_rate), torch.optim.AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=0.01)]


def learn(
    model: JointModel,
    source: PairSource,
    steps: int,
    learning_rate: float,
    watch: Callable[[int, Losses], None] = lambda step, losses: None,
    doubting_at: Sequence[float] = DOUBTING_AT,
) -> None:
    """Run exactly `steps` steps; the rates rise over the first twentieth and fall linearly to 0.

    At the shares of the way in `doubting_at` the model looks for wrong records hidden in the stream (trainer/doubt.py).

    """
    parameters = model.parameters()
    optimizers = optimizers_of(model, learning_rate)
    rise = max(1, steps // 20)
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise))))
        for optimizer in optimizers
    ]
    model.lm.train()
    with _reproducible():
        for step in range(steps):
            if step < steps * READING_SHARE:
                loss, losses = model.next_token_loss(*source.next_right())
            else:
                if step in {round(steps * share) for share in doubting_at}:
                    source.doubt(doubts(model, source))
                loss, losses = model.loss(source.next())
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            for schedule in schedules:
                schedule.step()
            watch(step + 1, losses)
    model.lm.eval()
