"""What a stream says of its own records: rare values, odd patterns, values that do not go with the others."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.memory import Common, Memory, Seen
from stream.records import Content
from stream.render import Rendered, render, reread
from stream.values import form
from tests.unit.remembered import CITIES, evidence_of, record, stream


def seen_of(memory: Memory, shown: Rendered, path: str, source: Rendered | None = None) -> Seen:
    [found] = [seen for seen in memory.look(shown, source)[0] if seen.path == path]
    return found


def test_values_that_go_together_are_usual_and_others_were_never_seen() -> None:
    memory = Memory.of(stream())
    right, wrong = record("北京", "100007", "new"), record("北京", "510007", "new")
    assert (seen_of(memory, right, "city").apart or 0) <= 1
    assert seen_of(memory, wrong, "city").apart == 4
    assert seen_of(memory, wrong, "postcode").apart == 4
    assert seen_of(memory, wrong, "postcode").unusual > seen_of(memory, right, "postcode").unusual


def places(count: int, seed: int = 0) -> list[Rendered]:
    """Records with a city, a reading, and the telephone of that city or a mobile of any."""
    rng = Random(seed)
    found = []
    for _ in range(count):
        city, digits = rng.choice(list(CITIES.items()))
        phone = f"{digits[:3]}-{rng.randrange(10**7):07}" if rng.random() < 0.6 else f"1{rng.randrange(10**10):010}"
        found.append(render(Content(True, {"city": city, "phone": phone, "reading": f"{rng.randrange(400) / 10}"})))
    return found


def test_a_part_is_compared_with_those_of_values_of_its_form() -> None:
    memory = Memory.of(places(900))
    said = {
        name: seen_of(memory, render(Content(True, {"city": "北京", "phone": phone, "reading": "20.0"})), "phone")
        for name, phone in (("here", "100-5550001"), ("elsewhere", "200-5550001"), ("mobile", "19955500012"))
    }
    assert (said["here"].parted, said["here"].strange) == (0, 0)
    assert (said["elsewhere"].parted, said["elsewhere"].strange) == (4, 4)
    assert said["mobile"].strange <= 1, "what is rare among mobiles of a city is so by chance"


def test_what_chance_has_put_side_by_side_makes_no_rule() -> None:
    rng = Random(1)
    numbers = [
        render(Content(True, {"a": f"{rng.randrange(400)}", "b": f"{rng.randrange(300)}", "c": f"{rng.random():.4f}"}))
        for _ in range(1_500)
    ]
    assert not any(Memory.of(numbers).as_state()["rules"].values())
    assert any(Memory.of(places(900)).as_state()["rules"].values())


def test_evidence_of_a_version_made_before_hears_parts_and_wholes_as_one() -> None:
    state = Memory.of(places(900)).as_state()
    older = state | {
        "known": sorted(state["known"]),
        "rules": {path: [rule[:4] for rule in rules] for path, rules in state["rules"].items()},
    }
    del older["parts_apart"]
    seen = Memory(json.loads(json.dumps(older))).look(places(1, seed=9)[0])[0]
    assert [(each.parted, each.strange) for each in seen] == [(0, 0)] * 3


def test_a_new_name_is_nothing_new_but_a_new_city_is() -> None:
    memory = Memory.of(stream())
    assert seen_of(memory, record("北京", "100007", "name123456"), "name").rare == 0
    assert seen_of(memory, record("北亰", "100007", "name123456"), "city").rare == 4
    assert seen_of(memory, record("北京", "1000O7", "name123456"), "postcode").odd == 4


def test_fields_that_are_missing_or_new_show_in_the_shape() -> None:
    memory = Memory.of(stream())
    assert memory.look(record("北京", "100007", "x"))[1] == 0
    assert memory.look(render(Content(True, {"city": "北京", "name": "x"})))[1] == 4
    assert seen_of(memory, render(Content(True, {"town": "北京"})), "town").rare == 4


def test_a_record_of_the_stream_is_looked_at_without_itself() -> None:
    alone = record("北亰", "100007", "name1")
    known, unknown = Memory.of([*stream(), alone, alone]), Memory.of(stream())
    assert known.look(alone) == unknown.look(alone)
    copy = record("北亰", "100008", "name1")
    assert seen_of(known, copy, "city", alone) == seen_of(unknown, copy, "city"), "of a copy its source is left out"


def test_no_value_is_kept_as_it_is() -> None:
    text = evidence_of(stream()).text
    assert "city" in text
    assert not any(value in text for value in ["北京", "上海", "1000", "name1"])


@given(data=st.lists(st.dictionaries(st.text(max_size=5), st.text(max_size=6) | st.integers(), max_size=4), min_size=1, max_size=5))
def test_a_memory_looks_at_anything_and_comes_back_from_json(data: list[dict[str, object]]) -> None:
    records = [render(Content(True, each)) for each in data]
    memory = Memory.of(records[:3])
    again = Memory(json.loads(json.dumps(memory.as_state() | {"known": sorted(memory.as_state()["known"])})))
    for shown in records:
        seen, shape = memory.look(shown)
        assert (seen, shape) == again.look(shown)
        assert [each.path for each in seen] == [field.path for field in shown.fields]
        assert all(0 <= level <= 4 for each in seen for level in (each.rare, each.odd, each.apart or 0, each.unusual, shape))


@pytest.mark.parametrize("text", ["王伟,北京市朝阳区,邮编:100020", '{"a": "x", "b": [1, {"c": null}]}'])
def test_a_record_is_read_again_with_the_same_fields(text: str) -> None:
    shown = render(Content(True, json.loads(text)) if text.startswith("{") else Content(False, text))
    assert reread(shown.text, shown) == shown


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", "99"),
        (".5", ".9"),
        (" 5", " 9"),
        ("-0.0512", "-9.9999"),
        ("12.0 oz", "9.9 a"),
        ("12/01/2011 9:05", "9/9/9 9:9"),
        ("北京市 Haidian", "w a"),
        ("", ""),
    ],
)
def test_the_form_of_a_value_shows_its_marks_and_the_size_of_a_number(value: str, expected: str) -> None:
    assert form(value) == expected


def test_a_memory_made_before_there_were_forms_is_read_as_it_was() -> None:
    memory = Memory.of(stream())
    state = {name: each for name, each in memory.as_state().items() if name not in ("forms", "told_apart")}
    before = Memory(json.loads(json.dumps(state)))
    shown = record("北京", "100007", "name7")
    assert {seen.common.form for seen in before.look(shown)[0]} == {None}
    assert before.tells_apart("city")
    assert [seen._replace(common=Common(seen.common.value)) for seen in memory.look(shown)[0]] == before.look(shown)[0]


def test_what_is_remembered_of_values_says_what_looking_them_up_says() -> None:
    memory, nothing = Memory.of(stream()), Rendered("", ())
    for shown in [*stream(300, seed=5), record("北亰", "100008", ""), record("", "x" * 50, "name1"), nothing]:
        expected = memory.look(shown, nothing)  # of a copy of nothing, nothing is left out
        assert memory.look(shown) == memory.look(shown) == expected
        for path in ("city", "postcode"):
            assert memory.look(shown, without=path) == memory.look(shown, nothing, path)
