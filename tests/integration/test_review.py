"""The review service on a real Kafka: leases, verdicts, releases, second looks, bulk answers, odd records."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from review.auth import Who
from review.leases import Filters
from review.refused import LeaseLost, NotAllowed
from review.serve import service
from stream import wire
from stream.trace import trace
from tests.browser.serving import settings_file
from tests.integration.conftest import send, wait_until, winnow
from tests.integration.reviewing import BEGUN_MS, Page, come, events, held, released
from trainer.starter_files import digest_of

pytestmark = pytest.mark.integration


def waited(page: Page) -> float:
    """What `/metrics` says of the record that has waited longest, in seconds."""
    assert page.get("/api/counts")["open"] == 1
    [line] = [line for line in page.client.get("/metrics").text.splitlines() if line.startswith("winnow_review_oldest_open_seconds")]
    return float(line.split()[1])


def test_right_releases_wrong_does_not_and_a_correction_replaces_the_value(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, b'{"phone": "%d"}' % n) for n in range(3)])
    come(page, 3)
    leases = [page.lease(order="age") for _ in range(3)]
    assert [each["decision_id"] for each in leases] == ["in:1:0", "in:1:1", "in:1:2"]
    assert page.lease()["decision_id"] is None
    assert leases[0]["record"]["fields"] == [{"path": "phone", "value": "0", "characters": 1, "weight": 0.71}]
    assert page.get("/api/counts")["leased"] == 3
    assert page.answer(leases[0], "right", note="fine")["released"] is True
    assert page.answer(leases[1], "wrong")["released"] is False
    assert "breaks" not in page.answer(leases[2], "wrong", 422, correction="{")["error"]
    assert page.answer(leases[2], "wrong", correction='{"phone": "13812345678"}')["released"] is True
    clean = released(tables, 2)
    assert [(m.key(), m.value(), m.timestamp()[1], m.partition()) for m in clean] == [
        (b"k0", b'{"phone": "0"}', BEGUN_MS, 1),
        (b"k2", b'{"phone": "13812345678"}', BEGUN_MS + 2, 1),
    ]
    said = [
        {name: wire.last(m.headers(), name) for name in (wire.ORIGIN, wire.ROUTE, wire.SUSPECT, wire.P_CHOSEN, "source")} for m in clean
    ]
    assert said[0] == {wire.ORIGIN: "release", wire.ROUTE: "clean", wire.SUSPECT: None, wire.P_CHOSEN: "0.200000", "source": "plc"}
    assert said[1] == {wire.ORIGIN: "correction", wire.ROUTE: "clean", wire.SUSPECT: None, wire.P_CHOSEN: None, "source": "plc"}
    by_id = {event["decision_id"]: event for event in events(tables)}
    first = by_id["in:1:0"]
    assert (first["v"], first["verdict"], first["source"], first["blind"], first["note"]) == (1, "right", "quarantine", False, "fine")
    assert (first["reviewer"], first["p_chosen"], first["threshold"], first["reason"]) == ("local", 0.2, 0.5, "model")
    counts = page.get("/api/counts")
    assert (counts["open"], counts["leased"], counts["done"], counts["mine_today"]) == (0, 0, 3, 3)


def test_the_same_answer_again_changes_nothing_and_undo_supersedes_without_a_second_release(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    come(page, 1)
    lease = page.lease()
    page.answer(lease, "right")
    assert page.answer(lease, "right")["again"] is True
    page.answer(lease, "wrong", 409)
    again = page.post("/api/decisions/in:1:0/lease")
    assert int(again["lease"]) > int(lease["lease"])
    assert again["record"]["reached_clean"] is True
    done = page.answer(again, "wrong")
    assert (done["released"], done["was_on_clean"]) == (False, True)
    third = page.post("/api/decisions/in:1:0/lease")
    assert page.answer(third, "right")["released"] is False
    assert [event["verdict"] for event in events(tables)] == ["right", "wrong", "right"]
    assert len(released(tables, 1)) == 1
    assert [each["verdict"] for each in page.get("/api/decisions/in:1:0/history")["verdicts"]] == ["right", "wrong", "right"]


def test_a_lease_that_lapses_comes_back_and_the_old_one_is_refused(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    come(page, 1)
    store = page.running.store
    old = store.leases.lease("slow", 0.2, Filters())
    assert old is not None
    assert store.leases.lease("quick", 60, Filters()) is None
    time.sleep(0.3)
    assert page.get("/api/counts")["open"] == 1
    new = store.leases.lease("quick", 60, Filters())
    assert new is not None
    assert new.token > old.token
    with pytest.raises(LeaseLost):
        store.leases.begin_publishing("in:1:0", old.token, "slow", "right")
    with pytest.raises(LeaseLost):
        store.leases.renew("in:1:0", old.token, "slow", 60)
    with pytest.raises(LeaseLost):
        store.leases.lease_again("in:1:0", "slow", 60, is_lead=False)


def test_audits_are_blind_and_wrong_is_looked_at_twice(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.audit, [held(0, b"a", p=0.9, audit=True), held(1, b"b", p=0.9, audit=True)])
    come(page, 2)
    store, answers = page.running.store, {}
    for _ in range(2):
        lease = page.lease()
        shown = lease["record"]
        assert shown["blind"] is True
        assert not {"p_chosen", "threshold", "reason", "model", "pattern", "problems", "source"} & set(shown)
        answers[lease["decision_id"]] = lease
    mei = Who("mei", frozenset({"reviewer"}))
    with pytest.raises(NotAllowed, match="looked at blind"):
        page.running.app.state.answers.history(mei, "in:1:0")
    page.answer(answers["in:1:0"], "right")
    page.answer(answers["in:1:1"], "wrong")
    assert page.get("/api/counts")["second"] == 1
    assert released(tables) == []
    assert store.leases.lease("local", 60, Filters()) is None, "a second look is somebody else's"
    second = store.leases.lease("other", 60, Filters())
    assert second is not None
    assert second.decision_id == "in:1:1"
    assert {event["decision_id"]: (event["blind"], event["propensity"], event["lottery"]) for event in events(tables)} == {
        "in:1:0": (True, 0.01, "flat"),
        "in:1:1": (True, 0.01, "flat"),
    }


def test_two_that_disagree_make_a_conflict_and_a_third_settles_it(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.audit, [held(0, b"a", audit=True)])
    come(page, 1)
    from review.figures import kappa

    page.running.store.figures._second_share = 1.0

    answers = page.running.app.state.answers
    mei, li, chen = (Who(name, frozenset({"reviewer"})) for name in ("mei", "li", "chen"))
    for who, verdict in ((mei, "wrong"), (li, "right")):
        lease = answers.lease(who, {})
        answers.verdict(who, lease["decision_id"], {"lease": lease["lease"], "verdict": verdict})
    assert page.get("/api/counts")["conflict"] == 1
    assert answers.lease(mei, {})["decision_id"] is None
    lease = answers.lease(chen, {"look": "3"})
    answers.verdict(chen, "in:1:0", {"lease": lease["lease"], "verdict": "wrong"})
    row = page.running.store.record("in:1:0")
    assert (row.state, row.verdict, row.verdict_by) == ("done", "wrong", "chen")
    assert page.get("/api/groups")["answered_twice"] == 1
    assert kappa([("right", "right"), ("wrong", "wrong"), ("right", "wrong"), ("wrong", "wrong")]) == pytest.approx(0.5)


def test_a_record_waits_since_it_came_and_anew_since_a_verdict_that_asks_for_more(page: Page, tables: SimpleNamespace) -> None:
    tables.review = tables.review.model_copy(update={"second_share": 1.0})
    of_a_year_ago = {"timestamp": BEGUN_MS - 365 * 86_400_000}
    store = page.running.store
    send(tables.kafka, tables.topics.quarantine, [{**held(0, b"old"), **of_a_year_ago}])
    come(page, 1)
    came_ms = store.figures.waiting_since_ms()
    assert came_ms is not None
    assert BEGUN_MS <= came_ms <= int(time.time() * 1000)
    assert waited(page) < 60
    wait_until(lambda: store.looked_ms() >= came_ms, 10)
    with service(tables) as second:  # which takes the store over
        assert second.store.record("in:1:0").since_ms == came_ms
    send(tables.kafka, tables.topics.quarantine, [{**held(1, b"old too"), **of_a_year_ago}])
    with service(tables) as third:  # nobody looked when it came, but somebody had a moment before
        assert came_ms <= third.store.record("in:1:1").since_ms <= int(time.time() * 1000)
        third.store.erase(b"k1")
    with service(tables, rebuild=True) as again:  # both lay there already: nobody knows since when, so their own time counts
        assert again.store.figures.waiting_since_ms() == of_a_year_ago["timestamp"]
        again.store.erase(b"k1")
        anew = Page(again)
        assert waited(anew) > 364 * 86_400
        lease = anew.lease()
        assert again.store.figures.waiting_since_ms() is None
        anew.answer(lease, "right")
        assert anew.get("/api/counts")["second"] == 1
        [event] = events(tables)
        assert again.store.figures.waiting_since_ms() == event["time_ms"]
        assert waited(anew) < 60
        lapsing = again.store.leases.lease("somebody", 0.2, Filters())
        assert lapsing is not None
        time.sleep(0.3)
        assert again.store.figures.waiting_since_ms() == event["time_ms"], "a lease that has lapsed counts as open"


def test_an_answered_record_whose_lease_has_lapsed_does_not_wait(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    come(page, 1)
    page.answer(page.lease(), "right")
    store = page.running.store
    wait_until(lambda: store.figures.counts(0).done == 1, 10)
    store.leases.lease_again("in:1:0", "somebody", 0.2, is_lead=False)
    assert store.figures.counts(0)[:3] == (0, 1, 0)
    time.sleep(0.3)
    assert store.figures.counts(0)[:3] == (0, 0, 1)
    assert store.figures.waiting_since_ms() is None


def test_a_verdict_of_no_time_does_not_make_a_record_wait_since_1970(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.audit, [held(0, b"a", audit=True)])
    come(page, 1)
    came_ms = page.running.store.figures.waiting_since_ms()
    event = {"v": 1, "decision_id": "in:1:0", "verdict": "wrong", "reviewer": "a script", "time_ms": 0, "source": "audit", "blind": True}
    more = {
        "propensity": 0.01,
        "lottery": "flat",
        "reason": "model",
        "topic_id": "tid",
        "key_b64": None,
        "value_b64": "YQ==",
        "content_type": "text",
    }
    send(tables.kafka, tables.topics.verdicts, [{"value": json.dumps(event | more).encode()}])
    wait_until(lambda: page.get("/api/counts")["second"] == 1, 30)
    assert page.running.store.figures.waiting_since_ms() == came_ms


def test_bulk_answers_only_what_was_confirmed(page: Page, tables: SimpleNamespace) -> None:
    values = [b'{"phone": "138%08d"}' % n for n in range(20)] + [b'{"phone": "x"}']
    send(tables.kafka, tables.topics.quarantine, [held(n, value, reason="rule:phone") for n, value in enumerate(values)])
    come(page, 21)
    [group] = page.get("/api/groups")["groups"]
    assert group == {"reason": "rule:phone", "pattern": "a: 9{11}", "count": 20}
    assert "there are 20 such records now, not 19" in page.post("/api/bulk", 409, **{**group, "count": 19}, verdict="right")["error"]
    assert page.post("/api/bulk", **group, verdict="right")["answered"] == 20
    wait_until(lambda: page.get("/api/counts")["done"] == 20, 30)
    assert len(released(tables, 20)) == 20
    assert page.get("/api/counts")["open"] == 1


def test_filters_skip_and_earlier_records(page: Page, tables: SimpleNamespace) -> None:
    records = [held(n, b"%d" % n, p=p, reason=reason) for n, (p, reason) in enumerate([(0.1, "model"), (0.49, "model"), (0.3, "too-long")])]
    send(tables.kafka, tables.topics.quarantine, [*records, held(3, b"later")])
    come(page, 4)
    first = page.lease(order="uncertainty")
    assert first["decision_id"] == "in:1:1"
    page.post("/api/decisions/in:1:1/skip", lease=first["lease"])
    assert page.lease(order="uncertainty")["decision_id"] == "in:1:2"
    assert page.lease(reason="too-long")["decision_id"] is None
    later = page.lease(order="age", reason="model")
    assert later["decision_id"] == "in:1:0"
    newest = page.lease()
    assert [each["text"] for each in newest["record"]["earlier"]] == ["0"]
    assert page.lease()["decision_id"] is None
    assert page.post("/api/skips/forget") == {"offered_again": 1}
    assert page.lease()["decision_id"] == "in:1:1"
    assert "order = 'best' is not one of" in page.post("/api/lease", 422, order="best")["error"]
    assert "lease = 'x'" in page.post("/api/decisions/in:1:1/verdict", 422, lease="x", verdict="right")["error"]
    assert page.get("/api/decisions/none/history", 404)


def test_a_record_is_explained_and_a_key_is_erased(page: Page, tables: SimpleNamespace, tmp_path: Path) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, b"%d" % n) for n in range(4)])
    come(page, 4)
    lease = page.lease(order="age")
    page.answer(lease, "right", note="fine")
    released(tables, 1)
    found = trace(tables.kafka, tables.topics, "in:1:0")
    assert [(each["topic"], each.get("origin"), each.get("verdict")) for each in found] == [
        (tables.topics.clean, "release", None),
        (tables.topics.quarantine, "gate", None),
        (tables.topics.verdicts, None, "right"),
    ]
    assert (found[1]["reason"], found[1]["p-chosen"], found[2]["note"]) == ("model", "0.200000", "fine")
    config = settings_file(tables, tmp_path)
    said = winnow("explain", "in:1:0", "--config", config)
    assert [json.loads(line) for line in said.stdout.splitlines()] == found, said.stderr
    assert winnow("explain", "in:9:9", "--config", config).returncode == 5
    starter = tmp_path / "starter"
    starter.mkdir()
    (starter / "unlabelled.jsonl").write_text('"0"\n"7"\n"3"\n"0"\n')
    (starter / "starter.json").write_text('{"steps": 1, "digest": "sha256:before"}')
    elsewhere = tmp_path / "elsewhere.toml"
    elsewhere.write_text(re.sub(r'database_url = ".*"', f'database_url = "sqlite:///{tmp_path}/nowhere.sqlite3"', config.read_text()))
    said = winnow("erase", "--key", "k0", "--config", elsewhere)
    assert (said.returncode, json.loads(said.stdout)["erased"]) == (0, None), "no store lies there, and none may be made"
    assert not (tmp_path / "nowhere.sqlite3").exists()
    said = winnow("erase", "--key", "k0", "--starter", str(starter), "--config", config)
    assert said.returncode == 0, said.stderr
    gone = json.loads(said.stdout)
    assert gone["erased"] == 2
    assert gone["erased_from_starters"] == {str(starter): 3}
    assert (starter / "unlabelled.jsonl").read_text() == '"7"\n'
    facts = json.loads((starter / "starter.json").read_text())
    assert (facts["steps"], facts["erased"], facts["digest"]) == (1, 3, digest_of(starter))
    assert {topic: count for topic, count in gone["kept_by_kafka"].items() if count} == {
        tables.topics.clean: 1,
        tables.topics.quarantine: 2,
        tables.topics.verdicts: 1,
    }
    assert page.get("/api/decisions/in:1:0/history", 404)
    assert page.get("/api/counts")["open"] == 2


def test_odd_headers_and_values_are_shown_as_they_are_and_stop_nothing(page: Page, tables: SimpleNamespace) -> None:
    odd = {"winnow.p-chosen": "high", "winnow.threshold": "nan", "winnow.suspect": '{"phone": 1}', "winnow.propensity": "0"}
    records = [
        held(0, b"a", **odd),
        held(1, b"\xff\xfe\x00", **{"winnow.suspect": "[[1]]", "winnow.reason": "rule:\x00"}),
        {"value": b"no decision id"},
        {**held(2, b'{"a": "\\ud800"}'), "value": b'{"a": "\\ud800", "b": "\\u0000"}'},
        {**held(3, b""), "value": None},
    ]
    send(tables.kafka, tables.topics.quarantine, records)
    come(page, 4)
    shown = [page.lease(order="age") for _ in range(4)]
    assert [each["decision_id"] for each in shown] == [f"in:1:{n}" for n in range(4)]
    assert shown[0]["record"]["p_chosen"] is None
    for each in shown:
        page.answer(each, "wrong", note="odd\x00")
    assert page.get("/api/counts")["done"] == 4
