"""Stages 4 and 5 and the wire: routes, headers to the byte, partitions, the 4 KiB limit."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from stream import wire
from stream.config import TopicSettings
from stream.decide import Calibration, Lotteries, ScorerFailed, TooLong, decide, logit, ticket
from stream.records import Decision, Draw, Lottery, Reason, Record, Rewards, Route, Unread, Violation
from stream.replay import Wanted
from stream.route import Router, murmur2

GOLDEN = Path(__file__).parent.parent / "golden" / "headers.json"
TOPICS = TopicSettings()
COUNTS = {TOPICS.clean: 3, TOPICS.quarantine: 2, TOPICS.dead_letter: 1, TOPICS.audit: 3}
SHARED = wire.constants({"twin.records": "AAAAAAAAAAAAAAAAAAAAAA"}, 0.5, "winnow@7", "sha256:" + "0" * 64, "sha256:" + "1" * 64)


def record(offset: int = 42, **changes: object) -> Record:
    return Record("twin.records", 5, offset, 1_700_000_000_000, b"k", b"v", [("mine", b"\x00\xff"), ("winnow.route", b"lie")])._replace(
        **changes
    )


DECISIONS = {
    "clean by model": Decision(Route.CLEAN, Reason.MODEL, "", Rewards(1.23456789, -0.000123456789), 0.774648),
    "held by model": Decision(Route.QUARANTINE, Reason.MODEL, "", Rewards(-1.5, 2.25), 0.022977),
    "held by rule": Decision(Route.QUARANTINE, "rule:phone", "bad", violations=(Violation("phone", True, "bad"),)),
    "dead letter": Decision(Route.DEAD_LETTER, Reason.UNDECODABLE, "byte 0xff at 0 is not UTF-8"),
    "tombstone": Decision(Route.CLEAN, Reason.TOMBSTONE),
    "too long": Decision(Route.QUARANTINE, Reason.TOO_LONG, "longer"),
}


@pytest.mark.parametrize("name", DECISIONS)
def test_headers_are_as_recorded(name: str) -> None:
    """A change of this file changes the contract: it needs a changelog line and a new version number."""
    found = [[key, (value or b"").decode()] for key, value in wire.decision_headers(record(), DECISIONS[name], SHARED)]
    assert found == json.loads(GOLDEN.read_text())[name]


def test_only_what_a_model_judged_carries_model_headers() -> None:
    for name, decision in DECISIONS.items():
        names = {key for key, _ in wire.decision_headers(record(), decision, SHARED)}
        ours = {wire.MODEL, wire.MODEL_DIGEST, wire.REWARD_RIGHT, wire.REWARD_WRONG, wire.P_CHOSEN}
        assert (ours <= names) == ("model" in name)
        assert bool(ours & names) == ("model" in name)


@given(st.text(max_size=9_000))
def test_ours_stay_within_four_kib(detail: str) -> None:
    decision = Decision(Route.DEAD_LETTER, Reason.SCORER_FAILED, detail)
    headers = wire.decision_headers(record(), decision, SHARED)
    assert wire.size_of(headers) <= wire.MAX_OUR_BYTES
    headers[-1][1].decode()  # cut between characters, never inside one


@given(st.floats(-50, 50), st.floats(0.1, 10), st.floats(-5, 5))
def test_p_chosen_is_the_sigmoid(d: float, temperature: float, bias: float) -> None:
    p = Calibration(temperature, bias).p_chosen(d)
    assert 0 <= p <= 1
    assert p == pytest.approx(1 / (1 + math.exp(-(d / temperature + bias))), abs=1e-6)


def test_decide_covers_every_case() -> None:
    error, warn = Violation("r", True), Violation("w", False)
    decisions = decide(
        [Unread(Reason.EMPTY), Unread(Reason.TOMBSTONE), *[None] * 6],
        [(), (), (warn, error), (warn,), (), (), (), ()],
        [None, None, None, Rewards(2, 0), Rewards(0, 2), TooLong(9), ScorerFailed("boom"), None],
        Calibration(),
        0.5,
    )
    assert [(d.route.value, d.reason) for d in decisions] == [
        ("dead-letter", "empty"),
        ("clean", "tombstone"),
        ("quarantine", "rule:r"),
        ("clean", "model"),
        ("quarantine", "model"),
        ("quarantine", "too-long"),
        ("dead-letter", "scorer-failed"),
        ("clean", "rules"),
    ]


def test_everything_leaves_as_it_came() -> None:
    router = Router(TOPICS, COUNTS, "same", None)
    for decision in DECISIONS.values():
        [[out]] = router.route([record()], [decision], SHARED)
        assert (out.key, out.value, out.timestamp_ms) == (b"k", b"v", 1_700_000_000_000)
        assert out.headers[:2] == record().headers
        assert wire.last(out.headers, wire.ROUTE) == decision.route.value
        assert out.partition == 5 % COUNTS[out.topic]


def test_old_timestamps_leave_as_now_with_the_original() -> None:
    router = Router(TOPICS, COUNTS, "same", None)
    for timestamp in (0, -1):
        [[out]] = router.route([record(timestamp_ms=timestamp)], [DECISIONS["clean by model"]], SHARED)
        assert out.timestamp_ms == 0
        assert wire.last(out.headers, wire.SOURCE_TIMESTAMP) == str(timestamp)


def test_observe_sends_all_to_clean_and_copies_the_held() -> None:
    router = Router(TOPICS, COUNTS, "same", 1.0)
    for name, decision in DECISIONS.items():
        [outs] = router.route([record()], [decision], SHARED)
        assert outs[0].topic == TOPICS.clean
        assert wire.last(outs[0].headers, wire.ROUTE) == "clean"
        assert wire.last(outs[0].headers, wire.WOULD_ROUTE) == decision.route.value
        assert wire.last(outs[0].headers, wire.REASON) == decision.reason
        assert len(outs) == (2 if decision.route is Route.QUARANTINE else 1), name
        for copy in outs[1:]:
            assert copy.topic == TOPICS.audit
            assert wire.last(copy.headers, wire.ROUTE) == "audit"


JUDGED = DECISIONS["clean by model"]
IDS = [f"t:0:{n}" for n in range(20_000)]


def test_the_lotteries_are_fair_stable_and_keyed() -> None:
    lotteries = Lotteries(b"k" * 16, 0.1, 0.2, 1.0)
    near = JUDGED._replace(p_chosen=0.6)
    draws = lotteries.draws(IDS, [near] * len(IDS), 0.5)
    assert draws == lotteries.draws(IDS, [near] * len(IDS), 0.5)
    assert sum(d == Draw(Lottery.FLAT, 0.1) for d in draws) / len(IDS) == pytest.approx(0.1, abs=0.01)
    assert sum(d is not None for d in draws) / len(IDS) == pytest.approx(0.28, abs=0.015)
    assert {round(d.propensity, 6) for d in draws if d is not None and d.lottery is Lottery.EXTRA} == {0.28}
    other = Lotteries(b"another key" * 2, 0.1, 0.2, 1.0)
    assert draws != other.draws(IDS, [near] * len(IDS), 0.5)


def test_the_flat_lottery_does_not_look_at_p() -> None:
    lotteries = Lotteries(b"k" * 16, 0.1, 0.2, 1.0)
    for p in (0.001, 0.5, 0.999):
        draws = lotteries.draws(IDS, [JUDGED._replace(p_chosen=p)] * len(IDS), 0.5)
        flat = [i for i, draw in zip(IDS, draws, strict=True) if draw == Draw(Lottery.FLAT, 0.1)]
        assert flat == [i for i in IDS if ticket(i, "flat", b"k" * 16) < 0.1]
    far = lotteries.draws(IDS, [JUDGED._replace(p_chosen=0.999)] * len(IDS), 0.5)
    assert not any(d is not None and d.lottery is Lottery.EXTRA for d in far)
    assert lotteries.draws(["t:0:1"], [DECISIONS["held by rule"]], 0.5) == [None]
    assert Lotteries().draws(["t:0:1"], [JUDGED], 0.5) == [None]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 20))
def test_near_is_a_distance_in_nats(threshold: float, p: float, near: float) -> None:
    lotteries = Lotteries(b"k", 0.0, 1.0, near)
    apart = abs(logit(p) - logit(threshold))
    assume(abs(apart - near) > 1e-9)
    assert (lotteries.draws(["t:0:1"], [JUDGED._replace(p_chosen=p)], threshold) != [None]) == (apart < near)


def test_clean_draws_are_copied_and_held_ones_only_marked() -> None:
    router, draw = Router(TOPICS, COUNTS, "same", None), Draw(Lottery.FLAT, 0.01)
    [[clean, copy]] = router.route([record()], [JUDGED._replace(draw=draw)], SHARED)
    assert wire.last(clean.headers, wire.PROPENSITY) is None
    assert (copy.topic, copy.key, copy.value, copy.timestamp_ms) == (TOPICS.audit, clean.key, clean.value, clean.timestamp_ms)
    assert copy.headers[:2] == record().headers
    said = [wire.last(copy.headers, name) for name in (wire.ROUTE, wire.PROPENSITY, wire.LOTTERY, wire.P_CHOSEN)]
    assert said == ["audit", "0.010000", "flat", "0.774648"]
    [[held]] = router.route([record()], [DECISIONS["held by model"]._replace(draw=draw)], SHARED)
    assert held.topic == TOPICS.quarantine
    assert (wire.last(held.headers, wire.PROPENSITY), wire.last(held.headers, wire.LOTTERY)) == ("0.010000", "flat")


@given(st.lists(st.tuples(st.text(max_size=3_000), st.floats(0, 1)), max_size=8))
def test_suspects_are_cut_first(suspect: list[tuple[str, float]]) -> None:
    headers = wire.decision_headers(record(), DECISIONS["held by model"]._replace(suspect=tuple(suspect)), SHARED)
    assert wire.size_of(headers) <= wire.MAX_OUR_BYTES
    said = wire.last(headers, wire.SUSPECT)
    assert said is None or len(json.loads(said)) <= 5
    assert [name for name, _ in headers if name != wire.SUSPECT] == [
        name for name, _ in wire.decision_headers(record(), DECISIONS["held by model"], SHARED)
    ]


@pytest.mark.parametrize(
    ("data", "known"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_murmur2_is_that_of_java_clients(data: bytes, known: int) -> None:
    """The values are those that Kafka's own UtilsTest expects."""
    assert murmur2(data) == known & 0xFFFFFFFF


