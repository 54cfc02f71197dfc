"""The demo's own parts: its reviewers on a real page, what its view measures, and the whole of it in small."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from demo.ledger import messages
from demo.reviewer import Account, Answered, answer_all
from demo.run import run_demo
from demo.twins import RIGHT, Truth
from demo.view import LiveView
from foundation.errors import WinnowError
from model_registry.config import RegistrySettings
from review.auth import REVIEWER, add_user
from review.config import ReviewSettings
from stream.config import GateSettings, KafkaSettings, TopicSettings
from tests.browser.serving import served
from tests.integration.conftest import send
from tests.integration.reviewing import BEGUN_MS, held

pytestmark = pytest.mark.integration


def test_reviewers_answer_everything_and_look_twice_where_they_must(kafka: KafkaSettings, topics: TopicSettings, tmp_path: Path) -> None:
    accounts = [Account(f"reviewer-{number}", f"password {number} of three") for number in range(3)]
    for account in accounts:
        add_user(tmp_path / "users.toml", account.name, account.password, (REVIEWER,))
    review = ReviewSettings(port=0, users_file=tmp_path / "users.toml", second_share=0.0, database_url=f"sqlite:///{tmp_path}/r.sqlite3")
    tables = SimpleNamespace(
        kafka=kafka, topics=topics, gate=GateSettings(), review=review, registry=RegistrySettings(url=str(tmp_path / "registry"))
    )
    send(kafka, topics.quarantine, [held(n, b"held %d" % n) for n in range(30)])
    send(kafka, topics.audit, [held(n, b"drawn %d" % n, audit=True) for n in range(100, 120)])
    truth = {f"in:1:{n}": Truth("phone_length" if n % 3 == 0 else RIGHT) for n in range(120)}
    with served(tables) as address:
        with pytest.raises(WinnowError, match="refuses /api/login: the name or the password is wrong"):
            answer_all(address, [Account("stranger", "no password")], truth, 0.0)
        found = answer_all(address, accounts, truth, 0.1)
        assert answer_all(address, accounts, truth, 0.1) == Answered(0, 0), "nothing is left"
    events = [json.loads(message.value()) for message in messages(kafka.bootstrap_servers, topics.verdicts)]
    assert len(events) == found.verdicts
    assert sum((event["verdict"] == "wrong") != truth[event["decision_id"]].is_wrong for event in events) == found.mistakes
    by_decision: dict[str, list[str]] = {}
    for event in events:
        by_decision.setdefault(event["decision_id"], []).append(event["reviewer"])
    assert len(by_decision) == 50
    assert all(len(set(people)) == len(people) for people in by_decision.values()), "nobody looks twice"
    drawn_wrong = {event["decision_id"] for event in events if event["source"] == "audit" and event["verdict"] == "wrong"}
    assert drawn_wrong
    assert all(len(by_decision[decision_id]) >= 2 for decision_id in drawn_wrong)


def test_the_view_measures_the_pause_of_a_swap(kafka: KafkaSettings, topics: TopicSettings) -> None:
    def judged(n: int, digest: str) -> dict[str, object]:
        return held(n, b"%d" % n, **{"winnow.model-digest": digest}) | {"timestamp": BEGUN_MS}

    view = LiveView(kafka, topics, Console(quiet=True))
    try:
        send(kafka, topics.clean, [judged(0, "old"), judged(1, "old")])
        assert view.watch(2, lambda: True) >= 0
        assert view.pause_ms(0.0, "new") is None
        send(kafka, topics.quarantine, [judged(2, "new")])
        view.watch(3, lambda: True)
        pause_ms = view.pause_ms(0.0, "new")
        assert pause_ms is not None
        assert pause_ms > 0
        assert view.pause_ms(0.0, "old") is None, "nothing came before it"
    finally:
        view.close()


@pytest.mark.timeout(600)
def test_the_whole_demo_in_small(capsys: pytest.CaptureFixture[str]) -> None:
    run_demo(1_000, keep=False, seed=1, starter_minutes=0.2)
    said = capsys.readouterr()
    assert "review page: http://127.0.0.1:" in said.err.splitlines()[0]
    found = json.loads(said.out.splitlines()[-1])
    assert found["records"] == 1_000 == found["clean"] + found["quarantine"] + found["dead_letter"]
    assert found["lost"] == found["repeated"] == found["swap_lost"] == 0
    assert found["verdicts"] > 60
    assert 0 < found["mistaken_verdicts"] < 0.15 * found["verdicts"]
    assert (found["certificate"] is None) == isinstance(found["certificate_reason"], str)
    assert found["rounds"][0]["verdicts"] == found["verdicts"]
    assert (found["auroc_before"] != found["auroc_after"]) == found["rounds"][0]["promoted"]
    assert 0.4 < found["auroc_before"] <= 1
