"""How many threads score: measured, and no more than are worth their cores."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bench.constant import ConstantScorer
from stream.encode import Encoder
from stream.live_model import fastest_budget, fastest_threads
from stream.score import Scorer
from tests.conftest import WORDS


class Timed:
    """A stopwatch that says what it is told for each number of threads."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.asked: list[int] = []
        self._seconds = seconds

    def __call__(self, scorer: Scorer, rows: list[list[int]]) -> float:
        assert len(rows) * len(rows[0]) > scorer.budget_tokens // 2, "the batch that is measured is the one that is served"
        self.asked.append(torch.get_num_threads())
        return self._seconds[torch.get_num_threads()]


@pytest.fixture
def encoder(starter_directory: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(starter_directory / "reward"), WORDS, "chat@1", 512)


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({4: 0.02, 2: 0.04, 1: 0.08}, 4),
        ({4: 0.04, 2: 0.02, 1: 0.04}, 2),
        ({4: 0.03, 2: 0.03, 1: 0.03}, 1),
    ],
)
def test_the_fewest_threads_that_are_as_fast(encoder: Encoder, seconds: dict[int, float], fastest: int) -> None:
    assert fastest_threads(ConstantScorer(encoder), Timed(seconds)) == fastest
    assert torch.get_num_threads() == 4, "measuring changes nothing by itself"


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({8_192: 0.1, 16_384: 0.2, 32_768: 0.7}, 16_384),  # as fast a token; after one that takes long no larger one is tried
        ({8_192: 0.1, 16_384: 0.15, 32_768: 0.28, 65_536: 0.55}, 65_536),
        ({8_192: 0.1, 16_384: 0.25}, 8_192),  # then the memory is full
    ],
)
def test_a_gpu_takes_the_largest_budget_that_is_as_fast(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], best: int
) -> None:
    scorer = ConstantScorer(encoder)
    scorer.device = torch.device("cuda")

    def taken(scorer: Scorer, rows: list[list[int]]) -> float:
        if scorer.budget_tokens not in seconds:
            raise torch.OutOfMemoryError
        return seconds[scorer.budget_tokens]

    monkeypatch.setattr("stream.live_model._least_seconds", taken)
    assert fastest_budget(scorer, None)[0] == best


def test_fewer_threads_are_not_tried_where_they_are_slower(encoder: Encoder) -> None:
    timed = Timed({4: 0.02, 2: 0.04, 1: 0.08})
    fastest_threads(ConstantScorer(encoder), timed)
    assert timed.asked == [4, 2]
