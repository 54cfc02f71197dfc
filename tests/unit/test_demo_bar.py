"""What a round must do for new kinds of error, wherever it begins."""

import pytest

from bench.demo import is_much_better


@pytest.mark.parametrize(
    ("before", "enough", "too_little"), [(0.111, 0.222, 0.221), (1 / 3, 0.667, 0.666), (0.386, 0.694, 0.692), (0.5, 0.75, 0.749)]
)
def test_recall_doubles_or_half_of_what_was_missed_is_held(before: float, enough: float, too_little: float) -> None:
    assert is_much_better(before, enough)
    assert not is_much_better(before, too_little)
