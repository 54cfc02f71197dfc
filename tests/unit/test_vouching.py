"""What stands beside what in a record that people called right is vouched for in others."""

import json
from random import Random

import numpy as np

from stream.memory import Memory
from stream.records import Content
from stream.render import Rendered, render
from tests.unit.remembered import evidence_of
from trainer.weigh import Said


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
