"""Edits: what a correction says happened, what is guessed without one, and that corrupted copies have it."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from random import Random
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.encode import Encoder
from stream.records import Content
from stream.render import Rendered, render
from stream.values import values_of
from trainer import edits as of_edits
from trainer.corrupt import Corrupter
from trainer.edits import LONGEST, MOST_GUESSED, Edit, Wrong, edited, edits_of
from trainer.pairs import contrastive_pairs

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
    [edit] = of_one(record("opp", 3, "2021-0007kg"))
    assert edit.new.endswith("kg"), "not that a year is another"


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


def test_an_edit_is_made_where_it_was_seen_and_where_what_it_replaces_is() -> None:
    edit, random = Edit("code", "0", "O", "2O24-0003"), Random(0)
    found = {copy for copy in (edited(record("opp", 7), edit, random) for _ in range(300)) if copy is not None}
    codes = {"2O24-0007", "2024-O007", "2024-0O07", "2024-00O7", "2O24-0003"}
    whole = record("opp", 7).text
    assert found == {whole.replace("2024-0007", code) for code in codes} | {whole.replace("100", each) for each in ("1O0", "10O")}


def test_no_digit_is_put_beside_others_where_it_replaces_nothing() -> None:
    edit = Edit("code", "", "7", "2024-00077")
    copies = [edited(record("opp", 7), edit, Random(seed)) for seed in range(100)]
    assert {copy for copy in copies if copy is not None} == {record("opp", 7, "2024-00077").text}, "the whole value alone"


def test_most_copies_have_an_edit_when_many_are_known_and_some_still_have_none() -> None:
    edits = [[Edit("city", "i", "x", "bxrmingham")]] * 45
    copies = [Corrupter(STREAM, seed, edits).corrupt(STREAM[0]) for seed in range(300)]
    has_edit = [copy.count("x") == 1 and values_of(STREAM[0])["code"] in copy for copy in copies]
    assert 0.5 < sum(has_edit) / len(copies) < 0.85
    few = [Corrupter(STREAM, seed, [edits[0] * 45]).corrupt(STREAM[0]) for seed in range(300)]
    assert sum("x" in copy for copy in few) < sum(has_edit) / 2, "one record, however much of it was corrected, is one"


def test_wrong_halves_of_contrastive_pairs_have_what_happened() -> None:
    class Characters:
        """Reads a character as its number."""

        def encode(self, texts: Sequence[str]) -> list[list[int]]:
            return [[ord(each) for each in text] for text in texts]

        def chats(self, ids: list[int]) -> tuple[list[int], list[int]]:
            return [*ids, 1], [*ids, 0]

    edits = [[Edit("city", "i", "☃", "b☃rmingham")]] * 45
    stream = [each for each in STREAM if "i" in each.text.split("\n")[0]]
    pairs = contrastive_pairs(stream, cast(Encoder, Characters()), 400, 0, edits)
    wrong = [pair for pair in pairs if pair.chosen_ids[-1] == 0]
    assert len(wrong) == 200
    assert 100 < sum(ord("☃") in pair.chosen_ids for pair in wrong) < 160
    assert not any(ord("☃") in pair.chosen_ids for pair in pairs if pair.chosen_ids[-1] == 1)


texts = st.text(max_size=8)
changes = st.one_of(
    st.dictionaries(texts, st.tuples(texts, texts), max_size=4).map(
        lambda both: [Content(True, {k: v[n] for k, v in both.items()}) for n in (0, 1)]
    ),
    st.tuples(st.text(max_size=30), st.text(max_size=30)).map(lambda both: [Content(False, each) for each in both]),
)


@given(changes, texts, texts, st.integers(0, 99))
def test_any_edit_changes_one_field_of_any_record(change: list[Content], old: str, new: str, seed: int) -> None:
    before, after = map(render, change)
    found = edits_of([Wrong(after, before)], [before] * 3, 0) | edits_of([Wrong(after)], [before] * 9, 0)
    known = [edit for each in found.values() for edit in each]
    assert all(edit.old != edit.new and edit.wrong_value for edit in known)
    for edit in [*known, *(Edit(field.path, old, new, old + new) for field in before.fields)]:
        copy = edited(before, edit, Random(seed))
        assert copy is None or any(
            copy.startswith(before.text[: field.start]) and copy.endswith(before.text[field.end :]) for field in before.fields
        )
