"""What a stream says of its own records: rare values, odd patterns, values that do not go with the others."""

import json
from collections.abc import Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from foundation.errors import ModelRefused
from stream.evidence import FORM, Evidence, common_sign, signs_of
from stream.memory import Common, Memory, Seen
from stream.records import Content, Rewards
from stream.render import Field, Rendered, render, reread
from stream.values import form, values_of
from trainer.balance import Heard, balance
from trainer.choices import CHOICES, ENOUGH, Choice, Given, _shares
from trainer.corrupt import Corrupter
from trainer.edits import Edit
from trainer.weigh import Said, weigh

CITIES = {"北京": "1000", "上海": "2000", "广州": "5100"}


def record(city: str, postcode: str, name: str) -> Rendered:
    return render(Content(True, {"city": city, "postcode": postcode, "name": name}))


def stream(count: int = 600, seed: int = 0) -> list[Rendered]:
    rng = Random(seed)
    found = []
    for _ in range(count):
        city = rng.choice(list(CITIES))
        found.append(record(city, f"{CITIES[city]}{rng.randrange(30):02}", f"name{rng.randrange(10**6)}"))
    return found


def seen_of(memory: Memory, shown: Rendered, path: str, source: Rendered | None = None) -> Seen:
    [found] = [seen for seen in memory.look(shown, source)[0] if seen.path == path]
    return found


def evidence_of(records: list[Rendered], said: Sequence[Said] = ()) -> Evidence:
    weighed = weigh(records, records, said, 0)
    assert weighed is not None
    assert len(weighed.left_out) == len(said)
    return weighed.evidence


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


def test_few_verdicts_hear_every_choice_and_many_those_that_they_cannot_tell_from_the_best() -> None:
    alike = np.zeros((len(CHOICES), 12))
    few, many = _shares(alike), _shares(np.tile(alike, (1, 3 * ENOUGH)))
    assert [few.sum(), many.sum()] == pytest.approx([1, 1])
    assert few.min() > 0.7 / len(CHOICES), "each about as much as the next one"
    heard = many[many > 0]
    assert len(heard) > 3 and (np.diff(many) <= 0).all() and (np.diff(heard) < 0).all(), "what hears more of the stream goes before"
    improbable = np.tile(alike, (1, ENOUGH)) + np.linspace(0, 5, len(CHOICES))[::-1, None]
    assert np.flatnonzero(_shares(improbable)).tolist() == [len(CHOICES) - 1], "the others make every verdict improbable"


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


def test_evidence_tells_copies_from_records_and_names_the_field() -> None:
    known, later = stream(), stream(200, seed=1)
    evidence = evidence_of(known)
    corrupter = Corrupter(later, 3)
    right = [evidence.of(shown) for shown in later]
    wrong = [evidence.of(reread(corrupter.corrupt(shown), shown)) for shown in later]
    assert sum(w < r for w in wrong for r in right) > 0.8 * len(wrong) * len(right)
    blamed = evidence.by_field(record("北亰", "100007", "name123456"))
    assert max(blamed, key=lambda path: blamed[path]) == "city"


def test_a_few_verdicts_turn_what_the_stream_takes_for_granted() -> None:
    known = stream()
    named, nameless = record("北京", "100007", "name7"), record("北京", "100007", "")
    right = [Said(record("上海", f"2000{number:02}", ""), is_right=True) for number in range(10, 30)]
    wrong = [Said(record("北京", f"2000{number:02}", f"name{number}"), is_right=False) for number in range(8)]
    before = evidence_of(known)
    for people in (right, right + wrong):
        after = evidence_of(known, people)
        assert after.of(nameless) > before.of(nameless) + 1, "people call records without a name right"
        assert after.of(nameless) - after.of(named) > before.of(nameless) - before.of(named) + 1, "and not simply every record"
        assert -10 < after.of(named) < 10
        assert after.of(named) > after.of(record("北京", "200017", "name7")), "what the stream says of postcodes is not forgotten"


