"""Reviewers who do not err alike: a quarter of sixteen turns 40 % of its verdicts round, the others 5 %.

One starter; each seed draws 2,000 verdicts and who gave them, and trains on them in several ways. AUROC on twins that no training has
seen; `found_first_fifth` is the share of the mistakes among the fifth that is doubted most, `_alike` where everybody is taken to err
alike, `_by_reviewer` by each one's own rate (trainer/reviewers.py), `rate_error` the mean distance of the rates found from the true
ones. The last line is one JSON object.
"""

import argparse

import numpy as np
import torch
from torch import nn

from bench.changed import changed
from bench.machine import keep
from bench.noise import Ground, labelled, of_every_seed
from trainer.config import TrainSettings
from trainer.noise import probability_of_verdicts, treat
from trainer.one_pass import OnePassRewardTrainer
from trainer.pairs import RENDERING, encode_labelled
from trainer.reviewers import by_reviewer, error_rates

REVIEWERS, CARELESS, CARELESS_RATE, USUAL_RATE, SUSPECTS = 16, 4, 0.4, 0.05, 0.2
FORWARD = "forward"
WAYS: dict[str, tuple[str, bool]] = {  # what is done with suspects, and whether each reviewer has a rate
    "all": ("all", False),
    "review_alike": ("review", False),
    "review_by_reviewer": ("review", True),
    "forward_alike": (FORWARD, False),
    "forward_by_reviewer": (FORWARD, True),
}


class _ForwardTrainer(OnePassRewardTrainer):
    """Takes a doubt as how often such a verdict is turned round on its way: the loss is that of what then arrives.

    -log((1-s) σ(d) + s σ(-d)), the forward correction of Patrini et al. 2017 (arXiv 1609.03683): a verdict that the rest makes
    improbable pulls no harder than its doubt allows.
    """

    def _losses(self, d_B: torch.Tensor, doubt_B: torch.Tensor) -> torch.Tensor:
        as_said, turned = nn.functional.logsigmoid(d_B), nn.functional.logsigmoid(-d_B)
        return -torch.logaddexp((1 - doubt_B).log() + as_said, doubt_B.log() + turned)


def one(ground: Ground, seed: int) -> dict[str, float]:
    """Draw verdicts and reviewers, look for mistakes, train in every way; one seed."""
    settings = ground.tables.train.model_copy(update={"seed": seed})
    random = np.random.default_rng(seed)
    learn, held_out = ground.drawn(seed, random)
    true_rate = np.where(np.arange(REVIEWERS) < CARELESS, CARELESS_RATE, USUAL_RATE)
    who, judge = (random.integers(0, REVIEWERS, len(each)) for each in (learn, held_out))
    turned, turned_held = (random.random(len(each)) < true_rate[each] for each in (who, judge))
    base, encoder = ground.base(settings)
    encoded = encode_labelled(labelled(learn, turned), encoder, RENDERING)
    is_right = np.array([record.is_right for record in encoded.records], dtype=bool)
    alike = probability_of_verdicts(base.model.eval(), encoder, encoded.ids, is_right, seed)
    if alike is None:
        raise ValueError("too few verdicts to look for mistakes among them")
    reviewers = [str(who[place]) for place in encoded.places]
    rates, own = error_rates(reviewers, alike), by_reviewer(reviewers, alike)
    is_mistake = turned[encoded.places]
    found = {"rate_error": float(np.mean([abs(rate - true_rate[int(name)]) for name, rate in rates.items()]))}
    for name, probability in (("alike", alike), ("by_reviewer", own)):
        most = np.argsort(probability)[: round(SUSPECTS * len(probability))]
        found[f"found_first_fifth_{name}"] = float(is_mistake[most].sum() / is_mistake.sum())
    rates_N = {False: np.full(len(alike), np.mean(1 - alike)), True: np.array([rates[each] for each in reviewers])}
    for way, (how, is_own) in WAYS.items():
        kept = {
            "all": encoded.records,
            "review": treat(encoded.records, own if is_own else alike, "review").records,
            FORWARD: [each._replace(doubt=float(rate)) for each, rate in zip(encoded.records, rates_N[is_own], strict=True)],
        }[how]
        with changed({"trainer.reward.OnePassRewardTrainer": _ForwardTrainer} if how == FORWARD else {}):
            found[f"auroc_{way}"] = ground.auroc_after(*ground.base(settings), kept, labelled(held_out, turned_held), settings)
    return {key: round(value, 4) for key, value in found.items()}


def main() -> None:
    """Run all seeds and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    given = parser.parse_args()
    found, runs = of_every_seed(one, TrainSettings(contrastive_per_verdict=1.0, epochs=2.0), given.seeds, given.steps)
    keep("reviewers", {"steps": given.steps, **found, "runs": runs})


if __name__ == "__main__":
    main()
