"""What a training has measured -> its report: figures alone, none of them a record's content.

Enters: a learned model, what the champion makes of the same records, and what the cycle found. Leaves: Report.
"""

import json
from collections import Counter
from collections.abc import Container
from typing import Any, NamedTuple

import numpy as np

from model_registry.manifest import Threshold
from model_registry.report import REPORT_HTML, REPORT_JSON, Report, as_html
from stream.missed import wrong_passed
from trainer.certify import Certificate, Refused
from trainer.check import Finding
from trainer.datasets import Labelled
from trainer.evaluate import Comparison, Judged
from trainer.learned import Learned
from trainer.noise import Doubted
from trainer.sort import Sorted
from trainer.verdicts import Snapshot

_MOST_KINDS = 20
_STREAM_QUANTILES = np.linspace(0, 1, 201)


class Before(NamedTuple):
    """What the champion makes of the held-out records, and its p_chosen over the stream."""

    judged: Judged
    p_stream: np.ndarray


class Found(NamedTuple):
    """What a cycle has come to beside the model; `doubted` names places among those to learn from."""

    sorted: Sorted
    findings: list[Finding]
    doubted: Doubted
    snapshot: Snapshot
    certificate: Certificate | Refused
    comparison: Comparison | None
    decision: dict[str, Any]


def report_of(learned: Learned, judged: Judged, before: Before | None, p_stream: np.ndarray, found: Found) -> Report:
    """Return the report of a cycle: hold-out and flat draws under the new model, and under the champion of now."""
    first = len(found.sorted.hold_out)
    at_flat = [(n, found.sorted.flat[place - first]) for n, place in enumerate(learned.test_set.places) if place >= first]
    held_out = {n for n, place in enumerate(learned.test_set.places) if place < first}
    drawn = np.array([n for n, _ in at_flat], dtype=int)
    wrong_flat = np.array([each.counts_as_wrong for _, each in at_flat], dtype=bool)
    p_flat = judged.p_chosen[drawn]
    missed = None
    if len(p_flat):
        missed = wrong_passed(p_flat >= judged.threshold, wrong_flat, np.array([each.propensity for _, each in at_flat]))
    certificate = found.certificate
    return Report(
        losses=learned.trained.losses,
        p_test=rounded(judged.p_chosen),
        is_right=learned.test_is_right.tolist(),
        test_weight=rounded(learned.test_weight),
        p_before=None if before is None else rounded(before.judged.p_chosen),
        threshold=judged.threshold,
        threshold_before=None if before is None else before.judged.threshold,
        p_stream=quantiles(p_stream),
        p_stream_before=None if before is None else quantiles(before.p_stream),
        p_flat=rounded(p_flat),
        p_flat_before=None if before is None else rounded(before.judged.p_chosen[drawn]),
        flat_is_wrong=wrong_flat.tolist(),
        flat_weight=[round(1 / each.propensity, 6) for _, each in at_flat],
        kinds=by_kind(learned.test_set.records, judged, None if before is None else before.judged, held_out),
        certificate=certificate._asdict() if isinstance(certificate, Certificate) else None,
        certificate_reason=certificate.reason if isinstance(certificate, Refused) else None,
        wrong_passed=missed,
        comparison=None if found.comparison is None else found.comparison._asdict(),
        findings=[finding.sentence for finding in found.findings],
        suspects=[found.sorted.learn_ids[place] for place in found.doubted.suspects if not found.sorted.is_correction[place]],
        counts=learned.counts,
        snapshot=found.snapshot.digest,
        decision=found.decision,
    )


def report_of_data(learned: Learned, threshold: Threshold, p_stream: np.ndarray, findings: list[Finding], digest: str) -> Report:
    """Return the report of a training on a data set: no champion, no draws, no certificate."""
    judged = Judged(learned.d_test, learned.p_test, threshold.p_chosen)
    return Report(
        losses=learned.trained.losses, p_test=rounded(judged.p_chosen), is_right=learned.test_is_right.tolist(),
        test_weight=rounded(learned.test_weight), p_before=None, threshold=threshold.p_chosen, threshold_before=None,
        p_stream=quantiles(p_stream), p_stream_before=None, p_flat=[], p_flat_before=None, flat_is_wrong=[], flat_weight=[],
        kinds=by_kind(learned.test_set.records, judged, None, range(len(judged.d))),
        certificate=None, certificate_reason=threshold.reason, wrong_passed=None,
        comparison=None, findings=[finding.sentence for finding in findings], suspects=[], counts=learned.counts, snapshot=digest,
        decision=None,
    )  # fmt: skip


def report_files(report: Report, name: str) -> dict[str, str]:
    """Return the report's two files by name: figures, and the page that draws them."""
    return {REPORT_JSON: json.dumps(report._asdict(), ensure_ascii=False), REPORT_HTML: as_html(report, name)}


def by_kind(
    records: list[Labelled], judged: Judged, before: Judged | None, among: Container[int]
) -> list[tuple[str, int, int, int | None]]:
    """Return (kind, how many wrong records, held now, held before) of the most frequent kinds named, over the places `among`."""
    places = [(n, record.kind) for n, record in enumerate(records) if not record.is_right and record.kind and n in among]

    def held(model: Judged) -> Counter[str]:
        return Counter(kind for n, kind in places if model.p_chosen[n] < model.threshold)

    now, then = held(judged), None if before is None else held(before)
    counts = Counter(kind for _, kind in places)
    return [(kind, count, now[kind], None if then is None else then[kind]) for kind, count in counts.most_common(_MOST_KINDS)]


def quantiles(p: np.ndarray) -> list[float]:
    """Return 201 quantiles of p_chosen, none of nothing."""
    return rounded(np.quantile(p, _STREAM_QUANTILES)) if len(p) else []


def rounded(values: np.ndarray) -> list[float]:
    """Return plain numbers of six decimals."""
    return [round(float(value), 6) for value in values]
