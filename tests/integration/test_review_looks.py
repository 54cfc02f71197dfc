"""Second looks are blind to the first answer, held draws get one too, and who works alone is told what waits."""

from types import SimpleNamespace

import pytest

from review.auth import Who
from review.store import opened
from tests.integration.conftest import send, wait_until
from tests.integration.reviewing import Page, come, held

pytestmark = pytest.mark.integration

DRAWN = {"winnow.propensity": "0.010000", "winnow.lottery": "flat"}
MEI, LI = (Who(name, frozenset({"reviewer"})) for name in ("mei", "li"))


def test_a_second_look_is_not_told_of_the_first(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.audit, [held(0, b"a", audit=True)])
    come(page, 1)
    answers = page.running.app.state.answers
    first = answers.lease(MEI, {})
    answers.verdict(MEI, "in:1:0", {"lease": first["lease"], "verdict": "wrong"})
    assert answers.lease(LI, {"look": "2"})["decision_id"] is None, "the filter would tell what the page does not"
    second = answers.lease(LI, {})
    assert second["record"] == first["record"]
    assert "look" not in second["record"]


def test_a_held_draw_called_wrong_is_looked_at_twice(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a", **DRAWN), held(1, b"b", **DRAWN), held(2, b"c")])
    come(page, 3)
    answers = page.running.app.state.answers
    leases = {(lease := answers.lease(MEI, {}))["decision_id"]: lease for _ in range(3)}
    assert [leases[f"in:1:{n}"]["record"]["blind"] for n in range(3)] == [True, True, False]
    for n, verdict in enumerate(("wrong", "right", "wrong")):
        answers.verdict(MEI, f"in:1:{n}", {"lease": leases[f"in:1:{n}"]["lease"], "verdict": verdict})
    counts = answers.counts(MEI)
    assert (counts["second"], counts["done"]) == (1, 2)
    second = answers.lease(LI, {})
    assert second["decision_id"] == "in:1:0"
    answers.verdict(LI, "in:1:0", {"lease": second["lease"], "verdict": "wrong"})
    wait_until(lambda: bool(answers.counts(MEI)["done"] == 3), 10)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_that_it_was_released_is_not_told_to_a_second_look(page: Page, tables: SimpleNamespace) -> None:
    page.running.store._second_share = 1.0
    send(tables.kafka, tables.topics.quarantine, [held(0, b"a", **DRAWN)])
    come(page, 1)
    answers = page.running.app.state.answers
    answers.verdict(MEI, "in:1:0", {"lease": answers.lease(MEI, {})["lease"], "verdict": "right"})
    assert answers.lease(LI, {})["record"]["reached_clean"] is False


def test_who_works_alone_is_told_what_waits_for_somebody_else(page: Page, tables: SimpleNamespace) -> None:
    send(tables.kafka, tables.topics.audit, [held(0, b"a", audit=True), held(1, b"b", audit=True)])
    come(page, 2)
    assert (page.get("/api/counts")["for_another"], page.get("/api/counts")["for_another_why"]) == (0, None)
    page.answer(page.lease(), "wrong")
    page.answer(page.lease(), "right")
    counts = page.get("/api/counts")
    assert (counts["open"], counts["for_another"]) == (1, 1)
    assert "another person must look too" in counts["for_another_why"]
    assert page.running.app.state.answers.counts(LI)["for_another"] == 0


@pytest.mark.parametrize(
    ("said", "look"),
    [
        ("wrong wrong", 2), ("wrong wrong wrong", None), ("wrong right", 3), ("wrong right right", None), ("wrong wrong right", 3),
        ("wrong wrong right wrong", 3), ("wrong wrong right wrong wrong", None), ("wrong wrong right right", 3),
        ("wrong right wrong right right", None), ("right", None),
    ],
)  # fmt: skip
def test_three_more_must_call_a_draw_wrong_where_that_is_asked_for(said: str, look: int | None) -> None:
    events = [SimpleNamespace(reviewer=f"r{n}", verdict=each, blind=True, source="audit") for n, each in enumerate(said.split())]
    with opened("sqlite://", 0.0, 3) as store:
        assert store._next_look("in:1:0", events) == look
    with opened("sqlite://", 0.0) as store:
        two = store._next_look("in:1:0", events[:2]) if len(events) > 1 else None
        assert two == (3 if said.startswith("wrong right") else None)
        assert store._next_look("in:1:0", events[:3]) is None or len(events) < 3  # noqa: PLR2004
    held = [SimpleNamespace(reviewer=each.reviewer, verdict=each.verdict, blind=False, source="quarantine") for each in events]
    with opened("sqlite://", 0.0, 3) as store:
        assert store._next_look("in:1:0", held[:1]) is None, "what is held is not blind: one look"
