"""A training step beside stock TRL's on the same pairs: seconds a step, and the loss of both over the last fifth of the steps.

Both begin with the same starter and take the same pairs with eager attention. Stock TRL pads two plain chats a pair, drawn by
chance; ours reads what they share once, and those of like length together. Time is compared with stock TRL as it is, the loss
with stock TRL on our batches, since the last fifth of another order holds other pairs; what it comes to in its own order stands
beside it. Runs alternate; the last line is one JSON object.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PrinterCallback
from trl import RewardConfig, RewardTrainer

from bench.constant import WORDS
from bench.machine import keep
from bench.starters import readable, starter_in, tables_in
from stream.config import GateSettings
from stream.encode import Encoder
from trainer.bases import load_base
from trainer.config import TrainSettings
from trainer.datasets import Labelled
from trainer.one_pass import OnePassRewardTrainer, PairCollator
from trainer.pairs import Pair, as_columns, contrastive_pairs, encode_labelled, rendered, verdict_pairs

FASTER, SAME_LOSS = 1.6, 0.02
OURS, STOCK, STOCK_ON_OUR_BATCHES = "ours", "stock", "stock on our batches"


def pairs_of(directory: Path, verdicts: int, contrastive: int, seed: int) -> list[Pair]:
    """Return verdict pairs and contrastive ones, as a cycle mixes them."""
    twins = readable(verdicts + 3_000, seed)
    encoder = Encoder(load_base(str(directory)).tokenizer, WORDS, "chat@1", 2_048)
    said = [Labelled(twin.value.decode(), not twin.truth.is_wrong) for twin in twins[:verdicts]]
    free = rendered([twin.value.decode() for twin in twins[verdicts:]], "fields@1")
    pairs = [*verdict_pairs(encode_labelled(said, encoder, "fields@1"), encoder), *contrastive_pairs(free, encoder, contrastive, seed)]
    return [pairs[place] for place in np.random.default_rng(seed).permutation(len(pairs))]


class StockOnOurBatches(RewardTrainer):  # type: ignore[misc]
    """Stock TRL that takes the pairs in our order."""

    _get_train_sampler, _by_length = OnePassRewardTrainer._get_train_sampler, OnePassRewardTrainer._by_length  # noqa: SLF001


def run(directory: Path, pairs: list[Pair], seed: int, place: Path, which: str) -> tuple[float, list[float]]:
    """Train one epoch; return seconds a step and the losses."""
    base = load_base(str(directory))
    columns = as_columns(pairs)
    if which != OURS:
        columns = {name: column for name, column in columns.items() if name not in ("weight", "doubt")}
    config = RewardConfig(
        output_dir=str(place), per_device_train_batch_size=16, num_train_epochs=1, learning_rate=3e-4, max_length=None, seed=seed,
        center_rewards_coefficient=0.01, activation_checkpointing=False, gradient_checkpointing=False, bf16=False, use_cpu=True,
        dataloader_pin_memory=False, save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    kind = {OURS: OnePassRewardTrainer, STOCK: RewardTrainer, STOCK_ON_OUR_BATCHES: StockOnOurBatches}[which]
    more: dict[str, Any] = {"data_collator": PairCollator(base.tokenizer.pad_token_id)} if which == OURS else {}
    trainer = kind(model=base.model, args=config, train_dataset=Dataset.from_dict(columns), processing_class=base.tokenizer, **more)
    trainer.remove_callback(PrinterCallback)
    begun = time.perf_counter()
    trainer.train()
    seconds = (time.perf_counter() - begun) / trainer.state.max_steps
    return seconds, [float(line["loss"]) for line in trainer.state.log_history if "loss" in line]


def main() -> None:
    """Run all and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--verdicts", type=int, default=400)
    parser.add_argument("--contrastive", type=int, default=800)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    runs: dict[str, list[tuple[float, list[float]]]] = {OURS: [], STOCK: [], STOCK_ON_OUR_BATCHES: []}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        starter, _ = starter_in(place, tables_in(place, GateSettings(), TrainSettings()), readable(3_000, 0), steps=60)
        for seed in range(given.seeds):
            pairs = pairs_of(starter, given.verdicts, given.contrastive, seed)
            for which in list(runs)[:: 1 if seed % 2 == 0 else -1]:
                runs[which].append(run(starter, pairs, seed, place / "trl", which))

    def last_fifth(losses: list[float]) -> float:
        return float(np.mean(losses[-max(1, len(losses) // 5) :]))

    ratios = [stock[0] / ours[0] for stock, ours in zip(runs[STOCK], runs[OURS], strict=True)]
    loss, its_loss, in_its_order = (
        float(np.mean([last_fifth(losses) for _, losses in runs[which]])) for which in (OURS, STOCK_ON_OUR_BATCHES, STOCK)
    )
    found = {
        "vs_trl": round(float(np.median(ratios)), 2),
        **{
            f"ms_per_step{name}": round(1_000 * float(np.median([each for each, _ in runs[which]])), 1)
            for name, which in (("", OURS), ("_trl", STOCK), ("_trl_on_our_batches", STOCK_ON_OUR_BATCHES))
        },
        "loss_last_fifth": round(loss, 4),
        "loss_last_fifth_trl": round(its_loss, 4),
        "loss_last_fifth_trl_in_its_order": round(in_its_order, 4),
        "loss_differs_by": round(abs(loss - its_loss) / its_loss, 4),
        "steps": len(runs[OURS][0][1]),
        "seeds": given.seeds,
    }
    keep("train", {**found, "passed": found["vs_trl"] >= FASTER and found["loss_differs_by"] <= SAME_LOSS})


if __name__ == "__main__":
    main()
