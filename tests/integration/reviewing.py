"""What the tests of the review service share: records as the gate leaves them, and a reviewer's browser without the browser."""

import json
import time
from types import SimpleNamespace
from typing import Any

from starlette.testclient import TestClient

from demo.ledger import messages
from review.serve import Service
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
