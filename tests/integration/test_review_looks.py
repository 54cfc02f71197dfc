"""Second looks are blind to the first answer, held draws get one too, and who works alone is told what waits."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from review.auth import Who
from review.serve import service
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


def test_three_more_must_call_a_draw_wrong_where_that_is_asked_for(page: Page, tables: SimpleNamespace) -> None:
    tables.review = tables.review.model_copy(update={"wrong_looks": 3})
    send(tables.kafka, tables.topics.audit, [held(0, b"a", audit=True)])
    people = [Who(name, frozenset({"reviewer"})) for name in ("mei", "li", "chen", "wu")]
    lead = Who("lead", frozenset({"lead"}))
    with service(tables) as running:
        come(Page(running), 1)
        answers = running.app.state.answers

        def says(who: Who, verdict: str) -> None:
            lease = answers.lease(who, {})
            assert lease["decision_id"] == "in:1:0"
            answers.verdict(who, "in:1:0", {"lease": lease["lease"], "verdict": verdict})

        says(people[0], "wrong")
        says(people[1], "wrong")
        assert answers.counts(people[0])["second"] == 1, "two are not enough"
        assert answers.lease(people[1], {})["decision_id"] is None
        says(people[2], "right")
        says(lead, "wrong")
        counts = answers.counts(lead)
        assert (counts["conflict"], counts["for_another"]) == (1, 1)
        assert answers.lease(lead, {})["decision_id"] is None, "a lead's answer is one among others, and not asked for again"
        says(people[3], "wrong")
        assert answers.counts(people[0])["done"] == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_held_is_not_looked_at_again_however_many_looks_a_draw_needs(page: Page) -> None:
    page.running.store._wrong_looks = 4

    def wanted(said: str, *, blind: bool, is_doubted: bool = False) -> int | None:
        source = "audit" if blind else "quarantine"
        words = enumerate(said.split())
        events = [SimpleNamespace(reviewer=f"r{n}", verdict=each, blind=blind, source=source) for n, each in words]
        return cast("int | None", page.running.store._next_look("in:1:0", cast(Any, events), is_doubted=is_doubted))

    held_ones = {"wrong": None, "wrong wrong": None, "wrong right": 3, "wrong right wrong": None, "wrong right right": None}
    assert {said: wanted(said, blind=False) for said in held_ones} == held_ones
    blind_ones = {"right": None, "wrong wrong wrong": 2, "wrong wrong wrong wrong": None, "wrong right wrong": 3, "wrong right right": None}
    assert {said: wanted(said, blind=True) for said in blind_ones} == blind_ones
    doubted_ones = {"wrong": 4, "right": 4, "wrong wrong": None, "wrong right": 3}
    assert {said: wanted(said, blind=False, is_doubted=True) for said in doubted_ones} == doubted_ones
    assert (wanted("right", blind=True, is_doubted=True), wanted("wrong", blind=True, is_doubted=True)) == (4, 2)
