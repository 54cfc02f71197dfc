"""What the tests of the review service share: records as the gate leaves them, and a reviewer's browser without the browser."""

import json
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from starlette.testclient import TestClient

from demo.broker import free_port
from demo.ledger import messages
from model_registry.config import RegistrySettings
from model_registry.manifest import Calibration, Fingerprint, Manifest, Threshold, files_of
from model_registry.registry import Registry, Version
from model_registry.report import REPORT_JSON, Report
from review.serve import Service
from stream.metrics import GateMetrics, Health, MetricsServer
from stream.rules import Rules
from tests.integration.conftest import wait_until

BEGUN_MS = int(time.time() * 1000)  # clean keeps records for a week by their own time: older ones vanish under a test


def held(n: int, value: bytes, *, p: float = 0.2, reason: str = "model", audit: bool = False, **more: str) -> dict[str, object]:
    """A message as the gate leaves it in quarantine or audit."""
    ours = {
        "winnow.decision-id": f"in:1:{n}",
        "winnow.topic-id": "tid",
        "winnow.origin": "gate",
        "winnow.route": "audit" if audit else "quarantine",
        "winnow.reason": reason,
        "winnow.reward-right": "1",
        "winnow.reward-wrong": "2",
        "winnow.p-chosen": f"{p:.6f}",
        "winnow.threshold": "0.500000",
        "winnow.model": "m@1",
        "winnow.model-digest": "sha256:" + "0" * 64,
        **({"winnow.propensity": "0.010000", "winnow.lottery": "flat"} if audit else {"winnow.suspect": '[["phone",0.71]]'}),
        **more,
    }
    headers = [("source", b"plc"), *((name, text.encode()) for name, text in ours.items())]
    return {"key": b"k%d" % (n % 3), "value": value, "headers": headers, "timestamp": BEGUN_MS + n}


class Page:
    """A reviewer's browser, without the browser."""

    def __init__(self, running: Service, **cookies: str) -> None:
        self.running = running
        self.client = TestClient(running.app, base_url="http://127.0.0.1", cookies=cookies)

    def post(self, path: str, status: int = 200, **body: Any) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.json()

    def lease(self, **filters: str) -> Any:
        return self.post("/api/lease", **filters)

    def answer(self, lease: Any, verdict: str, status: int = 200, **more: Any) -> Any:
        return self.post(f"/api/decisions/{lease['decision_id']}/verdict", status, lease=lease["lease"], verdict=verdict, **more)


def events(tables: SimpleNamespace) -> list[Any]:
    return [json.loads(m.value()) for m in messages(tables.kafka.bootstrap_servers, tables.topics.verdicts)]


def released(tables: SimpleNamespace, at_least: int = 0) -> list[Any]:
    """What is on clean; a transaction's end reaches its partitions one after the other, so what is expected is waited for."""
    found: list[Any] = []

    def is_there() -> bool:
        found[:] = messages(tables.kafka.bootstrap_servers, tables.topics.clean)
        return len(found) >= at_least

    wait_until(is_there, 30)
    return found


def come(page: Page, count: int) -> None:
    wait_until(lambda: page.get("/api/counts")["open"] >= count, 30)


def published(url: str, place: Path, name: str, report: Report | None = None, **more: Any) -> Version:
    """Publish a version of a few bytes, with a training report where one is given; more: fields of its manifest."""
    prepared = place / name
    prepared.mkdir()
    (prepared / "weights").write_text(name)
    if report is not None:
        (prepared / REPORT_JSON).write_text(json.dumps(report._asdict(), ensure_ascii=False), encoding="utf-8")
    made = Manifest(
        name="winnow", base="b", method="full", created="2026-01-01T00:00:00+00:00", verdict_words=("正确", "错误"),
        rendering="fields@1", encoding="chat@1", pad_id=0, eos_id=1, max_length=10, calibration=Calibration(),
        threshold=Threshold(p_chosen=0.5, chosen_by="test", reason="only 12 flat draws; 299 are needed"),
        fingerprint=Fingerprint(texts=(), rewards=()), metrics={"auroc": 0.91}, settings={}, files=files_of(prepared),
    )  # fmt: skip
    return Registry(RegistrySettings(url=url)).publish(prepared, made.model_copy(update=more))


@contextmanager
def gates_in_shadow(version: str) -> Iterator[tuple[str, str]]:
    """Serve the metrics of two gates that have a challenger in shadow, as gates serve them; yield their addresses."""
    servers, addresses = [], []
    for _ in range(2):
        metrics, port = GateMetrics(Rules.load(None)), free_port()
        metrics.in_service(Rules.load(None), None, SimpleNamespace(label=version, digest="sha256:0"))  # type: ignore[arg-type]
        metrics.shadow_records.inc(100)
        metrics.shadow_flips.labels("to-clean").inc(3)
        metrics.shadow_flips.labels("to-quarantine").inc(2)
        servers.append(MetricsServer("127.0.0.1", port, metrics.registry, Health()))
        addresses.append(f"http://127.0.0.1:{port}/metrics")
    try:
        yield addresses[0], addresses[1]
    finally:
        for server in servers:
            server.close()


def a_report(**other: Any) -> Report:
    """A report such as a cycle writes, of 400 held-out records and 300 draws that were never judged by any model."""
    dice = random.Random(7)
    right = [dice.random() < 0.9 for _ in range(400)]
    p = [round(min(1.0, max(0.0, dice.gauss(0.85 if good else 0.35, 0.15))), 6) for good in right]
    before = [round(min(1.0, max(0.0, dice.gauss(0.75 if good else 0.5, 0.2))), 6) for good in right]
    wrong = [dice.random() < 0.1 for _ in range(300)]
    p_flat = [round(min(1.0, max(0.0, dice.gauss(0.35 if bad else 0.85, 0.15))), 6) for bad in wrong]
    found = Report(
        losses=[(step, round(0.7 / (1 + step / 10), 4)) for step in range(0, 100, 5)],
        p_test=p, is_right=right, test_weight=[1.0 if good else 4.0 for good in right], p_before=before,
        threshold=0.6, threshold_before=0.55,
        p_stream=[round((n / 200) ** 0.4, 6) for n in range(201)], p_stream_before=[round((n / 200) ** 0.5, 6) for n in range(201)],
        p_flat=p_flat, p_flat_before=[round(p**1.5, 6) for p in p_flat], flat_is_wrong=wrong, flat_weight=[10.0] * 300,
        kinds=[("phone", 21, 19, 12), ("postcode", 9, 8, None)],
        certificate={"alpha": 0.05, "delta": 0.05, "n": 260, "wrong": 5, "threshold": 0.62}, certificate_reason=None,
        wrong_passed=(0.012, 0.004, 0.03),
        comparison={
            "auroc": 0.96, "auroc_champion": 0.93, "auroc_low": 0.01, "auroc_high": 0.05,
            "recall": 0.9, "recall_champion": 0.7, "recall_low": 0.1, "recall_high": 0.3,
        },
        findings=["31 records read the same as another one"], suspects=["in:0:1"], counts={"train": 900, "test": 400},
        snapshot="sha256:" + "0" * 64,
        decision={"promoted": True, "why": "not worse: AUROC 0.9600, champion 0.9300, difference at least +0.0100", "over": "sha256:1"},
    )  # fmt: skip
    return found._replace(**other)
