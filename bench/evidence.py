"""What a version's memory knows beside its text: the two apart and together, by number of verdicts.

Twins: a starter learns from nine tenths of a stream; strangers with the same kinds of error, and with disagreements
between fields alone (`later`), are judged by the starter's d, by the evidence, and by their sum. Tables: evidence
alone on `../shared/data/errors`, null where they are not there. The last line is one JSON object.
"""

import argparse
import sys
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from bench.addresses import data_directory
from bench.machine import keep
from bench.starters import readable
from bench.table import never_asked, read_table
from demo.errors import LATER_ERRORS
from demo.twins import UNREADABLE, Twin, take
from stream.evidence import Evidence
from stream.render import Rendered
from stream.score import Scorer
from trainer.learned import SCORE_TOKENS, d_of
from trainer.pairs import RENDERING, rendered
from trainer.starter import Plan, train_starter
from trainer.weigh import Said, weigh

VERDICTS = (0, 20, 100, 300)
STREAM, STRANGERS, SEEN_SHARE = 5_000, 4_000, 0.9
WORDS = ("正确", "错误")
ROW_NUMBERS = {"hospital": ["index"], "flights": ["tuple_id"]}


def evidence_of(stream: list[Rendered], said: list[Said], seed: int) -> Evidence:
    """Weigh a stream's signs with some verdicts; what they call wrong is not drawn as right."""
    wrong = {each.record.text for each in said if not each.is_right}
    weighed = weigh(stream, [record for record in stream if record.text not in wrong], said, seed)
    assert weighed is not None, "a stream of this length can be remembered"
    return weighed.evidence


def of_twins(steps: int, seed: int) -> dict[str, Any]:
    """Return AUROC on strangers and on disagreements: text alone, and evidence and sum by number of verdicts."""
    known = readable(STREAM, seed)
    records = _rendered(known)
    starter = train_starter(records[: round(SEEN_SHARE * len(records))], WORDS, Plan(steps=steps, seed=seed))
    scorer = Scorer(starter.model.reward, starter.encoder, SCORE_TOKENS)
    later = [twin for twin in take(STRANGERS, seed + 2_000_003, kinds=tuple(LATER_ERRORS)) if twin.truth.kind != UNREADABLE]
    streams: dict[str, list[Twin]] = {"strangers": readable(STRANGERS, seed + 1_000_003), "later": later}
    found: dict[str, Any] = {"text": {}, "by_verdicts": {}}
    d = {}
    for name, twins in streams.items():
        ids = starter.encoder.encode([record.text for record in _rendered(twins)])
        d[name] = d_of(scorer, [each or [] for each in ids])
        found["text"][name] = _auroc([twin.truth.is_wrong for twin in twins], d[name])
    for verdicts in VERDICTS:
        asked = np.random.default_rng(seed).permutation(len(records))[:verdicts]
        evidence = evidence_of(records, [Said(records[row], not known[row].truth.is_wrong) for row in asked], seed)
        figures = {}
        for name, twins in streams.items():
            e = _of(evidence, _rendered(twins))
            truth = [twin.truth.is_wrong for twin in twins]
            figures[name] = {"evidence": _auroc(truth, e), "sum": _auroc(truth, d[name] + e)}
        found["by_verdicts"][verdicts] = figures
        print(f"twins, {verdicts} verdicts: {figures}", file=sys.stderr, flush=True)
    return found


def of_table(name: str, seeds: int) -> dict[str, Any] | None:
    """Return AUROC and field hit rate of the evidence alone on a fifth that nobody is asked about, means over seeds."""
    place = data_directory() / "errors" / name
    if not place.is_dir():
        return None
    table = read_table(place / "dirty.csv", place / "clean.csv", ROW_NUMBERS[name])
    records = rendered(table.contents(), RENDERING)
    found: dict[str, Any] = {}
    for verdicts in VERDICTS:
        areas, hits = [], []
        for seed in range(seeds):
            held = never_asked(len(records), seed)
            asked = np.random.default_rng(seed).permutation(np.flatnonzero(~held))[:verdicts]
            past = [records[row] for row in np.flatnonzero(~held)]
            evidence = evidence_of(past, [Said(records[row], not table.is_wrong[row]) for row in asked], seed)
            areas.append(_auroc(table.is_wrong[held], _of(evidence, [records[row] for row in np.flatnonzero(held)])))
            for row in np.flatnonzero(held & table.is_wrong):
                blamed = evidence.by_field(records[row])
                hits.append(bool(table.wrong_RC[row, table.columns.index(max(blamed, key=lambda path: blamed[path]))]))
        found[str(verdicts)] = {"auroc": round(float(np.mean(areas)), 4), "field_hit_rate": round(float(np.mean(hits)), 4)}
        print(f"{name}, {verdicts} verdicts: {found[str(verdicts)]}", file=sys.stderr, flush=True)
    return found


def _rendered(twins: list[Twin]) -> list[Rendered]:
    return rendered([twin.value.decode() for twin in twins], RENDERING)


def _of(evidence: Evidence, records: list[Rendered]) -> np.ndarray:
    return evidence.of_all(records)


def _auroc(is_wrong: Any, speaks_for_right: np.ndarray) -> float:
    return round(float(roc_auc_score(is_wrong, -speaks_for_right)), 4)


def main() -> None:
    """Run and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3, help="of the tables")
    given = parser.parse_args()
    torch.set_num_threads(2)
    tables = {name: of_table(name, given.seeds) for name in ROW_NUMBERS}
    keep("evidence", {"steps": given.steps, **tables, "twins": of_twins(given.steps, given.seed)})


if __name__ == "__main__":
    main()