def test_who_sent_a_record_may_tell_much_and_is_no_wrong_field() -> None:
    rng = Random(2)
    known = [
        render(Content(True, {"source": rng.choice("abcd"), "city": rng.choice(list(CITIES)), "name": f"name{rng.randrange(10**6)}"}))
        for _ in range(600)
    ]
    asked = [(shown, "source: b" in shown.text) for shown in known[:150]]
    evidence = evidence_of(known, [Said(shown, not is_wrong) for shown, is_wrong in asked])
    from_a, from_b = (render(Content(True, {"source": each, "city": "北京", "name": "name1"})) for each in "ab")
    assert evidence.of(from_a) > evidence.of(from_b) + 1
    blamed = evidence.by_field(from_b)
    assert abs(blamed["source"]) < 0.2 * (evidence.of(from_a) - evidence.of(from_b))


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


def with_volume(volume: str, name: str) -> Rendered:
    return render(Content(True, {"volume": volume, "name": name}))


def test_a_form_that_people_call_wrong_is_wrong_of_values_that_nobody_has_seen() -> None:
    rng = Random(4)
    known = [with_volume(f"{rng.uniform(1, 99):.3f}{rng.choice(('', '', ' oz'))}", f"name{rng.randrange(10**6)}") for _ in range(600)]
    asked = [Said(shown, is_right=" oz" not in shown.text) for shown in known[:60]]
    evidence = evidence_of(known, asked)
    wrong = with_volume("55.555 oz", "name1")
    assert evidence.of(with_volume("55.555", "name1")) > evidence.of(wrong) + 2
    blamed = evidence.by_field(wrong)
    assert blamed["volume"] > blamed["name"] + 1
    twice = Rendered("volume: 1.000 oz\nvolume: 2.000 oz", (Field("volume", 8, 16), Field("volume", 25, 33)))
    seen, shape = evidence._memory.look(twice)
    signs = sum(evidence._weights.get(sign, 0.0) * value for sign, value in signs_of(seen, shape).items())
    assert evidence.of(twice) == pytest.approx(evidence._bias + signs, abs=1e-9), "a form that comes twice says its word once"


def test_what_some_software_writes_by_default_is_a_wrong_field_and_who_sent_it_is_none() -> None:
    rng = Random(6)

    def made(name: str) -> Rendered:
        return render(Content(True, {"source": rng.choice(("north", "b2")), "name": name}))

    known = [made(rng.choice(("changeme", f"name{rng.randrange(10**6)}", f"name{rng.randrange(10**6)}"))) for _ in range(600)]
    asked = [(shown, "changeme" in shown.text or ("b2" in shown.text and rng.random() < 0.7)) for shown in known[:150]]
    evidence = evidence_of(known, [Said(shown, not is_wrong) for shown, is_wrong in asked])
    assert evidence._memory.tells_apart("source")
    assert not evidence._memory.tells_apart("name")
    usual, unusual = (render(Content(True, {"source": each, "name": "name1"})) for each in ("north", "b2"))
    assert evidence.of(usual) > evidence.of(unusual) + 0.5
    blamed = evidence.by_field(render(Content(True, {"source": "b2", "name": "changeme"})))
    assert blamed["name"] > blamed["source"] + 0.5
    assert abs(blamed["source"]) < 0.3


def test_of_fields_that_disagree_the_one_is_to_blame_that_stands_alone() -> None:
    rng = Random(7)

    def made(city: str, postcode_of: str, phone_of: str) -> Rendered:
        phone = f"{CITIES[phone_of]}-{rng.randrange(10**6):06}"
        return render(Content(True, {"city": city, "postcode": f"{CITIES[postcode_of]}{rng.randrange(30):02}", "phone": phone}))

    evidence = evidence_of([made(city, city, city) for city in rng.choices(list(CITIES), k=600)])
    for wrong, shown in {
        "city": made("北京", "上海", "上海"),
        "postcode": made("北京", "上海", "北京"),
        "phone": made("北京", "北京", "上海"),
    }.items():
        blamed = evidence.by_field(shown)
        assert max(blamed, key=lambda path: blamed[path]) == wrong, blamed


