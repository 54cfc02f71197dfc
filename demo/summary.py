"""How good it was: a version against records with known truth, and the table at the end of the demo."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score

from demo.ledger import Ledger
from demo.twins import RIGHT, UNREADABLE, Truth, Twin
from model_registry.registry import Version
from stream.config import GateSettings
from stream.decode import decode_value
from stream.live_model import load_scorer
from stream.records import Content
from stream.render import text_of
from stream.rules import Rules

RIGHT_HELD_SHARE = 0.05


class Evaluation(NamedTuple):
    """A version on records with known truth: the model alone, and with the rules in front."""

    auroc: float
    recall_at_5pct_fp: float
    by_kind: dict[str, float]
    p_chosen: list[float | None]


def evaluate(version: Version, settings: GateSettings, twins: Sequence[Twin]) -> Evaluation:
    """Score every readable twin with the model alone, whatever the rules say; p_chosen is None for unreadable ones."""
    scorer = load_scorer(version, torch.device("cpu"), settings.batch_tokens)
    readings = [decode_value(twin.value, settings.format) for twin in twins]
    rules = Rules.load(settings.rules_file).check(readings)
    places = [place for place, reading in enumerate(readings) if isinstance(reading, Content)]
    ids = scorer.encoder.encode([text_of(reading) for reading in readings if isinstance(reading, Content)])
    fitting = [(place, found) for place, found in zip(places, ids, strict=True) if found is not None]
    rewards_B2 = scorer.rewards([found for _, found in fitting])
    d = rewards_B2[:, 0] - rewards_B2[:, 1]
    truths = [twins[place].truth for place, _ in fitting]
    is_right = np.array([truth.kind == RIGHT for truth in truths])
    is_ruled_out = np.array([any(violation.is_error for violation in rules[place]) for place, _ in fitting])
    p_chosen: list[float | None] = [None] * len(twins)
    for (place, _), each in zip(fitting, d, strict=True):
        p_chosen[place] = float(1 / (1 + np.exp(-np.clip(each, -60, 60))))
    by_kind = {
        kind: float(roc_auc_score([1] * int(is_right.sum()) + [0] * len(of_kind), [*d[is_right], *of_kind]))
        for kind, of_kind in _grouped(truths, d).items()
        if kind != RIGHT
    }
    area = float(roc_auc_score(is_right, d))
    return Evaluation(area, recall_at(np.where(is_ruled_out, -np.inf, d), is_right, RIGHT_HELD_SHARE), by_kind, p_chosen)


def recall_at(d: np.ndarray, is_right: np.ndarray, right_held_share: float) -> float:
    """Return the share of wrong records held when the threshold holds that share of the right ones."""
    right = np.sort(d[is_right])
    threshold = right[int(np.floor(right_held_share * len(right)))]
    return float((d[~is_right] < threshold).mean())


def _grouped(truths: Sequence[Truth], d: np.ndarray) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = defaultdict(list)
    for truth, each in zip(truths, d, strict=True):
        groups[truth.kind].append(float(each))
    return groups


def print_summary(
    console: Console, ledger: Ledger, truth: dict[str, Truth], cold: Version, cold_on: Evaluation, trained: Version, trained_on: Evaluation
) -> None:
    """Print, per error kind, what became of the stream's records and what the two versions make of strangers."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for outcome in ledger.outcomes:
        how = "rules" if outcome.reason.startswith("rule:") else outcome.route
        counts[truth[outcome.decision_id].kind][how] += 1
    table = Table(title="What became of the stream")
    for name in (
        "truth",
        "records",
        "held by rules",
        "held by model",
        "dead letter",
        "passed",
        f"AUROC {cold.label}",
        f"AUROC {trained.label}",
    ):
        table.add_column(name, justify="left" if name == "truth" else "right")
    for kind in sorted(counts, key=lambda kind: (kind not in (RIGHT, UNREADABLE), kind)):
        each = counts[kind]
        areas = [f"{on.by_kind[kind]:.3f}" if kind in on.by_kind else "" for on in (cold_on, trained_on)]
        numbers = [each[name] for name in ("rules", "quarantine", "dead-letter", "clean")]
        table.add_row(kind, str(sum(each.values())), *map(str, numbers), *areas)
    console.print(table)
    console.print(
        f"lost {len(ledger.lost)}, repeated {len(ledger.repeated)}, out of order {ledger.disordered}; "
        f"on {len(trained_on.p_chosen)} strangers "
        f"the model alone has AUROC {trained_on.auroc:.3f} ({cold_on.auroc:.3f} before any verdict), with the rules it holds "
        f"{trained_on.recall_at_5pct_fp:.1%} of the wrong records at 5 % of the right ones"
    )
