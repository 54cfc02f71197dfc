"""What each part of a starter gives: the same records and steps with one thing left out, or moved by another optimiser.

AUROC of the text alone, without a verdict, on twins that it never saw: `strangers` with errors as in its stream, `later` with kinds that
it has never met. The rows of docs/experiments/starter.md that today's code can repeat. The last line is one JSON object, means over the
seeds and each seed's own.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from bench.changed import changed
from bench.machine import keep
from bench.starters import readable
from demo.errors import LATER_ERRORS
from demo.twins import UNREADABLE, Twin, take
from stream.decode import decode_value
from stream.records import Content
from stream.render import Rendered, render
from trainer import starter_steps
from trainer.calibrate import auroc_of
from trainer.config import TrainSettings
from trainer.joint import JointModel, Losses, PairSource
from trainer.muon import Muon
from trainer.starter import Plan, train_starter
from trainer.train import scorer_of

UNLABELLED, STRANGERS = 5_000, 4_000
AVERAGED_SHARE = 0.25


class _Cautious(torch.optim.Optimizer):
    """Moves only what moves against its gradient, and that by as much more (Liang et al. 2024, arXiv 2411.16085)."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Let the optimiser move, then take back what went the other way."""
        moved = [(each, each.clone()) for group in self.param_groups for each in group["params"] if each.grad is not None]
        super().step(closure)
        for each, before in moved:
            by = each - before
            agrees = (by * each.grad < 0).to(by.dtype)
            each.copy_(before + by * agrees / agrees.mean().clamp(min=1e-3))


class _CautiousMuon(_Cautious, Muon):
    pass


class _CautiousAdamW(_Cautious, torch.optim.AdamW):
    pass


def _cautious(model: JointModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    matrices, others = starter_steps.parted(model)
    return [_CautiousMuon(matrices, lr=2 * learning_rate), _CautiousAdamW(others, lr=learning_rate, betas=starter_steps.BETAS)]


def _adamw(model: JointModel, learning_rate: float) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=starter_steps.BETAS, weight_decay=0.01)]


def _averaged(
    model: JointModel,
    source: PairSource,
    steps: int,
    learning_rate: float,
    watch: Callable[[int, Losses], None] = lambda step, losses: None,
    doubting_at: Sequence[float] = starter_steps.DOUBTING_AT,
) -> None:
    """Learn, and end with the mean of the last weights (Izmailov et al. 2018, arXiv 1803.05407)."""
    means: list[torch.Tensor] = []
    taken = 0

    def also(step: int, losses: Losses) -> None:
        nonlocal taken
        if step > steps * (1 - AVERAGED_SHARE):
            taken += 1
            now = [each.detach() for each in model.parameters()]
            if not means:
                means.extend(each.clone() for each in now)
            for mean, each in zip(means, now, strict=True):
                mean.lerp_(each, 1 / taken)
        watch(step, losses)

    starter_steps.learn(model, source, steps, learning_rate, also, doubting_at)
    with torch.no_grad():
        for each, mean in zip(model.parameters(), means, strict=True):
            each.copy_(mean)


WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no doubts": {"trainer.starter.learn": partial(starter_steps.learn, doubting_at=())},
    "no reading first": {"trainer.starter_steps.READING_SHARE": 0.0},
    "nothing asked where it was changed": {"trainer.joint.WHERE_WEIGHT": 0.0},
    "nothing asked of surprise": {"trainer.joint.SURPRISE_WEIGHT": 0.0},
    "no next token while judging": {"trainer.joint.NEXT_TOKEN_WEIGHT": 0.0},
    "no heads that look back": {"trainer.starter.LOOKING_BIAS": 0.0},
    "AdamW alone": {"trainer.starter_steps.optimizers_of": _adamw},
    "cautious steps": {"trainer.starter_steps.optimizers_of": _cautious},
    "the mean of the last quarter's weights": {"trainer.starter.learn": _averaged},
}


def rendered(twins: Sequence[Twin]) -> list[Rendered]:
    """Render twins as the trainer does."""
    contents = [decode_value(twin.value, "auto") for twin in twins]
    return [render(content) for content in contents if isinstance(content, Content)]


def one(names: dict[str, Any], steps: int, seed: int) -> dict[str, float]:
    """Train one starter and ask it about twins that it has not seen."""
    stream = rendered(readable(UNLABELLED, seed))
    begun = time.monotonic()
    with changed(names):
        made = train_starter(stream, TrainSettings().verdict_words, Plan(steps=steps, seed=seed))
    found = {"seconds": time.monotonic() - begun}
    scorer = scorer_of(made.model.reward.eval(), made.encoder)
    asked = {"strangers": take(STRANGERS, seed + 1_000_003), "later": take(STRANGERS, seed + 2_000_003, kinds=tuple(LATER_ERRORS))}
    for name, twins in asked.items():
        known = [twin for twin in twins if twin.truth.kind != UNREADABLE]
        rewards_N2 = scorer.rewards([ids or [] for ids in scorer.encoder.encode([each.text for each in rendered(known)])])
        found[name] = auroc_of(rewards_N2[:, 0] - rewards_N2[:, 1], np.array([not twin.truth.is_wrong for twin in known]))
    return {key: round(float(value), 4) for key, value in found.items()}


def main() -> None:
    """Train every way with every seed and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", default=",".join(WAYS), help="some of them, with commas between")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for way in given.ways.split(","):
        runs = [one(WAYS[way], given.steps, seed) for seed in range(given.seeds)]
        found[way] = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]} | {"runs": runs}
        print(f"{way}: {found[way]}", file=sys.stderr, flush=True)
    keep("starter-parts", {"steps": given.steps, **found})


if __name__ == "__main__":
    main()
