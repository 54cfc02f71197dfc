"""`winnow replay`: held records through the model and the rules of now, each decision at most once on clean, whatever is killed."""

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.replay import hold, replayed_once
from demo.twins import take
from foundation.errors import SettingInvalid
from model_registry.config import RegistrySettings
from review.config import ReviewSettings
from review.serve import service
from stream import wire
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.replay import REVIEWER, Wanted, replay
from tests.integration.conftest import read_all, send, wait_until, winnow
from tests.integration.reviewing import Page
from trainer.verdicts import read_snapshot

pytestmark = pytest.mark.integration


def settings(kafka: KafkaSettings, topics: TopicSettings, registry_url: str, **gate: Any) -> SimpleNamespace:
    return SimpleNamespace(
        kafka=kafka, topics=topics, gate=GateSettings(threads=2, precision="float32", **gate), registry=RegistrySettings(url=registry_url)
    )


def ids(kafka: KafkaSettings, topic: str, origin: str) -> Counter[str | None]:
    found = (message.headers() for message in read_all(kafka, topic))
    return Counter(wire.last(headers, wire.DECISION_ID) for headers in found if wire.last(headers, wire.ORIGIN) == origin)


def test_what_passes_now_is_released_once_and_people_keep_the_last_word(
    kafka: KafkaSettings, topics: TopicSettings, registry_url: str, run_until_idle: Callable[..., None], tmp_path: Path
) -> None:
    twins = take(120, 5, unreadable_share=0.0)
    sent = [
        {"key": t.key, "value": t.value, "headers": [("who", b"they")], "timestamp": 1_700_000_000_000 + n} for n, t in enumerate(twins)
    ]
    send(kafka, topics.records, [*sent, {"key": b"k", "value": b"{broken"}])
    run_until_idle(threshold=1.0, audit_rate=0.1)
    held = {wire.last(m.headers(), wire.DECISION_ID): m for m in read_all(kafka, topics.quarantine)}
    assert len(held) == 120
    drawn = {name for name, m in held.items() if wire.last(m.headers(), wire.LOTTERY) == "flat"}
    assert drawn
    review = ReviewSettings(database_url=f"sqlite:///{tmp_path}/review.sqlite3", second_share=0.0)
    reviewing = SimpleNamespace(**vars(settings(kafka, topics, registry_url)), review=review)
    with service(reviewing) as running:
        page = Page(running)
        answered = set()
        for _ in range(6):
            lease = page.lease()
            page.answer(lease, "wrong")
            answered.add(lease["decision_id"])
    now = settings(kafka, topics, registry_url, threshold=0.0)
    would = replay(now, Wanted(), dry_run=True)
    assert (would["read"], would["answered"], would["drawn"]) == (120, 6, len(drawn - answered))
    assert would["clean"] == 120 - len(answered | drawn)
    assert not ids(kafka, topics.clean, "replay"), "a dry run writes nothing"
    assert replay(now, Wanted(reasons=("rule:none",)))["clean"] == 0
    assert replay(now, Wanted(p_to=0.0))["other"] == 120
    done = replay(now, Wanted())
    assert {**done, "dry_run": True} == would
    # a transaction's end reaches its partitions one after the other
    wait_until(lambda: len(ids(kafka, topics.clean, "replay")) >= done["clean"], 30)
    on_clean = ids(kafka, topics.clean, "replay")
    assert set(on_clean.values()) == {1}
    assert set(on_clean) == set(held) - answered - drawn
    for message in read_all(kafka, topics.clean):
        before = held[wire.last(message.headers(), wire.DECISION_ID)]
        assert (message.key(), message.value(), message.timestamp(), message.partition()) == (
            before.key(), before.value(), before.timestamp(), before.partition(),
        )  # fmt: skip
        assert message.headers()[0] == ("who", b"they")
        assert wire.last(message.headers(), wire.ATTEMPT) == "2"
        assert wire.last(message.headers(), wire.THRESHOLD) == "0.000000"
    again = replay(now, Wanted())
    assert (again["clean"], again["answered"]) == (0, 6 + done["clean"])
    assert len(read_snapshot(kafka, topics.verdicts).verdicts) == 6, "nobody learns from what no person has said"
    with service(reviewing) as running:  # who answers afterwards sends nothing a second time
        page = Page(running)
        assert page.get("/api/counts")["open"] == len(drawn), "a wrong that was drawn needs a second look"
        assert [each["reviewer"] for each in page.get(f"/api/decisions/{next(iter(on_clean))}/history")["verdicts"]] == [REVIEWER]
        assert page.running.store.figures.agreement() == (0, None)