def test_a_memory_made_before_there_were_forms_is_read_as_it_was() -> None:
    memory = Memory.of(stream())
    state = {name: each for name, each in memory.as_state().items() if name not in ("forms", "told_apart")}
    before = Memory(json.loads(json.dumps(state)))
    shown = record("北京", "100007", "name7")
    assert {seen.common.form for seen in before.look(shown)[0]} == {None}
    assert before.tells_apart("city")
    assert [seen._replace(common=Common(seen.common.value)) for seen in memory.look(shown)[0]] == before.look(shown)[0]


@pytest.mark.parametrize("sign", ["a|form|there", "a|is|empty", "a|form|rare|1", "*|shape|1", "*fields|odd|2"])
def test_a_field_may_be_called_as_signs_are(sign: str) -> None:
    assert common_sign(sign) is None
    assert common_sign("a|form|form|00aa") == ("a|form", FORM, "00aa")


def test_a_sparse_choice_gives_weight_to_the_one_sign_that_tells() -> None:
    rng = np.random.default_rng(0)
    features = (rng.random((460, 30)) < 0.3).astype(float)
    is_right = np.array([1] * 200 + [0] * 200 + [0] * 60)
    is_right[400:] = features[400:, 7] == 0
    given = Given(csr_array(features), is_right, 200, 200, np.ones(60))
    sparse, pooled = (given.fit(Choice(0.02, 0.3, is_sparse=each), np.arange(60)) for each in (True, False))
    stream_alone = given.stream_alone.weights_S
    beside = sparse.weights_S - stream_alone * (sparse.weights_S @ stream_alone) / (stream_alone @ stream_alone)
    assert np.flatnonzero(np.abs(beside) > 0.3).tolist() == [7]
    assert abs(sparse.weights_S[7]) > 2 * abs(pooled.weights_S[7]) > 0
    said = sparse.of(given.features_NS[400:])
    assert ((said > 0) == (is_right[400:] == 1)).mean() > 0.9


def test_what_a_verdict_has_taught_is_heard_where_it_is_and_as_loud_however_often_it_is_copied() -> None:
    rng = np.random.default_rng(1)
    features = csr_array((rng.random((100, 12)) < 0.4).astype(float))
    is_right = np.array([1] * 40 + [0] * 40 + [1] * 5 + [0] * 5 + [0] * 10)
    taught_by = [8] * 4 + [9] * 6
    given, without = Given(features, is_right, 40, 40, np.ones(10), taught_by), Given(features[:90], is_right[:90], 40, 40, np.ones(10))
    thrice = np.concatenate([np.arange(90), np.tile(np.arange(90, 94), 3), np.arange(94, 100)])
    copied = Given(features[thrice], is_right[np.minimum(thrice, 99)], 40, 40, np.ones(10), [8] * 12 + [9] * 6)
    for kept, is_alike in ((np.arange(8), True), (np.array([0, 1, 8]), False), (np.arange(10), False)):
        weights = given.fit(Choice(0.3), kept).weights_S
        assert np.allclose(weights, without.fit(Choice(0.3), kept).weights_S) == is_alike
        assert np.allclose(weights, copied.fit(Choice(0.3), kept).weights_S, atol=1e-4)
    assert given._shares_of(np.arange(10)).tolist() == pytest.approx([2 / 7 / 8] * 4 + [2 / 7 / 12] * 6), "two verdicts, alike"
    assert given._shares_of(np.arange(4)).sum() == pytest.approx(1 / 6)
    assert given.verdicts.tolist() == [True] * 5 + [False] * 5
    assert given.judged_NS.shape == (10, 12)


def test_what_made_one_record_wrong_is_known_of_others() -> None:
    records = stream()
    wrong = [record("北京", "100007", f"name_{number}") for number in range(5)]
    said = [*(Said(each, True) for each in stream(20, seed=5)), *(Said(each, False) for each in wrong)]
    edits = {each.text: [Edit("name", "", "_", values_of(each)["name"])] for each in wrong}
    found = [weigh(records, records, said, 0, each) for each in ({}, edits)]
    alike, usual = (record("上海", "200011", name) for name in ("na_me4", "name4"))
    beside = [each.evidence.of(alike) - each.evidence.of(usual) for each in found if each is not None]
    assert beside[1] < 1.1 * beside[0] < 0, "another record of another place, with the same thing wrong"


