"""The review service as a service: its store's owner, schema and database, taking over, and who may do what."""

import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from foundation.errors import SettingInvalid, StoreTaken
from review.auth import Who, add_user
from review.refused import LeaseLost
from review.serve import service
from review.tables import schema
from tests.integration.conftest import send, wait_until
from tests.integration.reviewing import BEGUN_MS, Page, come, events, held

pytestmark = pytest.mark.integration


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
        assert stranger.get("/api/counts", 401) == {"error": "log in first", "code": "log_in", "values": {}}
        assert stranger.client.get("/", follow_redirects=False).headers["location"] == "/login"
        stranger.post("/api/login", 401, user="mei", password="wrong")
        stranger.post("/api/login", 401, user="nobody", password="wrong")
        said = stranger.post("/api/login", user="mei", password="a long password")
        cookie = stranger.client.cookies["winnow_session"]
        assert cookie_flags(stranger, "mei", "a long password") == {"httponly", "samesite=strict", "path=/"}
        assert cookie_flags(stranger, "mei", "a long password", "https") == {"httponly", "samesite=strict", "path=/", "secure"}
        stranger.client.cookies.delete("winnow_session")
        said = stranger.post("/api/login", user="mei", password="a long password")
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
        stranger.post("/api/login", user="mei", password="a long password")
        stranger.get("/api/trail", 403)
        add_user(users, "mei", "a long password", ("operator",))
        add_user(users, "mei", "a long password")  # a new password leaves the role
        time.sleep(1.1)  # the file is looked at once a second
        trail = [(each["who"], each["what"]) for each in stranger.get("/api/trail")["trail"]]
        assert trail[:2] == [("mei", "login"), ("lin", "login refused")]
        assert trail.count(("lin", "login refused")) == 5, "those beyond the limit are counted, not written down"
        users.write_text("[[user]]\nname = 1\n")
        time.sleep(1.1)
        assert stranger.get("/api/counts")["open"] == 0, "a broken file leaves the users as they were"
        add_user(tmp_path / "others.toml", "lin", "another password", ("lead",))
        (tmp_path / "others.toml").replace(users)
        time.sleep(1.1)
        assert stranger.get("/api/counts", 401), "who is no longer in the file is out"
        page = stranger.client.get("/login")
        assert "script-src 'self'" in page.headers["content-security-policy"]


def cookie_flags(page: Page, user: str, password: str, scheme: str = "http") -> set[str]:
    """Log in and return what the session's cookie is marked with, its age apart."""
    answer = page.client.post("/api/login", json={"user": user, "password": password}, headers={"x-forwarded-proto": scheme})
    [given] = [value for name, value in answer.headers.multi_items() if name == "set-cookie"]
    return {part.strip().lower() for part in given.split(";")[1:] if not part.strip().lower().startswith("max-age=")}


def test_clean_records_are_shown_beside_where_they_are_kept(tables: SimpleNamespace) -> None:
    key = {"key": b"twin 7"}
    earlier = {**held(0, b'{"phone":"010"}'), **key, "headers": [("winnow.decision-id", b"in:1:0"), ("winnow.origin", b"gate")]}
    for is_kept in (False, True):
        tables.review = tables.review.model_copy(update={"read_clean": is_kept})
        if not is_kept:
            send(tables.kafka, tables.topics.clean, [earlier])
            send(tables.kafka, tables.topics.quarantine, [{**held(1, b'{"phone":"0"}'), **key}])
        with service(tables, rebuild=is_kept) as running:
            page = Page(running)
            come(page, 1)
            lease = page.lease()
            shown = [(each["decision_id"], each["source"], each["text"]) for each in lease["record"]["earlier"]]
            page.post(f"/api/decisions/{lease['decision_id']}/return", lease=lease["lease"])
        assert shown == ([("in:1:0", "clean", '{"phone":"010"}')] if is_kept else [])


def test_binding_outside_without_users_is_refused(tables: SimpleNamespace) -> None:
    tables.review = tables.review.model_copy(update={"bind": "0.0.0.0"})
    with pytest.raises(SettingInvalid, match="review.bind = 0.0.0.0 is reachable from outside"):
        service(tables).__enter__()


def test_figures_are_not_told_through_a_proxy(page: Page) -> None:
    assert "winnow_review_agreement_kappa" in page.client.get("/metrics").text
    assert page.client.get("/metrics", headers={"x-forwarded-for": "203.0.113.7"}).status_code == 404


def test_a_foreign_name_for_this_address_is_not_answered(page: Page) -> None:
    assert page.client.get("/api/counts", headers={"host": "evil.example"}).status_code == 400


def test_who_guesses_passwords_behind_a_proxy_is_slowed_down_alone(tables: SimpleNamespace, tmp_path: Path) -> None:
    add_user(tmp_path / "users.toml", "mei", "a long password")
    trusted = {"users_file": tmp_path / "users.toml", "trusted_proxies": ("10.1.0.0/16",)}
    tables.review = tables.review.model_copy(update=trusted)

    def log_in(client: TestClient, name: str, password: str, said: str) -> int:
        return client.post("/api/login", json={"user": name, "password": password}, headers={"x-forwarded-for": said}).status_code

    with service(tables) as running:
        proxy = TestClient(running.app, base_url="http://127.0.0.1", client=("10.1.2.3", 1))
        for n in range(30):
            assert log_in(proxy, f"guess{n}", "wrong", "8.8.8.8, 203.0.113.7") == 401
        assert log_in(proxy, "mei", "a long password", "203.0.113.7") == 429
        assert log_in(proxy, "mei", "a long password", "203.0.113.8") == 200
        assert {each["detail"] for each in running.store.accounts.trail(40) if each["what"] == "login refused"} == {"203.0.113.7"}
        direct = TestClient(running.app, base_url="http://127.0.0.1", client=("192.0.2.1", 1))
        for n in range(30):
            assert log_in(direct, f"other{n}", "wrong", f"203.0.113.{n}") == 401
        assert log_in(direct, "mei", "a long password", "203.0.113.99") == 429, "who is no proxy is not believed"


def test_a_trusted_proxy_names_the_user(tables: SimpleNamespace) -> None:
    tables.review = tables.review.model_copy(update={"proxy_header": "X-Forwarded-User", "trusted_proxies": ("10.1.0.0/16",)})
    with service(tables) as running:
        client = TestClient(running.app, client=("10.1.2.3", 1))
        assert client.get("/api/counts").status_code == 401
        assert client.get("/api/counts", headers={"X-Forwarded-User": "mei"}).status_code == 200
        stranger = TestClient(running.app, client=("10.2.2.3", 1))
        assert stranger.get("/api/counts", headers={"X-Forwarded-User": "mei"}).status_code == 401
