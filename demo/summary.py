"""How good it was: a version against records with known truth, and the table at the end of the demo."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from demo.errors import ERRORS, LATER_ERRORS
from demo.ledger import Ledger
from demo.round import Round
from demo.twins import RIGHT, UNREADABLE, Truth, Twin, wrong_paths
from model_registry.registry import Version
from stream.config import GateSettings, TopicSettings
from stream.decode import decode_value
from stream.evidence import load_evidence
from stream.live_model import d_of_shown, load_scorer
from stream.records import Content
from stream.render import render
from stream.rules import Rules
from trainer.calibrate import auroc_of, p_of
from trainer.certify import Certificate, Refused

RIGHT_HELD_SHARE = 0.05


class Evaluation(NamedTuple):
    """A version on records with known truth: the model alone (auroc, by_kind), and as the gate serves it, rules in front.

    wrong_passed: share of wrong records among those that pass; right_held: share of right ones held; recall_by_kind: share
    of each error kind that is held; p_chosen: calibrated, None for what cannot be read.
    """

    auroc: float
    recall_at_5pct_fp: float
    by_kind: dict[str, float]
    p_chosen: list[float | None]
    wrong_passed: float
    right_held: float
    recall_by_kind: dict[str, float]

    def recall_of(self, kinds: Iterable[str]) -> float:
        """Return the mean share of these kinds that is held."""
        return float(np.mean([self.recall_by_kind[kind] for kind in kinds if kind in self.recall_by_kind]))


class Scored(NamedTuple):
    """What a version makes of twins: raw d of those it can read, whether a rule holds them or they pass, and their truth."""

    d: np.ndarray
    is_ruled_out: np.ndarray
    passes: np.ndarray
    truths: list[Truth]
    p_chosen: list[float | None]

    def evaluation(self, kinds: Collection[str] | None = None) -> Evaluation:
        """Return the figures over all twins, or over the right ones and those with an error of these kinds."""
        kept = np.array([kinds is None or truth.kind == RIGHT or truth.kind in kinds for truth in self.truths])
        truths = [truth for truth, keep in zip(self.truths, kept, strict=True) if keep]
        d, is_ruled_out, passes = self.d[kept], self.is_ruled_out[kept], self.passes[kept]
        is_right = np.array([truth.kind == RIGHT for truth in truths])
        places: dict[str, list[int]] = defaultdict(list)
        for place, truth in enumerate(truths):
            if truth.kind != RIGHT:
                places[truth.kind].append(place)
        areas = {}
        for kind, at in places.items():
            both = np.concatenate([np.flatnonzero(is_right), at])
            areas[kind] = auroc_of(d[both], is_right[both])
        return Evaluation(
            auroc=auroc_of(d, is_right),
            recall_at_5pct_fp=recall_at(np.where(is_ruled_out, -np.inf, d), is_right, RIGHT_HELD_SHARE),
            by_kind=areas,
            p_chosen=self.p_chosen,
            wrong_passed=float((~is_right[passes]).mean()) if passes.any() else 0.0,
            right_held=float((~passes[is_right]).mean()),
            recall_by_kind={kind: float((~passes[at]).mean()) for kind, at in places.items()},
        )

    def calibration_error(self, bins: int = 10) -> float:
        """Return the expected calibration error of p_chosen over bins of equal width (Naeini et al. 2015)."""
        p = np.array([each for each in self.p_chosen if each is not None])
        right = np.array([truth.kind == RIGHT for truth in self.truths])
        which = np.minimum((p * bins).astype(int), bins - 1)
        return float(sum(abs(p[which == b].sum() - right[which == b].sum()) for b in range(bins)) / len(p))


def evaluate(version: Version, settings: GateSettings, twins: Sequence[Twin]) -> Evaluation:
    """Return the figures of a version over all these twins."""
    return score(version, settings, twins).evaluation()


def score(version: Version, settings: GateSettings, twins: Sequence[Twin]) -> Scored:
    """Score every readable twin, whatever the rules say, and route it as the gate would."""
    scorer = load_scorer(version, torch.device("cpu"), settings.batch_tokens)
    readings = [decode_value(twin.value, settings.format) for twin in twins]
    rules = Rules.load(settings.rules_file).check(readings)
    places = [place for place, reading in enumerate(readings) if isinstance(reading, Content)]
    shown = [render(reading) for reading in readings if isinstance(reading, Content)]
    found = d_of_shown(scorer, load_evidence(version.directory), shown)
    fitting = [(place, each) for place, each in zip(places, found, strict=True) if each is not None]
    d = np.array([each for _, each in fitting])
    p = p_of(d, version.manifest.calibration)
    is_ruled_out = np.array([any(violation.is_error for violation in rules[place]) for place, _ in fitting])
    p_chosen: list[float | None] = [None] * len(twins)
    for (place, _), each in zip(fitting, p, strict=True):
        p_chosen[place] = float(each)
    passes = ~is_ruled_out & (p >= version.manifest.threshold.p_chosen)
    return Scored(d, is_ruled_out, passes, [twins[place].truth for place, _ in fitting], p_chosen)


def recall_at(d: np.ndarray, is_right: np.ndarray, right_held_share: float) -> float:
    """Return the share of wrong records held when the threshold holds that share of the right ones."""
    right = np.sort(d[is_right])
    threshold = right[int(np.floor(right_held_share * len(right)))]
    return float((d[~is_right] < threshold).mean())


class Judged(NamedTuple):
    """A version that was champion, and what it makes of the strangers."""

    version: Version
    scored: Scored


def fields_of(
    ledger: Ledger, truth: dict[str, Truth], topics: TopicSettings, judged: Sequence[Judged], played: Sequence[Round]
) -> dict[str, Any]:
    """Return the fields of the demo's JSON object; `judged` are the champions before the first round and after each.

    The certificate is the serving champion's. `auroc`, `recall_at_5pct_fp` and `auroc_zero_verdicts` leave the later kinds of
    error out, the fields of before and after do not. `ece_after`: of p_chosen on all strangers. `field_hit_rate`: see there.
    """
    before, after = judged[0].scored.evaluation(), judged[-1].scored.evaluation()
    known = judged[-1].scored.evaluation(ERRORS)
    promoted = next((each.promoted for each in reversed(played) if each.promoted is not None), None)
    certificate = Refused("no version of these verdicts was promoted") if promoted is None else promoted.certificate
    pauses = [each.pause_ms for each in played if each.pause_ms is not None]
    return {
        "records": ledger.records,
        "clean": ledger.by_topic.get(topics.clean, 0),
        "quarantine": ledger.by_topic.get(topics.quarantine, 0),
        "dead_letter": ledger.by_topic.get(topics.dead_letter, 0),
        "lost": len(ledger.lost),
        "repeated": len(ledger.repeated),
        "auroc": round(known.auroc, 4),
        "recall_at_5pct_fp": round(known.recall_at_5pct_fp, 4),
        "auroc_zero_verdicts": round(judged[0].scored.evaluation(ERRORS).auroc, 4),
        "verdicts": sum(each.answered.verdicts for each in played),
        "mistaken_verdicts": sum(each.answered.mistakes for each in played),
        "auroc_before": round(before.auroc, 4),
        "auroc_after": round(after.auroc, 4),
        "wrong_passed_before": round(before.wrong_passed, 5),
        "wrong_passed_after": round(after.wrong_passed, 5),
        "right_held_before": round(before.right_held, 4),
        "right_held_after": round(after.right_held, 4),
        "recall_new_kinds_before": round(before.recall_of(LATER_ERRORS), 4),
        "recall_new_kinds_after": round(after.recall_of(LATER_ERRORS), 4),
        "ece_after": round(judged[-1].scored.calibration_error(), 4),
        "field_hit_rate": round(field_hit_rate(ledger, truth), 4),
        "certificate": certificate._asdict() if isinstance(certificate, Certificate) else None,
        "certificate_reason": certificate.reason if isinstance(certificate, Refused) else None,
        "swap_pause_ms": round(max(pauses)) if pauses else None,
        "rounds": [_round(each, champion.scored.evaluation()) for each, champion in zip(played, judged[1:], strict=True)],
    }


def field_hit_rate(ledger: Ledger, truth: dict[str, Truth]) -> float:
    """Return in how many wrong records of the stream that the model held the most suspect field was a wrong one.

    Records whose wrong fields are all missing are left out: what is not there cannot be marked.
    """
    hits = []
    for outcome in ledger.outcomes:
        if outcome.suspect is not None and truth[outcome.decision_id].is_wrong and outcome.value is not None:
            paths = wrong_paths(truth[outcome.decision_id], outcome.value)
            if paths:
                hits.append(outcome.suspect in paths)
    return float(np.mean(hits)) if hits else 0.0


def _round(played: Round, on: Evaluation) -> dict[str, Any]:
    """Return what one round came to, and how good the champion after it is."""
    return {
        "verdicts": played.answered.verdicts,
        "promoted": played.promoted is not None,
        "why": played.refused if played.cycle is None else played.cycle.promotion.why,
        "auroc": round(on.auroc, 4),
        "wrong_passed": round(on.wrong_passed, 5),
        "right_held": round(on.right_held, 4),
        "recall_new_kinds": round(on.recall_of(LATER_ERRORS), 4),
        "seconds_train": round(played.seconds_train, 1),
    }


def print_summary(console: Console, ledger: Ledger, truth: dict[str, Truth], judged: Sequence[Judged]) -> None:
    """Print, per error kind, what became of the stream's records, and which share of the strangers each champion holds."""
    champions = {champion.version.label: champion.scored.evaluation() for champion in judged}
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
        *(f"recall {label}" for label in champions),
    ):
        table.add_column(name, justify="left" if name == "truth" else "right")
    for kind in sorted(counts, key=lambda kind: (kind not in (RIGHT, UNREADABLE), kind)):
        each = counts[kind]
        shares = [f"{on.recall_by_kind[kind]:.3f}" if kind in on.recall_by_kind else "" for on in champions.values()]
        numbers = [each[name] for name in ("rules", "quarantine", "dead-letter", "clean")]
        table.add_row(kind, str(sum(each.values())), *map(str, numbers), *shares)
    console.print(table)
    console.print(f"lost {len(ledger.lost)}, repeated {len(ledger.repeated)}, out of order {ledger.disordered}")
    for label, on in champions.items():
        console.print(
            f"{label} on {len(on.p_chosen)} strangers: AUROC of the model alone {on.auroc:.4f}; as it serves, rules in front, it holds "
            f"{on.right_held:.1%} of the right ones, and {on.wrong_passed:.2%} of what passes is wrong"
        )
