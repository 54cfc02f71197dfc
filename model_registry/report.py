"""The training report of a version: figures without any record's content, as JSON beside the weights and as one HTML file.

The HTML file needs nothing else: the drawing code and the figures are inside it. The review service draws the same
figures with the same code.
"""

import json
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
ASSETS = Path(__file__).parent / "assets"


class Report(NamedTuple):
    """What a training measured.

    losses: (step, loss). p_test, is_right, test_weight: held-out records under the new model, and how many of the stream each
    stands for. p_stream: 201 quantiles of p_chosen over unlabelled records. p_flat, flat_is_wrong, flat_weight: draws of the
    flat lottery. What ends in _before is the same under the champion of then, None where there was none.
    kinds: (kind, how many wrong held-out records, held by the new model, held by the champion), the most frequent first.
    wrong_passed: (estimate, low, high). suspects: decision ids whose verdicts are doubtful. decision: whether it may take over,
    why, and over which champion's digest.
    """

    losses: list[tuple[int, float]]
    p_test: list[float]
    is_right: list[bool]
    test_weight: list[float]
    p_before: list[float] | None
    threshold: float
    threshold_before: float | None
    p_stream: list[float]
    p_stream_before: list[float] | None
    p_flat: list[float]
    p_flat_before: list[float] | None
    flat_is_wrong: list[bool]
    flat_weight: list[float]
    kinds: list[tuple[str, int, int, int | None]]
    certificate: dict[str, Any] | None
    certificate_reason: str | None
    wrong_passed: tuple[float, float, float] | None
    comparison: dict[str, float] | None
    findings: list[str]
    suspects: list[str]
    counts: dict[str, int]
    snapshot: str
    decision: dict[str, Any] | None


def as_html(report: Report, name: str) -> str:
    """Return the report as one self-contained page."""
    # a < inside the figures could end the script element that holds them
    figures = json.dumps(report._asdict(), ensure_ascii=False).replace("<", "\\u003c")
    style, script = ((ASSETS / file).read_text(encoding="utf-8") for file in ("report.css", "report.js"))
    head, title = '<meta name="viewport" content="width=device-width, initial-scale=1">', f"{escape(name)} · training report"
    data = f'<script type="application/json" id="figures">{figures}</script>'
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{head}<title>{title}</title><style>{style}</style></head>'
        f'<body><main><h1>{title}</h1><div id="report"></div></main>{data}<script>{script}</script></body></html>\n'
    )
