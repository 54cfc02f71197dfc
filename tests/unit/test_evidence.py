"""What is weighed of a memory's signs: which records they tell apart, which field is to blame, how they are kept."""

from random import Random

import pytest

from foundation.errors import ModelRefused
from stream.evidence import Evidence, common_sign, signs_of
from stream.memory import Common, Seen
from stream.records import Content
from stream.render import Field, Rendered, render, reread
from stream.values import FORM, values_of
from tests.unit.remembered import CITIES, evidence_of, record, stream
from trainer.corrupt import Corrupter
from trainer.edits import Edit
from trainer.weigh import Said, weigh


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
    assert evidence._forest is not None
    together = evidence._forest.of([(seen, shape)])[0]
    assert evidence.of(twice) == pytest.approx(evidence._bias + signs + together, abs=1e-9), "a form that comes twice says its word once"


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


@pytest.mark.parametrize("sign", ["a|form|there", "a|is|empty", "a|form|rare|1", "*|shape|1", "*fields|odd|2"])
def test_a_field_may_be_called_as_signs_are(sign: str) -> None:
    assert common_sign(sign) is None
    assert common_sign("a|form|form|00aa") == ("a|form", FORM, "00aa")


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
    assert evidence.text.startswith('{"format":3,'), "without trees a gate of before reads all of it"
    for older in (1, 2):
        before = evidence.text.replace('{"format":3,', f'{{"format":{older},', 1)
        assert Evidence.from_text(before).text == evidence.text
    newer = evidence.text.replace('{"format":3,', '{"format":5,', 1)
    for text in (newer, "{", '{"format": 3}', '{"format": 2}', '{"format": 1}', '{"format": 0}'):
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


def test_levels_add_up_to_what_the_signs_say() -> None:
    evidence = evidence_of(stream())
    twice = Rendered("a: 1\na: 1\ncity: x\ncity: x", (Field("a", 3, 4), Field("a", 8, 9), Field("city", 16, 17), Field("city", 24, 25)))
    for shown in [*stream(100, seed=5), *stream(20), twice]:
        seen, shape = evidence._memory.look(shown)
        signs = sum(evidence._weights.get(sign, 0.0) * value for sign, value in signs_of(seen, shape).items())
        assert evidence.of(shown) == pytest.approx(evidence._bias + signs, abs=1e-9)
        assert evidence.scaled(3).of(shown) == pytest.approx(3 * evidence.of(shown), abs=1e-3)