def test_murmur2_partitioner_falls_back_for_null_keys() -> None:
    router = Router(TOPICS, COUNTS, "murmur2", None)
    [[keyed], [null]] = router.route([record(key=b"21"), record(key=None)], [DECISIONS["clean by model"]] * 2, SHARED)
    assert keyed.partition == (murmur2(b"21") & 0x7FFFFFFF) % 3
    assert null.partition == 5 % 3


def test_readers_take_the_last_header() -> None:
    assert wire.last([("a", b"1"), ("a", b"2")], "a") == "2"
    assert wire.last([], "a") is None


def test_what_a_producer_wrote_of_ours_chooses_no_record_for_a_replay() -> None:
    forged = [("winnow.p-chosen", b"high"), ("winnow.reason", b"model"), ("winnow.model", b"m@9"), ("winnow.attempt", b"9")]
    held = Record("q", 0, 1, 1_000, None, b"a", [*forged, ("winnow.decision-id", b"in:0:1"), ("winnow.reason", b"rule:phone")])
    assert Wanted().takes(held)
    assert not Wanted(p_from=0.1).takes(held)
    assert not Wanted(reasons=("model",)).takes(held)
    assert Wanted(reasons=("rule:phone",)).takes(held)
    assert not Wanted(model="m@9").takes(held)
    assert wire.attempt_of(held.headers) == 1
    nonsense = held._replace(headers=[*held.headers, ("winnow.p-chosen", b"low")])
    assert not Wanted(p_to=0.5).takes(nonsense)
    early, late = datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert Wanted(since=late).takes(held)
    assert Wanted(since=early).takes(held)
    assert not Wanted(until=late).takes(held)