def test_evidence_comes_back_and_what_cannot_be_read_is_refused() -> None:
    evidence = evidence_of(stream())
    again = Evidence.from_text(evidence.text)
    assert [again.of(shown) for shown in stream(20, seed=2)] == [evidence.of(shown) for shown in stream(20, seed=2)]
    assert again.text == evidence.text
    before = evidence.text.replace('{"format":2,', '{"format":1,', 1)
    assert Evidence.from_text(before).text == evidence.text
    for text in ("{", '{"format": 3}', '{"format": 2}', '{"format": 1}', '{"format": 0}'):
        with pytest.raises(ModelRefused, match="evidence"):
            Evidence.from_text(text)
    assert weigh(stream(20), stream(20), [], 0) is None, "too few to remember"


def test_a_level_counts_as_all_below_it() -> None:
    signs = signs_of(
        [
            Seen("a", 2, 0, None, 0, is_empty=True, amid=0, common=Common("0a", "0b")),
            Seen("b", 1, 0, 1, 0, is_empty=False, amid=1, common=Common()),
        ],
        1,
    )
    assert signs["a|rare|2"] == signs["a|rare|1"] == signs["*|shape|1"] == 1
    assert signs["*fields|rare|1"] == 2
    assert signs["b|apart|1"] == signs["b|amid|1"] == signs["a|empty"] == signs["a|is|0a"] == signs["a|form|0b"] == 1


def test_what_is_remembered_of_values_says_what_looking_them_up_says() -> None:
    memory, nothing = Memory.of(stream()), Rendered("", ())
    for shown in [*stream(300, seed=5), record("北亰", "100008", ""), record("", "x" * 50, "name1"), nothing]:
        expected = memory.look(shown, nothing)  # of a copy of nothing, nothing is left out
        assert memory.look(shown) == memory.look(shown) == expected
        for path in ("city", "postcode"):
            assert memory.look(shown, without=path) == memory.look(shown, nothing, path)


def flight(number: int, time: str, source: str) -> Rendered:
    return render(Content(True, {"flight": f"F{number:03}", "time": time, "source": source}))


def flights() -> tuple[list[Rendered], list[bool]]:
    """Return what six sources say of the time of each flight, and whether it is right: half of them copy from one that errs."""
    rng = Random(11)
    records, is_right = [], []
    for number in range(120):
        times = [f"{rng.randrange(24)}:{rng.randrange(60):02}" for _ in range(2)]
        for place in range(6):
            records.append(flight(number, times[place % 2], f"s{rng.randrange(9)}"))
            is_right.append(place % 2 == 0)
    return records, is_right


def test_what_stands_in_a_record_that_people_call_right_is_vouched_for() -> None:
    records, is_right = flights()
    asked = Random(3).sample(range(len(records)), 300)
    evidence = evidence_of(records, [Said(records[place], is_right[place]) for place in asked])
    judged = {records[place].text for place in asked if is_right[place]}
    known = {shown.text.split("\n")[0] for shown in records if shown.text in judged}
    others = [place for place in set(range(len(records))) - set(asked) if records[place].text.split("\n")[0] in known]
    of_right, of_wrong = ([evidence.of(records[place]) for place in others if is_right[place] is each] for each in (True, False))
    assert np.mean([right > wrong for right in of_right for wrong in of_wrong]) > 0.95
    for place in others[:40]:
        [seen] = [each for each in evidence._memory.look(records[place])[0] if each.path == "time"]
        assert (seen.vouched > 0, seen.denied > 0) == (is_right[place], not is_right[place]), records[place].text


def test_who_is_not_sure_vouches_for_nothing_and_too_few_do_not() -> None:
    records, is_right = flights()
    asked = Random(3).sample(range(len(records)), 300)

    def words(said: list[Said]) -> int:
        memory = evidence_of(records, said)._memory
        return sum(each.vouched + each.denied for record in records[:60] for each in memory.look(record)[0])

    sure = [Said(records[place], is_right[place]) for place in asked]
    assert words(sure) > 0
    assert words([each._replace(doubt=0.3) for each in sure]) == 0
    assert words(sure[:8]) == 0


