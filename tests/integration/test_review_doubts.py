"""What a training doubts is asked again of another person, and of nobody any more once two agree or a newer training believes it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from demo.ledger import messages
from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from model_registry.report import REPORT_JSON
from review.auth import Who
from review.refused import NotAllowed
from review.serve import service
from tests.integration.conftest import send, wait_until
from tests.integration.reviewing import Page, a_report, come, held, published, released

pytestmark = pytest.mark.integration

MEI, LI, CHEN = (Who(name, frozenset({"reviewer"})) for name in ("mei", "li", "chen"))


def a_cycle(tables: SimpleNamespace, place: Path, name: str, suspects: list[str], noise: str = "review") -> None:
    """Publish a version as a cycle does that has read all verdicts there are and doubts these."""
    offsets: dict[str, int] = {}
    for message in messages(tables.kafka.bootstrap_servers, tables.topics.verdicts):
        partition = str(message.partition())
        offsets[partition] = max(offsets.get(partition, 0), int(message.offset()) + 1)
    report = a_report(suspects=suspects)
    published(tables.registry.url, place, name, report, settings={"noise": noise}, verdict_offsets=offsets)


def say(answers: Any, who: Who, decision_id: str, verdict: str) -> None:
    lease = answers.lease_again(who, decision_id)
    answers.verdict(who, decision_id, {"lease": lease["lease"], "verdict": verdict})


def state(page: Page, decision_id: str) -> tuple[str, int]:
    row = page.running.store.record(decision_id)
    return row.state, row.look


def test_another_person_is_asked_and_not_told_what_is_doubted(page: Page, tables: SimpleNamespace, tmp_path: Path) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, b"a%d" % n) for n in range(4)])
    come(page, 4)
    answers = page.running.app.state.answers
    for n, verdict in enumerate(("right", "wrong", "right", "wrong")):
        say(answers, MEI, f"in:1:{n}", verdict)
    wait_until(lambda: page.get("/api/counts")["done"] == 4, 10)
    a_cycle(tables, tmp_path, "one", ["in:1:0", "in:1:1", "in:1:2", "gone:0:1"])
    looking = page.running.doubts
    looking.look()
    counts = answers.counts(MEI)
    assert (counts["open"], counts["doubted"], counts["done"], counts["for_another"]) == (3, 3, 1, 3)
    assert "a training doubts" in counts["for_another_why"]
    assert page.running.store.figures.waiting_since_ms() is None, "nobody waits for what has been answered"
    assert 'winnow_review_waiting{look="doubted"} 3.0' in page.client.get("/metrics").text
    assert answers.lease(MEI, {})["decision_id"] is None, "who has answered is not asked again"
    lease = answers.lease(LI, {"look": "2", "order": "age"})
    assert lease["decision_id"] == "in:1:0"
    assert (lease["record"]["look"], lease["record"]["reached_clean"]) == (2, False), "that it was released would tell the answer"
    with pytest.raises(NotAllowed):
        answers.history(LI, "in:1:0")
    assert "in:1:0" not in json.dumps(page.get("/api/models/1/report"))
    assert answers.verdict(LI, "in:1:0", {"lease": lease["lease"], "verdict": "wrong"})["was_on_clean"] is True
    say(answers, LI, "in:1:1", "wrong")
    say(answers, LI, "in:1:2", "right")
    wait_until(lambda: answers.counts(LI)["doubted"] == 0, 10)
    assert [state(page, f"in:1:{n}") for n in range(4)] == [("open", 3), ("done", 1), ("done", 1), ("done", 1)]
    say(answers, CHEN, "in:1:0", "wrong")
    wait_until(lambda: answers.counts(LI)["done"] == 4, 10)
    looking.look()
    a_cycle(tables, tmp_path, "two", ["in:1:1", "in:1:3"])
    looking.look()
    assert [state(page, f"in:1:{n}")[0] for n in range(4)] == ["done", "done", "done", "open"], "two who agree are believed"
    assert len(released(tables, 2)) == 2, "a second right answer releases nothing again"


def test_what_a_newer_training_believes_or_the_same_person_has_changed_waits_no_more(
    page: Page, tables: SimpleNamespace, tmp_path: Path
) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, b"a%d" % n) for n in range(3)])
    come(page, 3)
    answers = page.running.app.state.answers
    for n in range(3):
        say(answers, MEI, f"in:1:{n}", "wrong")
    wait_until(lambda: page.get("/api/counts")["done"] == 3, 10)
    looking = page.running.doubts
    a_cycle(tables, tmp_path, "one", ["in:1:0", "in:1:1", "in:1:2"])
    looking.look()
    in_hand = answers.lease(LI, {"order": "age"})
    say(answers, MEI, "in:1:1", "right")
    wait_until(lambda: state(page, "in:1:1") == ("done", 1), 10)
    a_cycle(tables, tmp_path, "two", ["in:1:2"], noise="smooth")
    looking.look()
    assert state(page, "in:1:2") == ("done", 1), "what is softened is learned from"
    assert state(page, "in:1:0") == ("leased", 1), "what somebody has in hand is not taken away"
    answers.give_back(LI, "in:1:0", {"lease": in_hand["lease"]}, is_skip=False)
    assert state(page, "in:1:0") == ("done", 1)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_service_looks_by_itself_and_again_after_a_rebuild(tables: SimpleNamespace, tmp_path: Path) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, b"a%d" % n) for n in range(2)])
    with service(tables) as running:
        page = Page(running)
        come(page, 2)
        for n in range(2):
            say(running.app.state.answers, MEI, f"in:1:{n}", "wrong")
        wait_until(lambda: page.get("/api/counts")["done"] == 2, 10)
    a_cycle(tables, tmp_path, "one", ["in:1:1"])
    published(tables.registry.url, tmp_path, "of-a-file", a_report(suspects=[]))
    for rebuild in (False, True):
        with service(tables, rebuild=rebuild) as running:
            again = Page(running)
            wait_until(lambda: again.get("/api/counts")["doubted"] == 1, 10)  # noqa: B023
            assert state(again, "in:1:1") == ("open", 4)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_version_that_cannot_be_read_changes_nothing(
    page: Page, tables: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    come(page, 1)
    say(page.running.app.state.answers, MEI, "in:1:0", "wrong")
    wait_until(lambda: page.get("/api/counts")["done"] == 1, 10)
    registry = Registry(RegistrySettings(url=tables.registry.url))
    looking = page.running.doubts
    looking.look()
    a_cycle(tables, tmp_path, "one", ["in:1:0"])
    looking.look()
    a_cycle(tables, tmp_path, "two", [])
    (registry.root / "versions" / "2" / REPORT_JSON).write_text("{")
    looking.look()
    assert "cannot be read; what was asked about stays" in caplog.text
    a_cycle(tables, tmp_path, "three", [])
    (registry.root / "versions" / "3" / "manifest.json").write_text("{")
    looking.look()
    assert state(page, "in:1:0") == ("open", 4)
    a_cycle(tables, tmp_path, "four", [])
    looking.look()
    assert state(page, "in:1:0") == ("done", 1)
