"""When a verdict is settled, and that the trainer teaches nothing that still waits for somebody."""

import pytest

from stream.looks import wanted_look
from tests.unit.test_careless import AUDIT, said
from trainer.verdicts import settle

ANSWERS = {"w": False, "r": True}


@pytest.mark.parametrize(
    ("people", "two", "three", "four"),
    [
        ("r", None, None, None),
        ("w", "another", "another", "another"),
        ("ww", None, "another", "another"),
        ("wr", "settlement", "settlement", "settlement"),
        ("rw", "settlement", "settlement", "settlement"),
        ("www", None, None, "another"),
        ("wwww", None, None, None),
        ("wrw", None, "settlement", "settlement"),
        ("wrr", None, None, None),
        ("wwr", None, "settlement", "settlement"),
        ("wwrr", None, "settlement", "settlement"),
        ("wwrw", None, "settlement", "settlement"),
        ("wwrww", None, None, "settlement"),
        ("wwrwr", None, None, "settlement"),
        ("wrwrwrw", None, None, None),
    ],
)
def test_a_draw_is_called_wrong_by_as_many_more_as_is_asked_for(people: str, two: str | None, three: str | None, four: str | None) -> None:
    answers = [ANSWERS[each] for each in people]
    for looks, wanted in ((2, two), (3, three), (4, four)):
        assert wanted_look(answers, last=answers[-1], is_drawn=True, wrong_looks=looks) == wanted
        [settled] = settle(said(0, *answers, **AUDIT), looks)
        assert (settled.is_waiting, settled.is_disputed) == (wanted == "another", wanted == "settlement")
        assert settled.is_pending == (wanted is not None)
        assert settled.counts_as_wrong == (not answers[-1] or wanted == "settlement")


def test_what_is_held_is_settled_by_one_or_by_a_third() -> None:
    for looks in (2, 3):
        held = {people: wanted_look([ANSWERS[each] for each in people], last=people[-1] == "r", is_drawn=False, wrong_looks=looks)
                for people in ("w", "r", "ww", "wr", "wrw", "wrr")}  # fmt: skip
        assert held == {"w": None, "r": None, "ww": None, "wr": "settlement", "wrw": None, "wrr": None}


def test_more_who_say_right_do_not_settle_what_was_called_wrong_last() -> None:
    assert wanted_look([False, True, True], last=False, is_drawn=True, wrong_looks=3) == "settlement"
    events = [*said(0, False, True, True, **AUDIT), said(0, False, **AUDIT)[0]]
    [settled] = settle(events, 3)
    assert settled.is_disputed
    assert settled.counts_as_wrong
