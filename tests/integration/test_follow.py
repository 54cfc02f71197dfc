"""What changes while a gate runs: the model, the challenger in shadow, the rules, and a model that holds too much."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest

from bench.swap import prepare, swap
from demo.stream import produce
from demo.twins import take
from foundation.errors import SettingInvalid
from model_registry.config import RegistrySettings
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from stream import wire
from stream.boot import load_lotteries
from stream.cache import RewardCache
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decide import Lotteries
from stream.decode import decode_value
from stream.explain import suspects
from stream.follow import Follower, Lasting, Service, make_service
from stream.guards import FloodGuard, Guards
from stream.judge import Judge
from stream.live_model import load_live_model
from stream.metrics import GateMetrics
from stream.reading_process import ReadingProcess
from stream.records import Decision, Route
from stream.rules import Rules
from tests.integration.conftest import limit, read_all, wait_until

pytestmark = pytest.mark.integration
RULE = '[[rule]]\nname = "{name}"\nfield = "phone"\ncheck = "telephone-cn"\n'


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A registry with two good versions and three bad ones."""
    place = tmp_path_factory.mktemp("versions")
    settings = RegistrySettings(url=str(place / "registry"))
    return SimpleNamespace(numbers=prepare(settings, place, evidence=False), registry=Registry(settings))


def follower(versions: SimpleNamespace, settings: GateSettings) -> Follower:
    versions.registry.point(CHAMPION, str(versions.numbers["a"]), "test", pinned=False)
    versions.registry.point(CHALLENGER, str(versions.numbers["a"]), "test")
    rules = Rules.load(settings.rules_file)

    lasting = Lasting({}, Lotteries(), RewardCache(10))

    def make(rules: Rules, model: object, like: Service | None = None) -> Service:
        return make_service(settings, lasting, rules, model, like)  # type: ignore[arg-type]

    current = make(rules, load_live_model(versions.registry.verified(CHAMPION), settings))
    return Follower(versions.registry, settings, make, current, GateMetrics(rules))


def test_swaps_under_load_lose_and_repeat_nothing(kafka: KafkaSettings, topics: TopicSettings, tmp_path: Path) -> None:
    found = swap(kafka.bootstrap_servers, topics, tmp_path, swaps=4, refused=2, per_second=300)
    assert (found["lost"], found["repeated"], found["disordered"], found["outputs_scored_by_another"]) == (0, 0, 0, 0)
    assert set(found["outputs_by_version"]) == {"winnow@1", "winnow@2"}
    assert found["refused"] == 2


def test_a_swap_keeps_the_process_that_reads_and_no_process_is_born_slow(versions: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULE.format(name="first"))
    it = follower(versions, GateSettings(rules_file=path, watch_seconds=0.05))
    first = it._current.judge
    versions.registry.point(CHAMPION, str(versions.numbers["b"]), "test")
    it.start()
    try:
        swapped = taken_from(it)
        assert swapped.model is not first.model
        assert swapped.reads is first.reads
        assert swapped.model is not None
        assert first.model is not None
        assert swapped.model.scorer.encoder is first.model.scorer.encoder, "the tokenizer is not built again"
        assert swapped._cache is first._cache is not None
        path.write_text(RULE.format(name="second"))
        changed = taken_from(it)
    finally:
        it.stop()
    assert isinstance(changed.reads, ReadingProcess)
    assert changed.reads is not first.reads
    assert isinstance(first.reads, ReadingProcess)
    assert changed.reads.line is first.reads.line is not None
    process = changed.reads.line._end.peek()[2][1]  # type: ignore[index]
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == os.getpriority(os.PRIO_PROCESS, 0)


def taken_from(it: Follower) -> Judge:
    """Return what the follower puts into service next."""
    found: list[Service] = []
    wait_until(lambda: (ready := it.take()) is not None and not found.append(ready), 30)  # type: ignore[func-returns-value]
    return found[0].judge


def test_what_has_been_rolled_back_scores_in_shadow_as_it_was_loaded(versions: SimpleNamespace) -> None:
    it = follower(versions, GateSettings(shadow_share=1.0))
    before = it._current.judge.model
    versions.registry.point(CHALLENGER, str(versions.numbers["a"]), "test")
    versions.registry.point(CHAMPION, str(versions.numbers["b"]), "test")
    it._look()
    taken = it.take()
    assert taken is not None
    assert taken.judge.model is not before
    assert taken.shadow is not None
    assert taken.shadow.model is before


@pytest.mark.parametrize("bad", ["tampered", "wrong fingerprint", "half-written"])
def test_a_bad_version_is_refused_and_the_old_one_serves_on(versions: SimpleNamespace, bad: str) -> None:
    it = follower(versions, GateSettings())
    versions.registry.point(CHAMPION, str(versions.numbers[bad]), "test")
    it._look()
    it._look()
    assert it.take() is None
    metrics = generate_latest(it._metrics.registry).decode()
    assert 'winnow_refused_total{what="model"} 1.0' in metrics
    versions.registry.point(CHAMPION, str(versions.numbers["b"]), "test")
    it._look()
    taken = it.take()
    assert taken is not None
    assert taken.judge.model is not None
    assert taken.judge.model.digest == versions.registry.resolve(str(versions.numbers["b"])).digest
    assert it.take() is None