def test_a_replay_and_a_review_service_cannot_both_release(
    kafka: KafkaSettings, topics: TopicSettings, registry_url: str, tmp_path: Path
) -> None:
    hold(kafka, topics, take(40, 3, unreadable_share=0.0), 40, partitions=3)
    review = ReviewSettings(database_url=f"sqlite:///{tmp_path}/review.sqlite3", second_share=0.0)
    now = settings(kafka, topics, registry_url, mode="rules")
    with service(SimpleNamespace(**vars(now), review=review)) as running:
        page = Page(running)
        wait_until(lambda: page.get("/api/counts")["open"] == 40)
        lease = page.lease()
        assert replay(now, Wanted())["clean"] == 40, "what somebody only looks at is not answered"
        answer = {"lease": lease["lease"], "verdict": "right"}
        refused = page.client.post(f"/api/decisions/{lease['decision_id']}/verdict", json=answer)
        assert refused.status_code in (409, 503), "taken over by the replay, or answered by it, whichever is heard of first"
        assert ("winnow-release" in refused.text) == (refused.status_code == 503)
    on_clean = Counter(wire.last(message.headers(), wire.DECISION_ID) for message in read_all(kafka, topics.clean))
    assert len(on_clean) == 40
    assert set(on_clean.values()) == {1}
    with service(SimpleNamespace(**vars(now), review=review)) as running:
        assert Page(running).get("/api/counts")["done"] == 40


def test_a_dead_letter_that_can_be_mended_is_judged(
    kafka: KafkaSettings, topics: TopicSettings, registry_url: str, run_until_idle: Callable[..., None], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    send(kafka, topics.records, [{"value": b'{"phone": "010-62511234"'}, {"value": b'{"phone": "13812345678"'}, {"value": b"\xff\xfe"}])
    run_until_idle()
    assert len(read_all(kafka, topics.dead_letter)) == 3
    (tmp_path / "mends.py").write_text(
        "def close(value):\n    if not value.startswith(b'{'):\n        raise ValueError('not mine')\n    return value + b'}'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "mends"})
    now = settings(kafka, topics, registry_url, threshold=1.0, explain=False)
    assert replay(now, Wanted("dead-letter"))["left"] == 3
    held = replay(now, Wanted("dead-letter"), transform="mends:close")
    assert (held["quarantine"], held["left"], held["transform_failed"]) == (2, 1, 1)
    assert set(ids(kafka, topics.quarantine, "replay").values()) == {1}
    assert replay(now, Wanted("dead-letter"), transform="mends:close")["quarantine"] == 0, "once is enough"
    assert replay(now, Wanted(most_attempts=2))["attempts"] == 2
    passed = replay(settings(kafka, topics, registry_url, threshold=0.0), Wanted())
    assert passed["clean"] == 2
    found = read_all(kafka, topics.clean)
    assert {message.value() for message in found} == {b'{"phone": "010-62511234"}', b'{"phone": "13812345678"}'}
    assert {wire.last(message.headers(), wire.ATTEMPT) for message in found} == {"3"}
    with pytest.raises(SettingInvalid, match="--transform mends:open"):
        replay(now, Wanted(), transform="mends:open")


def test_each_is_moved_once_though_the_replay_is_killed(
    kafka: KafkaSettings, topics: TopicSettings, write_config: Callable[..., Path]
) -> None:
    hold(kafka, topics, take(500, 3, unreadable_share=0.0), 6_000, partitions=3)
    config = write_config(mode="rules")
    found = replayed_once(kafka, topics, config, kills=2)
    assert {name: found[name] for name in ("held", "moved", "lost", "repeated", "without_event", "events_twice")} == {
        "held": 6_000, "moved": 6_000, "lost": 0, "repeated": 0, "without_event": 0, "events_twice": 0,
    }  # fmt: skip
    assert json.loads(winnow("replay", "--config", config, "--dry-run").stdout)["answered"] == 6_000
