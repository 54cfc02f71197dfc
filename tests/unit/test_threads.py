"""How many threads score: measured, and no more than are worth their cores."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from stream.encode import Encoder
from stream.live_model import fastest_threads
from stream.score import Scorer
from tests.conftest import WORDS


class Timed(Scorer):
    """A scorer that takes as long as it is told for each number of threads."""

    def __init__(self, encoder: Encoder, seconds: dict[int, float]) -> None:
        self.encoder = encoder
        self.budget_tokens = 4_096
        self.asked: list[int] = []
        self._seconds = seconds

    def rewards(self, records: Sequence[Sequence[int]]) -> np.ndarray:
        self.asked.append(torch.get_num_threads())
        time.sleep(self._seconds[torch.get_num_threads()])
        return np.zeros((len(records), 2), dtype=np.float32)


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
    scorer = Timed(encoder, seconds)
    assert fastest_threads(scorer) == fastest
    assert torch.get_num_threads() == 4, "measuring changes nothing by itself"


def test_fewer_threads_are_not_tried_where_they_are_slower(encoder: Encoder) -> None:
    scorer = Timed(encoder, {4: 0.02, 2: 0.04, 1: 0.08})
    fastest_threads(scorer)
    assert set(scorer.asked) == {4, 2}
