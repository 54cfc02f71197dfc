"""The review service on a real Kafka: leases, verdicts, releases, second looks, rebuilding, and who may do what."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from demo.ledger import messages
from foundation.errors import SettingInvalid, StoreTaken
from model_registry.config import RegistrySettings
from review.auth import NotAllowed, Who, add_user
from review.config import ReviewSettings
from review.leases import Filters, LeaseLost
from review.serve import Service, service
from review.tables import schema
from stream import wire
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.trace import trace
from tests.browser.serving import settings_file
from tests.integration.conftest import send, wait_until, winnow

pytestmark = pytest.mark.integration

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


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/review.sqlite3"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def tables(kafka: KafkaSettings, topics: TopicSettings, database_url: str, tmp_path: Path) -> SimpleNamespace:
    review = ReviewSettings(database_url=database_url, second_share=0.0, lease_seconds=60)
    registry = RegistrySettings(url=str(tmp_path / "registry"))
    return SimpleNamespace(kafka=kafka, topics=topics, gate=GateSettings(), review=review, registry=registry)


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


@pytest.fixture
def page(tables: SimpleNamespace) -> Iterator[Page]:
    with service(tables) as running:
        yield Page(running)


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
    from review.store import kappa

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


def test_an_unreadable_event_is_passed_over_and_the_store_can_be_rebuilt(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(n, b"%d" % n) for n in range(5)])
    come(page, 5)
    for _ in range(3):
        page.answer(page.lease(), "right")
    send(tables.kafka, tables.topics.verdicts, [{"value": b"{", "key": b"x"}, {"value": b'{"v": 9}', "key": b"y"}])
    lease = page.lease()
    page.answer(lease, "wrong")
    wait_until(lambda: "winnow_review_events_unreadable_total 2.0" in page.client.get("/metrics").text, 30)
    before = page.get("/api/counts")
    page.running.publisher.stop()
    with service(tables, rebuild=True) as again:
        after = Page(again).get("/api/counts")
        assert again.caught_up_records == 5 + 4 + 2
    assert (before["open"], before["done"]) == (after["open"], after["done"]) == (1, 4)


def test_a_second_service_takes_the_releases_over_and_the_first_says_so(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    come(page, 1)
    lease = page.lease()
    with service(tables):
        assert "winnow-release" in page.answer(lease, "right", 503)["error"]
    assert page.running.publisher.error is not None
    assert events(tables) == []


def test_a_store_is_written_by_one_service(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    come(page, 1)
    assert page.client.get("/readyz").status_code == 200
    with service(tables) as second:
        send(tables.kafka, tables.topics.quarantine, [held(1, b"b")])
        come(Page(second), 2)
        wait_until(lambda: isinstance(page.running.ingest.error, StoreTaken), 10)
        assert Page(second).client.get("/readyz").text == "ready\n"
    refused = page.client.get("/readyz")
    assert refused.status_code == 503
    assert "another `winnow review` has taken this store over" in refused.text


def test_a_store_of_another_schema_is_refused_until_it_is_rebuilt(tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a")])
    with service(tables) as running:
        come(Page(running), 1)
    engine = sa.create_engine(tables.review.database_url)
    with engine.begin() as db:
        db.execute(sa.update(schema).values(version=1))
        db.execute(sa.text("ALTER TABLE records DROP COLUMN key"))
    engine.dispose()
    with pytest.raises(SettingInvalid, match="--rebuild"), service(tables):
        pass
    with service(tables, rebuild=True) as running:
        assert Page(running).get("/api/counts")["open"] == 1


def test_a_very_long_key_is_kept_and_found(page: Page, tables: SimpleNamespace) -> None:
    key = random.Random(5).randbytes(20_000)  # more than a PostgreSQL index takes, and nothing that it could compress
    send(tables.kafka, tables.topics.quarantine, [held(n, b"value %d" % n) | {"key": key} for n in range(2)])
    come(page, 2)
    found = page.running.store.earlier(key, BEGUN_MS + 1, 10)
    assert [(name, value) for name, _, _, value in found] == [("in:1:0", b"value 0")]
    assert page.running.store.erase(key) == 2


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_goes_away_for_a_moment_stops_nothing(tables: SimpleNamespace) -> None:
    with service(tables) as running:
        page = Page(running)
        for n in range(3):
            engine = sa.create_engine(tables.review.database_url)
            with engine.begin() as db:
                db.execute(sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
            engine.dispose()
            send(tables.kafka, tables.topics.quarantine, [held(n, b"a")])
            wait_until(lambda expected=n + 1: page.client.get("/api/counts").json().get("open") == expected, 20)  # type: ignore[misc]
        assert running.ingest.error is None


def test_who_answered_first_does_not_settle_the_conflict(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.audit, [held(0, b"a", audit=True)])
    come(page, 1)
    answers = page.running.app.state.answers
    mei, lin, lead = Who("mei", frozenset({"reviewer"})), Who("lin", frozenset({"reviewer"})), Who("wu", frozenset({"lead"}))
    for who, verdict in ((mei, "wrong"), (lin, "right")):
        lease = answers.lease(who, {})
        answers.verdict(who, "in:1:0", {"lease": lease["lease"], "verdict": verdict})
    assert answers.counts(mei)["conflict"] == 1
    with pytest.raises(LeaseLost, match="somebody else settles it"):
        answers.lease_again(mei, "in:1:0")
    mine = answers.lease_again(lin, "in:1:0")  # an answer of a moment ago can be taken back
    answers.give_back(lin, "in:1:0", {"lease": mine["lease"]}, is_skip=False)
    settled = answers.lease_again(lead, "in:1:0")
    answers.verdict(lead, "in:1:0", {"lease": settled["lease"], "verdict": "wrong"})
    assert answers.counts(mei)["conflict"] == 0


def test_strangers_are_kept_out(tables: SimpleNamespace, tmp_path: Path) -> None:
    users = tmp_path / "users.toml"
    add_user(users, "mei", "a long password", ("reviewer",))
    add_user(users, "lin", "another password", ("lead",))
    assert oct(users.stat().st_mode & 0o777) == "0o600"
    tables.review = tables.review.model_copy(update={"users_file": users})
    with service(tables) as running:
        stranger = Page(running)
        assert stranger.get("/api/counts", 401) == {"error": "log in first"}
        assert stranger.client.get("/", follow_redirects=False).headers["location"] == "/login"
        stranger.post("/api/login", 401, user="mei", password="wrong")
        stranger.post("/api/login", 401, user="nobody", password="wrong")
        said = stranger.post("/api/login", user="mei", password="a long password")
        cookie = stranger.client.cookies["winnow_session"]
        assert cookie not in str(running.store.accounts.trail(10))
        assert stranger.get("/api/counts")["open"] == 0
        browser = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}
        assert stranger.client.post("/api/lease", json={}, headers=browser).status_code == 403
        assert stranger.client.post("/api/lease", json={}, headers={**browser, "x-csrf-token": said["csrf"]}).status_code == 200
        foreign = {"origin": "http://evil.example", "x-csrf-token": said["csrf"]}
        assert stranger.client.post("/api/lease", json={}, headers=foreign).status_code == 403
        assert stranger.client.post("/api/lease", data={"a": "b"}).status_code == 422
        assert stranger.post("/api/bulk", 403, reason="model", pattern="a", count=1, verdict="right")
        stranger.post("/api/logout")
        assert stranger.get("/api/counts", 401)
        for _ in range(5):
            stranger.post("/api/login", 401, user="lin", password="wrong")
        stranger.post("/api/login", 429, user="lin", password="another password")
        page = stranger.client.get("/login")
        assert "script-src 'self'" in page.headers["content-security-policy"]


def test_binding_outside_without_users_is_refused(tables: SimpleNamespace) -> None:
    tables.review = tables.review.model_copy(update={"bind": "0.0.0.0"})
    with pytest.raises(SettingInvalid, match="review.bind = 0.0.0.0 is reachable from outside"):
        service(tables).__enter__()


def test_a_foreign_name_for_this_address_is_not_answered(page: Page) -> None:
    assert page.client.get("/api/counts", headers={"host": "evil.example"}).status_code == 400


def test_a_trusted_proxy_names_the_user(tables: SimpleNamespace) -> None:
    tables.review = tables.review.model_copy(update={"proxy_header": "X-Forwarded-User", "trusted_proxies": ("testclient",)})
    with service(tables) as running:
        client = TestClient(running.app)
        assert client.get("/api/counts").status_code == 401
        assert client.get("/api/counts", headers={"X-Forwarded-User": "mei"}).status_code == 200
        tables.review = tables.review.model_copy(update={"trusted_proxies": ("10.0.0.1",)})
    with service(tables) as running:
        assert TestClient(running.app).get("/api/counts", headers={"X-Forwarded-User": "mei"}).status_code == 401


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
    gone = json.loads(winnow("erase", "--key", "k0", "--config", config).stdout)
    assert gone["erased"] == 2
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