def test_the_challenger_scores_in_shadow(versions: SimpleNamespace) -> None:
    it = follower(versions, GateSettings(shadow_share=1.0))
    versions.registry.point(CHALLENGER, str(versions.numbers["b"]), "test")
    it._look()
    taken = it.take()
    assert taken is not None
    assert taken.shadow is not None
    assert taken.judge.model is not None
    twins = [twin for twin in take(200, 1, unreadable_share=0.0)]
    from stream.records import Record

    read = taken.judge.read([Record("t", 0, n, 1, None, twin.value, []) for n, twin in enumerate(twins)])
    decisions = taken.judge.decide(read)
    flips = taken.shadow.compare(read, decisions)
    contents = [content for place in range(len(twins)) if (content := read.content(place)) is not None]
    other = [taken.shadow.model.calibration.p_chosen(d) for d in taken.shadow.model.d_of(contents) if d is not None]
    assert flips.records == sum(d.p_chosen is not None for d in decisions)
    assert flips.to_clean == sum(
        p >= taken.shadow.model.threshold and d.route == "quarantine" for p, d in zip(other, decisions, strict=True)
    )
    assert flips.to_clean + flips.to_quarantine > 0


def test_rules_are_read_again_and_a_bad_file_is_refused(versions: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_text(RULE.format(name="phone"))
    it = follower(versions, GateSettings(rules_file=path))
    path.write_text("[[rule]]\nname = 3\n")
    it._look()
    assert it.take() is None
    assert 'winnow_refused_total{what="rules"} 1.0' in generate_latest(it._metrics.registry).decode()
    path.write_text(RULE.format(name="telephone"))
    it._look()
    taken = it.take()
    assert taken is not None
    assert [rule.name for rule in taken.judge.rules.rules] == ["telephone"]
    assert dict(taken.shared.of_rules) == {wire.RULES_DIGEST: (taken.judge.rules.digest or "").encode()}


def test_a_flood_rolls_back_once(versions: SimpleNamespace) -> None:
    it = follower(versions, GateSettings())
    versions.registry.point(CHAMPION, str(versions.numbers["b"]), "test")
    it._look()
    it.flooded(versions.registry.resolve(CHAMPION).digest)
    it._roll_back()
    assert versions.registry.resolve(CHAMPION).number == versions.numbers["a"]
    assert versions.registry.is_pinned()
    it.flooded(versions.registry.resolve(str(versions.numbers["b"])).digest)  # another gate's flood: it has moved already
    it._roll_back()
    assert versions.registry.resolve(CHAMPION).number == versions.numbers["a"]


def test_a_second_flood_does_not_go_further_back(versions: SimpleNamespace) -> None:
    it = follower(versions, GateSettings())
    for name in "aba":
        versions.registry.promote(str(versions.numbers[name]))
    versions.registry.rollback()
    it._look()
    champion = versions.registry.resolve(CHAMPION)
    it.flooded(champion.digest)
    it._roll_back()
    assert versions.registry.resolve(CHAMPION).number == champion.number


HELD, RULED, CLEAN = Decision(Route.QUARANTINE, "model"), Decision(Route.QUARANTINE, "rule:phone"), Decision(Route.CLEAN, "model")


def test_there_is_no_held_share_before_a_thousand_records() -> None:
    judge = Judge(GateSettings(), Rules(), None)
    guard = FloodGuard(judge)
    assert guard.shares(judge, [HELD] * 999) is None
    assert guard.shares(judge, [CLEAN]) == (0.999, 0.999)
    assert guard.shares(judge, [RULED] * 250 + [CLEAN] * 250) == (0.749, 0.499)
    assert guard.shares(Judge(GateSettings(), Rules(), None), [HELD] * 1_000) is None, "batches of the judge before do not count"


@pytest.mark.parametrize(("decision", "rolls_back", "asked"), [(HELD, True, True), (HELD, False, False), (RULED, True, False)])
def test_a_flood_raises_the_alarm_and_asks_for_the_model_before(decision: Decision, rolls_back: bool, asked: bool) -> None:
    asks: list[str] = []
    judge = Judge(GateSettings(), Rules(), None)
    judge.model = SimpleNamespace(digest="sha256:1", baseline=None)  # type: ignore[assignment]
    settings = GateSettings(flood_rollback=rolls_back, max_hold_share=0.4)
    metrics = GateMetrics(Rules())
    guards = Guards(judge, SimpleNamespace(flooded=asks.append), metrics, settings)  # type: ignore[arg-type]
    guards.committed(judge, [decision] * 500 + [CLEAN] * 500)
    assert metrics.flood._value.get() == 1
    assert asks == (["sha256:1"] if asked else [])
    guards.committed(judge, [decision] * 500)
    assert len(asks) <= 1, "asked once a flood"
    guards.committed(judge, [CLEAN] * 1_000)
    assert metrics.flood._value.get() == 0


def test_a_model_that_floods_beside_rules_is_rolled_back_all_the_same() -> None:
    asks: list[str] = []
    judge = Judge(GateSettings(), Rules(), None)
    judge.model = SimpleNamespace(digest="sha256:1", baseline=None)  # type: ignore[assignment]
    settings = GateSettings(flood_rollback=True, max_hold_share=0.5)
    guards = Guards(judge, SimpleNamespace(flooded=asks.append), GateMetrics(Rules()), settings)  # type: ignore[arg-type]
    for _ in range(20):
        guards.committed(judge, [RULED] * 5 + [CLEAN] * 45)
    for _ in range(20):  # the total crosses the limit before the model's own share does
        guards.committed(judge, [RULED] * 5 + [HELD] * 45)
    assert asks == ["sha256:1"]


def test_a_challenger_alone_is_no_swap(versions: SimpleNamespace) -> None:
    it = follower(versions, GateSettings(shadow_share=1.0))
    before = it._current
    versions.registry.point(CHALLENGER, str(versions.numbers["b"]), "test")
    it._look()
    taken = it.take()
    assert taken is not None
    assert taken.judge is before.judge
    assert taken.shadow is not None


def test_records_that_read_alike_get_the_same_rewards_from_the_cache(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]
) -> None:
    twins = take(20, 3, unreadable_share=0.0)
    produce(kafka, topics.records, [*twins, *twins, *twins])
    run_until_idle(cache_records=1_000, max_poll_records=16, rules_file=None)
    said: dict[bytes | None, set[tuple[str | None, ...]]] = {}
    for message in [*read_all(kafka, topics.clean), *read_all(kafka, topics.quarantine)]:
        rewards = (wire.last(message.headers(), wire.REWARD_RIGHT), wire.last(message.headers(), wire.REWARD_WRONG))
        said.setdefault(message.value(), set()).add(rewards)
    assert len(said) == 20
    assert all(len(rewards) == 1 for rewards in said.values())
    assert len(set.union(*said.values())) > 10, "different records have rewards of their own"