def test_two_values_that_people_vouch_for_deny_no_third() -> None:
    records, _ = flights()
    memory = Memory.of(records).vouched_by([flight(7, time, "s1") for time in ("1:11", "2:22")])
    one = Memory.of(records).vouched_by([flight(7, "1:11", "s1")])
    other, same = flight(7, "3:33", "s1"), flight(7, "1:11", "s2")

    def of_time(told: Memory, shown: Rendered) -> tuple[int, int]:
        [found] = [(each.vouched, each.denied) for each in told.look(shown)[0] if each.path == "time"]
        return found

    assert of_time(memory, other) == (0, 0)
    assert of_time(one, other) == (0, 1)
    assert of_time(memory, same) == of_time(one, same) == (1, 0)
    assert of_time(Memory(json.loads(json.dumps(one.as_state()))), other) == (0, 1)
    for shown in (other, same, flight(7, "4:44", "s3"), flight(8, "1:11", "s1")):
        assert one.look(shown) == one.look(shown, Rendered("", ())), "as a gate looks values up"


def test_levels_add_up_to_what_the_signs_say() -> None:
    evidence = evidence_of(stream())
    twice = Rendered("a: 1\na: 1\ncity: x\ncity: x", (Field("a", 3, 4), Field("a", 8, 9), Field("city", 16, 17), Field("city", 24, 25)))
    for shown in [*stream(100, seed=5), *stream(20), twice]:
        seen, shape = evidence._memory.look(shown)
        signs = sum(evidence._weights.get(sign, 0.0) * value for sign, value in signs_of(seen, shape).items())
        assert evidence.of(shown) == pytest.approx(evidence._bias + signs, abs=1e-9)
        assert evidence.scaled(3).of(shown) == pytest.approx(3 * evidence.of(shown), abs=1e-3)


def test_a_text_that_only_speaks_against_counts_no_more_than_nothing() -> None:
    evidence = evidence_of(stream()).scaled(2, 0.0)
    again = Evidence.from_text(evidence.text)
    assert again.most_text == 0.0
    assert Evidence.from_text(evidence_of(stream()).text).most_text == float("inf")
    assert Rewards(3.0, 1.0).with_evidence(0.5, 0.0).d == pytest.approx(0.5)
    assert Rewards(1.0, 3.0).with_evidence(0.5, 0.0).d == pytest.approx(-1.5)
    assert Rewards(3.0, 1.0).with_evidence(0.5, float("inf")).d == pytest.approx(2.5)


def heard(d: np.ndarray, evidence: np.ndarray, is_right: np.ndarray) -> Heard:
    return Heard(d, evidence, is_right, np.ones(len(d)))


def test_the_evidence_is_as_loud_as_the_text_is_useless() -> None:
    rng = np.random.default_rng(0)
    is_right = rng.random(600) < 0.7
    signal, noise = np.where(is_right, 1.0, -1.0), rng.normal(0, 1, (2, 600))
    both = balance(heard(signal + noise[0], signal + noise[1], is_right))
    assert both.factor < 1.3
    deaf = balance(heard(3 * noise[0], signal + noise[1], is_right))
    assert deaf.factor == 10
    assert both.temperature == pytest.approx(0.5, rel=0.2)
    assert deaf.factor / deaf.temperature == pytest.approx(2, rel=0.2), "two nats a unit, as it speaks for itself"
    assert balance(Heard.nothing()).factor == 2
    assert both.most_text == deaf.most_text == balance(Heard.nothing()).most_text == float("inf")
    is_odd = ~is_right & (rng.random(600) < 0.3)
    by_heart = np.where(is_odd, -3.0, np.where(is_right, 1.0, 2.5)) + 0.3 * noise[0]
    assert balance(heard(by_heart, signal + noise[1], is_right)).most_text == 0, "what it takes for right says nothing"
