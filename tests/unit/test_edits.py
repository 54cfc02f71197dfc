"""Edits: what a correction says happened, what is guessed without one, and that corrupted copies have it."""

from difflib import SequenceMatcher
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.records import Content
from stream.render import Rendered, render
from stream.values import values_of
from trainer import edits as of_edits
from trainer.corrupt import Corrupter
from trainer.edits import LONGEST, MOST_GUESSED, Edit, Wrong, edited, edits_of

CITIES = ("birmingham", "dothan", "opp", "sheffield")


def record(city: str, number: int, code: str = "") -> Rendered:
    return render(Content(is_json=True, data={"city": city, "beds": str(100 + number % 7), "code": code or f"2024-{number:04}"}))


STREAM = [record(CITIES[number % len(CITIES)], number) for number in range(400)]


def of_one(wrong: Rendered, correction: Rendered | None = None) -> list[Edit]:
    return edits_of([Wrong(wrong, correction)], STREAM, 0).get(wrong.text, [])


def test_a_correction_says_what_happened() -> None:
    assert of_one(record("opp", 3, "2O24-0003"), record("opp", 3)) == [Edit("code", "0", "O", "2O24-0003")]


def test_what_is_usual_elsewhere_teaches_nothing_even_where_it_was_corrected() -> None:
    assert of_one(record("opp", 3), record("dothan", 3)) == []
    assert of_one(record("opp", 3), record("opp", 12)) == [], "one number for another"
    assert of_one(record("opp", 3, "2024-1003"), record("opp", 3)) == [], "digits for digits: a guess would be as good"


def test_without_a_correction_the_odd_value_is_held_against_the_usual_one_most_like_it() -> None:
    assert of_one(record("bxrmingham", 3)) == [Edit("city", "i", "x", "bxrmingham")]
    assert of_one(record("dothan ", 3)) == [Edit("city", "", " ", "dothan ")]


def test_a_form_that_few_have_is_odd_where_values_do_not_repeat() -> None:
    assert of_one(record("opp", 3, "2024_0007")) == [Edit("code", "-", "_", "2024_0007")]


def test_what_is_like_nothing_or_as_usual_teaches_no_edit() -> None:
    assert edits_of([Wrong(record("zzzzzzzz", 3)), Wrong(STREAM[0])], STREAM, 0) == {}
    assert edits_of([], STREAM, 0) == {}


def test_corrections_of_the_same_record_are_joined_and_no_guess_replaces_them() -> None:
    wrong = record("bxrmingham", 3, "2024_0003")
    said = [Wrong(wrong, record("birmingham", 3, "2024_0003")), Wrong(wrong), Wrong(wrong, record("bxrmingham", 3))]
    assert edits_of(said, STREAM, 0) == {wrong.text: [Edit("city", "i", "x", "bxrmingham"), Edit("code", "-", "_", "2024_0003")]}


def test_a_column_that_slips_is_no_edit_of_every_value_behind_it() -> None:
    parts = [render(Content(is_json=False, data=text)) for text in ("a1,b-2,c3,d4,e5", "b-2,c3,d4,e5,", "b-2,c3,d4,e5,f6")]
    assert edits_of([Wrong(parts[1], parts[0]), Wrong(parts[2], parts[0])], [parts[0]] * 50, 0) == {}


def test_corrections_are_all_heard_and_of_many_others_some_are_guessed_about() -> None:
    corrected = [Wrong(record("opp", n, f"2024_{n:04}"), record("opp", n)) for n in range(MOST_GUESSED + 50)]
    guessed = [Wrong(record("opp", n, f"2025_{n:04}")) for n in range(MOST_GUESSED + 50)]
    found = edits_of([*guessed, *corrected], STREAM, 0)
    assert all(each.record.text in found for each in corrected)
    assert 0 < sum(each.record.text in found for each in guessed) <= MOST_GUESSED


def test_a_long_value_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    class Matcher(SequenceMatcher[str]):
        def set_seq1(self, a: str) -> None:
            compared.append(max(len(a), len(self.b or "")))  # type: ignore[attr-defined]
            super().set_seq1(a)

    monkeypatch.setattr(of_edits, "SequenceMatcher", Matcher)
    long = "b" * (LONGEST + 1)
    stream = [*STREAM, *[record(long + "c", 4)] * 100]
    wrong = [Wrong(record(long, 3), record(long + "c", 3)), Wrong(record(long, 4)), Wrong(record("bxrmingham", 5))]
    assert list(edits_of(wrong, stream, 0)) == [wrong[2].record.text]
    assert compared
    assert max(compared) <= LONGEST


def test_an_edit_is_made_where_it_was_seen_and_elsewhere() -> None:
    edit, random = Edit("city", "i", "x", "bxrmingham"), Random(0)
    found = {copy for copy in (edited(STREAM[3], edit, random) for _ in range(200)) if copy is not None}
    assert STREAM[3].text not in found
    cities = {copy.split("\n")[0] for copy in found}
    assert cities == {"city: sheffxeld", "city: bxrmingham", "city: sheffield"}
    assert any("x" in copy.split("\n")[1] for copy in found), "another field can have it, too"


def test_most_copies_have_an_edit_when_many_are_known_and_some_still_have_none() -> None:
    edits = [[Edit("city", "i", "x", "bxrmingham")]] * 45
    copies = [Corrupter(STREAM, seed, edits).corrupt(STREAM[0]) for seed in range(300)]
    has_edit = [copy.count("x") == 1 and values_of(STREAM[0])["code"] in copy for copy in copies]
    assert 0.5 < sum(has_edit) / len(copies) < 0.85
    few = [Corrupter(STREAM, seed, [edits[0] * 45]).corrupt(STREAM[0]) for seed in range(300)]
    assert sum("x" in copy for copy in few) < sum(has_edit) / 2, "one record, however much of it was corrected, is one"
    assert Corrupter(STREAM, 1).corrupt(STREAM[0]) == Corrupter(STREAM, 1, []).corrupt(STREAM[0])


texts = st.text(max_size=8)
contents = st.one_of(
    st.dictionaries(texts, texts, max_size=4).map(lambda data: Content(is_json=True, data=data)),
    st.text(max_size=30).map(lambda data: Content(is_json=False, data=data)),
)


@given(contents, contents, texts, texts, st.integers(0, 99))
def test_any_edit_can_be_made_in_any_record(right: Content, wrong: Content, old: str, new: str, seed: int) -> None:
    before, after, random = render(right), render(wrong), Random(seed)
    found = edits_of([Wrong(after, before), Wrong(before, after)], [before] * 3, 0) | edits_of([Wrong(after)], [before] * 9, 0)
    known = [edit for each in found.values() for edit in each]
    assert all(edit.old != edit.new and edit.wrong_value for edit in known)
    for edit in [*known, *(Edit(field.path, old, new, old + new) for field in before.fields)]:
        assert edited(before, edit, random) != before.text
