"""The reward cache: what reads alike is scored once by each model, and memory is bounded."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.cache import Looked, RewardCache
from stream.decide import ScorerFailed
from stream.records import Rewards
from stream.tokenise import Ids


class Counting:
    """A scorer whose rewards tell the ids, and which remembers what it was asked."""

    def __init__(self, offset: float = 0.0) -> None:
        self.asked: list[list[int]] = []
        self._offset = offset

    def __call__(self, ids: list[Ids]) -> list[Rewards | ScorerFailed]:
        self.asked += [each.tolist() for each in ids]
        return [Rewards(float(each.sum()) + self._offset, float(len(each))) if len(each) else ScorerFailed("empty") for each in ids]


def arrays(*rows: list[int]) -> list[Ids]:
    return [np.array(row, dtype=np.int32) for row in rows]


@given(st.lists(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=8), max_size=8), st.integers(1, 6))
def test_what_comes_out_is_what_the_scorer_says_whatever_is_remembered(polls: list[list[list[int]]], most: int) -> None:
    looked: list[Looked] = []
    cache = RewardCache(most, looked.append)
    for rows in polls:
        ids = arrays(*rows)
        assert cache.rewards("m", ids, Counting()) == Counting()(ids)
        assert len(cache) <= most
    assert sum(each.hits + each.misses for each in looked) == sum(map(len, polls))


def test_what_reads_alike_is_scored_once_by_each_model() -> None:
    cache, first, second = RewardCache(10), Counting(), Counting(offset=1.0)
    cache.rewards("a", arrays([1, 2], [3], [1, 2]), first)
    cache.rewards("a", arrays([3], [1, 2], [4]), first)
    assert first.asked == [[1, 2], [3], [4]]
    assert cache.rewards("b", arrays([3]), second) == [Rewards(4.0, 1.0)]


def test_the_least_recently_asked_for_is_forgotten_first() -> None:
    cache, scorer = RewardCache(2), Counting()
    cache.rewards("a", arrays([1], [2]), scorer)
    cache.rewards("a", arrays([1]), scorer)
    cache.rewards("a", arrays([3]), scorer)
    cache.rewards("a", arrays([1], [2]), scorer)
    assert scorer.asked == [[1], [2], [3], [2]]


def test_a_failure_is_not_remembered() -> None:
    cache, scorer = RewardCache(2), Counting()
    assert cache.rewards("a", arrays([]), scorer) == [ScorerFailed("empty")]
    cache.rewards("a", arrays([]), scorer)
    assert scorer.asked == [[], []]
    assert len(cache) == 0