def test_a_refused_audit_copy_leaves_its_record_clean(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]
) -> None:
    limit(kafka, topics.audit, {"max.message.bytes": "300"})
    produce(kafka, topics.records, take(30, 9, unreadable_share=0.0))
    run_until_idle(audit_rate=1.0, threshold=0.0, rules_file=None)
    clean = read_all(kafka, topics.clean)
    assert len(clean) == 30
    assert {wire.last(m.headers(), wire.REASON) for m in clean} == {"model"}
    assert read_all(kafka, topics.audit) == []
    assert read_all(kafka, topics.dead_letter) == []


def test_suspects_are_fields_whose_absence_would_help(versions: SimpleNamespace) -> None:
    model = load_live_model(versions.registry.verified(str(versions.numbers["a"])), GateSettings())
    contents = [decode_value(twin.value, "auto") for twin in take(6, 2, unreadable_share=0.0)]
    found = suspects(contents, model.scorer, model.rendering, model.evidence)  # type: ignore[arg-type]
    assert len(found) == len(contents)
    assert any(found)
    for each in found:
        assert not each or sum(weight for _, weight in each) == pytest.approx(1.0)
        assert [weight for _, weight in each] == sorted((weight for _, weight in each), reverse=True)


def test_audits_reach_the_topic_and_held_records_say_why(
    kafka: KafkaSettings, topics: TopicSettings, run_until_idle: Callable[..., None]
) -> None:
    produce(kafka, topics.records, take(400, 9))
    run_until_idle(audit_rate=0.2, audit_extra_rate=0.0)
    clean = {wire.last(m.headers(), wire.DECISION_ID): m for m in read_all(kafka, topics.clean)}
    audits = read_all(kafka, topics.audit)
    judged = sum(wire.last(m.headers(), wire.P_CHOSEN) is not None for m in clean.values())
    assert 0.1 * judged < len(audits) < 0.3 * judged
    for copy in audits:
        original = clean[wire.last(copy.headers(), wire.DECISION_ID)]
        assert (copy.key(), copy.value(), copy.timestamp()) == (original.key(), original.value(), original.timestamp())
        assert wire.last(copy.headers(), wire.ROUTE) == "audit"
    held = [m for m in read_all(kafka, topics.quarantine) if wire.last(m.headers(), wire.REASON) == "model"]
    assert any(wire.last(m.headers(), wire.LOTTERY) == "flat" for m in [*held, *audits])
    said = [json.loads(suspect) for m in held if (suspect := wire.last(m.headers(), wire.SUSPECT))]
    assert len(said) > min(len(held) / 2, 60), "of a flood, a fifth of each batch is explained"
    assert all(0 <= weight <= 1 for each in said for _, weight in each)


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("short")
    with pytest.raises(SettingInvalid, match="holds 5 bytes; a key has at least 16"):
        load_lotteries(GateSettings(audit_key_file=path))
    with pytest.raises(SettingInvalid, match="cannot be read"):
        load_lotteries(GateSettings(audit_key_file=tmp_path / "none"))
