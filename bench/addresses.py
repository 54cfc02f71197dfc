"""Real Chinese company addresses, as people typed them: a starter, 300 verdicts, and how well errors are found.

The errors are made here by a few lines that share nothing with trainer/corrupt.py or demo/twins.py. The evaluation
addresses are not among those that the starter learned from. Data: ../shared/data or WINNOW_DATA.
"""

import argparse
import csv
import os
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from bench.machine import keep
from model_registry.config import RegistrySettings
from model_registry.registry import Registry, Version
from stream.config import GateSettings, KafkaSettings
from stream.live_model import load_scorer
from trainer.config import TrainSettings
from trainer.datasets import Labelled, write_labelled
from trainer.make_starter import make_starter
from trainer.train import train_and_publish

DATA = "zh/company_addresses.csv"


def data_directory() -> Path:
    """Return WINNOW_DATA, else the shared folder beside the project."""
    return Path(os.environ.get("WINNOW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def addresses(path: Path) -> list[str]:
    """Return the addresses of the file, in order, each once."""
    with path.open(encoding="utf-8") as file:
        return list(dict.fromkeys(row["原始地址"] for row in csv.DictReader(file) if row["原始地址"].strip()))


def spoil(address: str, others: list[str], rng: random.Random) -> str:
    """Make one mistake of the kinds that people and programs make in addresses."""
    middle = len(address) // 2
    kind = rng.randrange(7)
    if kind == 0:
        return address[:middle] + rng.choice(others)[:middle] + address[middle:]
    if kind == 1:
        return address[middle:] + address[:middle]
    if kind == 2:
        return address[: max(2, len(address) // 3)]
    if kind == 3:
        return address + address[: rng.randint(3, max(3, middle))]
    if kind == 4:
        return "".join(rng.choice("0123456789x?") if c.isdigit() or rng.random() < 0.15 else c for c in address) + "#"
    if kind == 5:
        return address.encode("utf-8").decode("gbk", errors="ignore")
    place = rng.randrange(len(address))
    return address[:place] + "".join(rng.sample(address[place:], len(address) - place))


def judge(version: Version, texts: list[str]) -> np.ndarray:
    """Return d of every text by the version's model alone."""
    scorer = load_scorer(version, torch.device("cpu"), 8_192)
    rewards_B2 = scorer.rewards([ids or [] for ids in scorer.encoder.encode(texts)])
    d: np.ndarray = rewards_B2[:, 0] - rewards_B2[:, 1]
    return d


def run(path: Path, minutes: float | None, steps: int | None, verdicts: int, seed: int, place: Path) -> dict[str, Any]:
    """Starter on unlabelled addresses, verdicts on others, evaluation on a third part; AUROC before and after."""
    rng = random.Random(seed)
    found = addresses(path)
    rng.shuffle(found)
    unlabelled, answered, strangers = found[:12_000], found[12_000 : 12_000 + verdicts], found[13_000:15_000]
    source = place / "addresses.txt"
    source.write_text("\n".join(unlabelled) + "\n", encoding="utf-8")
    tables = SimpleNamespace(
        kafka=KafkaSettings(), gate=GateSettings(), registry=RegistrySettings(url=str(place / "registry")), train=TrainSettings(seed=seed)
    )
    made = make_starter(tables, str(source), place / "starter", minutes, steps, seed, len(unlabelled))
    cold = train_and_publish(tables, tables.train, str(place / "starter"), None, None)
    labels = [Labelled(spoil(a, unlabelled, rng) if n % 2 else a, n % 2 == 0) for n, a in enumerate(answered)]
    write_labelled(labels, place / "verdicts.jsonl", "binary", tables.train.verdict_words)
    warm = train_and_publish(tables, tables.train, str(place / "starter"), str(place / "verdicts.jsonl"), None)
    texts = strangers + [spoil(a, unlabelled, rng) for a in strangers]
    truth = [1] * len(strangers) + [0] * len(strangers)
    assert Registry(tables.registry).versions() == [1, 2]
    return {
        "steps": made["steps"],
        "verdicts": verdicts,
        "auroc_zero_verdicts": round(float(roc_auc_score(truth, judge(cold, texts))), 4),
        "auroc": round(float(roc_auc_score(truth, judge(warm, texts))), 4),
    }


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--verdicts", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    path = data_directory() / DATA
    if not path.is_file():
        print(f"bench.addresses needs {path}, which is not here; set WINNOW_DATA", file=sys.stderr)
        sys.exit(5)
    with tempfile.TemporaryDirectory() as place:
        keep("addresses", run(path, given.minutes, None, given.verdicts, given.seed, Path(place)))


if __name__ == "__main__":
    main()
