"""The model page's interface over HTTP: versions, reports, promotion and rollback, and who may move what."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from demo.broker import free_port
from model_registry.config import RegistrySettings
from model_registry.registry import Registry
from review.auth import add_user
from review.serve import service
from review.shadow import Gates, _everywhere
from stream.metrics import GateMetrics
from stream.rules import Rules
from tests.integration.reviewing import Page, a_report, gates_in_shadow, published

pytestmark = pytest.mark.integration

PASSWORD = "a long password"
BROWSER = {"origin": "http://127.0.0.1", "sec-fetch-site": "same-origin"}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/review.sqlite3"


@pytest.fixture
def registry(tables: SimpleNamespace, tmp_path: Path) -> Registry:
    published(tables.registry.url, tmp_path, "one")
    published(tables.registry.url, tmp_path, "two", a_report())
    found = Registry(RegistrySettings(url=tables.registry.url))
    found.promote("1")
    return found


@pytest.fixture
def operator(tables: SimpleNamespace, registry: Registry, tmp_path: Path) -> Iterator[Page]:
    users = tmp_path / "users.toml"
    for name, role in (("wu", "operator"), ("lin", "lead")):
        add_user(users, name, PASSWORD, (role,))
    tables.review = tables.review.model_copy(update={"users_file": users})
    with service(tables) as running:
        page = Page(running)
        page.client.headers["x-csrf-token"] = page.post("/api/login", user="wu", password=PASSWORD)["csrf"]
        yield page


def test_an_operator_reads_reports_promotes_and_rolls_back(operator: Page, registry: Registry) -> None:
    shown = operator.get("/api/models")
    assert [(each["version"], each["aliases"]) for each in shown["versions"]] == [("winnow@2", []), ("winnow@1", ["champion"])]
    assert shown["versions"][0]["threshold"]["reason"] == "only 12 flat draws; 299 are needed"
    assert operator.get("/api/models/1/report")["report"] is None
    assert len(operator.get("/api/models/2/report")["report"]["p_test"]) == 400
    assert operator.get("/api/models/9/report", 409)["error"].startswith("version 9 is not in the registry")
    assert operator.post("/api/models/2/promote") == {"champion": "winnow@2"}
    assert registry.aliases()["champion"] == 2
    assert operator.post("/api/rollback") == {"champion": "winnow@1"}
    after = operator.get("/api/models")
    assert (after["pinned"], after["aliases"]["champion"]) == (True, 1)
    assert [move["why"] for move in after["moves"]][0] == "rolled back from 2"
    assert operator.post("/api/unpin") == {"pinned": False}
    assert registry.is_pinned() is False
    moves = [(each["who"], each["what"]) for each in operator.running.store.accounts.trail(10)]
    assert moves == [("wu", "unpin"), ("wu", "rollback"), ("wu", "promote"), ("wu", "login")]


def test_the_challenger_in_shadow_is_told_by_the_gates(tables: SimpleNamespace, registry: Registry) -> None:
    with gates_in_shadow("winnow@2") as addresses:
        tables.review = tables.review.model_copy(update={"gate_metrics": (*addresses, f"http://127.0.0.1:{free_port()}/metrics")})
        with service(tables) as running:
            assert Page(running).get("/api/models")["shadows"] == [
                {"version": "winnow@2", "records": 200, "to_clean": 6, "to_quarantine": 4, "gates": 2}
            ]
        no_metrics = (f"http://{tables.kafka.bootstrap_servers}/metrics", addresses[0].replace("/metrics", "/livez"))
        assert [each.gates for each in Gates((*no_metrics, addresses[1])).shadows()] == [1], "what is no gate takes no other with it"
    assert Gates(addresses).shadows() == [], "gates that are away say nothing"


def test_every_gate_behind_a_name_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = {"gates.twins": ["10.0.0.2", "10.0.0.1", "fd00::1"], "six": ["fd00::3", "fd00::4"], "one": ["10.0.0.9"]}

    def resolved(name: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if name not in behind:
            raise socket.gaierror
        families = [(socket.AF_INET6 if ":" in machine else socket.AF_INET, machine) for machine in behind[name]]
        return [(family, socket.SOCK_STREAM, 6, "", (machine, port)) for family, machine in families]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    names = ("http://gates.twins:9464", "http://six:9464", "http://one:9464", "https://gates.twins", "http://gone:1")
    asked = _everywhere([f"{name}/metrics" for name in names])
    assert asked == [
        "http://10.0.0.1:9464/metrics", "http://10.0.0.2:9464/metrics", "http://[fd00::3]:9464/metrics", "http://[fd00::4]:9464/metrics",
        "http://one:9464/metrics", "https://gates.twins/metrics", "http://gone:1/metrics",
    ]  # fmt: skip


def test_what_one_challenger_did_is_not_told_of_the_next() -> None:
    metrics = GateMetrics(Rules.load(None))
    challenger = SimpleNamespace(label="winnow@2", digest="sha256:2")
    metrics.in_service(Rules.load(None), None, challenger)  # type: ignore[arg-type]
    metrics.shadow_records.inc(5)
    metrics.in_service(Rules.load(None), None, challenger)  # type: ignore[arg-type]
    assert metrics.registry.get_sample_value("winnow_shadow_records_total") == 5
    metrics.in_service(Rules.load(None), None, None)
    assert metrics.registry.get_sample_value("winnow_shadow_records_total") == 0


def test_moving_needs_the_role_the_token_and_this_page(operator: Page, registry: Registry) -> None:
    without = {**BROWSER, "x-csrf-token": ""}
    foreign = {"origin": "http://evil.example"}
    for path in ("/api/models/2/promote", "/api/rollback", "/api/unpin"):
        assert operator.client.post(path, json={}, headers=without).status_code == 403
        assert operator.client.post(path, json={}, headers=foreign).status_code == 403
    lead = Page(operator.running)
    assert lead.get("/api/models", 401)
    lead.post("/api/login", user="lin", password=PASSWORD)
    assert len(lead.get("/api/models")["versions"]) == 2
    for path in ("/api/models/2/promote", "/api/rollback", "/api/unpin"):
        assert lead.post(path, 403)["error"] == "lin does not have the role operator"
    assert registry.aliases()["champion"] == 1
    assert registry.history("champion")[-1]["why"] == "promoted"


def test_a_version_that_cannot_be_read_takes_no_other_with_it(operator: Page, registry: Registry) -> None:
    operator.post("/api/models/2/promote")
    (registry.root / "versions" / "2" / "manifest.json").write_text("{")
    broken, whole = operator.get("/api/models")["versions"]
    assert broken["unreadable"].startswith("cannot be read: ")
    assert (broken["version"], broken["aliases"]) == ("winnow@2", ["champion"])
    assert (whole["version"], "unreadable" in whole) == ("winnow@1", False)
    assert operator.get("/api/models/2/report", 409)
    assert operator.post("/api/rollback") == {"champion": "winnow@1"}
    (registry.root / "versions" / "2" / "manifest.json").unlink()
    assert json.dumps(operator.get("/api/models")["versions"][0]["unreadable"])
