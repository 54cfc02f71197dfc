"""Poison: a record on which the scorer fails stands alone; memory that runs out halves the batch; a broken scorer stops."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from foundation.errors import ModelRefused
from stream.cache import Looked, RewardCache
from stream.config import GateSettings
from stream.decide import Calibration
from stream.encode import Encoder
from stream.judge import Judge
from stream.live_model import LiveModel
from stream.records import Record
from stream.rules import Rules
from stream.score import Scorer
from stream.tokenise import Encoded
from tests.conftest import WORDS


class Scripted(Scorer):
    """A scorer that fails as it is told; the tokenizer and everything before it are real."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.budget_tokens = 4_096
        self.poison: list[int] | None = None
        self.most_rows = 10_000
        self.broken = False
        self.infinite: list[list[int]] = []
        self.all_infinite = False
        self.asked: list[int] = []

    def rewards(self, records: Sequence[Sequence[int]]) -> np.ndarray:
        self.asked.append(len(records))
        if self.broken or any(list(record) == self.poison for record in records):
            raise RuntimeError("device-side assert")
        if self.budget_tokens > 1_024:
            if self.most_rows < len(records):
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        rewards = [[np.nan if self.all_infinite or list(record) in self.infinite else 1.0, 0.0] for record in records]
        return np.array(rewards, dtype=np.float32)


@pytest.fixture
def scorer(starter_directory: Path) -> Scripted:
    return Scripted(Encoder(AutoTokenizer.from_pretrained(starter_directory / "reward"), WORDS, "chat@1", 512))


def judge(scorer: Scripted) -> Judge:
    return Judge(GateSettings(), Rules(), LiveModel("m@1", "sha256:0", scorer, "fields@1", Calibration(), 0.5, 100.0))


def records(count: int) -> list[Record]:
    return [Record("t", 0, n, 1, None, f"record {n}".encode(), []) for n in range(count)]


def test_what_the_cache_remembers_is_not_scored_again(scorer: Scripted) -> None:
    looked: list[Looked] = []
    cached = Judge(
        GateSettings(),
        Rules(),
        LiveModel("m@1", "sha256:0", scorer, "fields@1", Calibration(), 0.5, 100.0),
        cache=RewardCache(100, looked.append),
    )
    first, again = (cached.decide(cached.read([*records(5), records(1)[0]])) for _ in range(2))
    assert first == again == judge(scorer).decide(cached.read([*records(5), records(1)[0]]))
    assert scorer.asked == [5, 6], "five different ones once, and all six where there is no cache"
    assert looked == [Looked(hits=1, misses=5), Looked(hits=6, misses=0)]


def test_one_poisonous_record_is_found_and_the_others_judged(scorer: Scripted) -> None:
    [poison] = scorer.encoder.encode(["record 37"])
    scorer.poison = poison
    it = judge(scorer)
    decisions = it.decide(it.read(records(64)))
    assert [n for n, d in enumerate(decisions) if d.reason == "scorer-failed"] == [37]
    assert {d.reason for n, d in enumerate(decisions) if n != 37} == {"model"}
    assert "device-side assert" in decisions[37].detail
    assert len(scorer.asked) < 20, "bisected, not one by one"


def test_out_of_memory_halves_the_budget_and_remembers(scorer: Scripted) -> None:
    scorer.most_rows = 1
    it = judge(scorer)
    assert {d.reason for d in it.decide(it.read(records(8)))} == {"model"}
    assert scorer.budget_tokens == 1_024


def test_a_broken_scorer_stops_instead_of_blaming_records(scorer: Scripted) -> None:
    scorer.broken = True
    it = judge(scorer)
    with pytest.raises(ModelRefused, match="cannot score any record any more"):
        it.decide(it.read(records(4)))


def test_rewards_that_are_no_numbers_blame_one_record_or_the_model(scorer: Scripted) -> None:
    scorer.infinite = [ids for ids in scorer.encoder.encode(["record 3"]) if ids is not None]
    it = judge(scorer)
    assert [n for n, d in enumerate(it.decide(it.read(records(8)))) if d.reason == "scorer-failed"] == [3]
    scorer.all_infinite = True
    with pytest.raises(ModelRefused, match="8 of 8 records have rewards that are no number"):
        it.decide(it.read(records(8)))


def test_a_record_that_no_stage_foresaw_stands_alone(scorer: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = scorer.encoder.encode_flat

    def fails(texts: Sequence[str]) -> Encoded:
        if "record 5" in texts:
            raise KeyError("a bug")
        return encode(texts)

    monkeypatch.setattr(scorer.encoder, "encode_flat", fails)
    it = judge(scorer)
    decisions = it.decide(it.read(records(9)))
    assert [(n, d.route, d.detail) for n, d in enumerate(decisions) if d.reason == "scorer-failed"] == [
        (5, "dead-letter", "KeyError: 'a bug'")
    ]
    assert [d.reason for n, d in enumerate(decisions) if n != 5] == ["model"] * 8


def test_rules_cost_no_forward_pass(scorer: Scripted) -> None:
    it = judge(scorer)
    held = [Record("t", 0, n, 1, None, value, []) for n, value in enumerate((b'{"a": NaN}', b"\xff", b"", None))]
    decisions = it.decide(it.read(held))
    assert scorer.asked == []
    assert [d.reason for d in decisions] == ["rule:not-finite", "undecodable", "empty", "tombstone"]
