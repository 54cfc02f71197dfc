"""Verdict words: what a starter learns when the two answers are called otherwise.

The same stream, seeds and steps for every pair of words: 正确/错误, 1/0, right/wrong, two words that mean nothing, and 错误/正确 (a right
record is answered 错误). AUROC on twins that nobody has seen, without a verdict. The last line is one JSON object.
"""

import argparse
import sys
from typing import Any

import numpy as np
import torch

from bench.machine import keep
from bench.starters import readable
from stream.score import Scorer
from trainer.calibrate import auroc_of
from trainer.learned import SCORE_TOKENS, d_of
from trainer.pairs import RENDERING, rendered
from trainer.starter import Plan, train_starter

PAIRS = {
    "正确/错误": ("正确", "错误"),
    "1/0": ("1", "0"),
    "right/wrong": ("right", "wrong"),
    "qzx/vkp": ("qzx", "vkp"),
    "错误/正确": ("错误", "正确"),
}
STREAM, STRANGERS = 4_000, 3_000


def one(words: tuple[str, str], steps: int, seed: int) -> dict[str, float]:
    """Train a starter with these words; return AUROC, and tokens per answer."""
    records = rendered([twin.value.decode() for twin in readable(STREAM, seed)], RENDERING)
    strangers = readable(STRANGERS, seed + 1_000_003)
    made = train_starter(records, words, Plan(steps=steps, seed=seed))
    scorer = Scorer(made.model.reward.eval(), made.encoder, SCORE_TOKENS)
    ids = made.encoder.encode([record.text for record in rendered([twin.value.decode() for twin in strangers], RENDERING)])
    d = d_of(scorer, [each or [] for each in ids])
    is_right = np.array([not twin.truth.is_wrong for twin in strangers])
    template = made.encoder.template
    return {"auroc": round(auroc_of(d, is_right), 4), "tokens": len(template.right) + len(template.wrong)}


def main() -> None:
    """Run all pairs and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(2)
    found: dict[str, Any] = {}
    for name, words in PAIRS.items():
        runs = [one(words, given.steps, seed) for seed in range(given.seeds)]
        by_seed = {"by_seed": [run["auroc"] for run in runs]}
        found[name] = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]} | by_seed
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
    keep("words", {"steps": given.steps, **found})


if __name__ == "__main__":
    main()
