"""A simulated reviewer who knows the truth: picks records to answer about, and answers.

Enters: twins with their truth and the model's p_chosen. Leaves: labelled records, as a person's verdicts would be.
"""

from collections.abc import Sequence
from random import Random

from demo.twins import UNREADABLE, Twin
from trainer.datasets import Labelled


def choose(twins: Sequence[Twin], p_chosen: Sequence[float | None], count: int, seed: int) -> list[int]:
    """Return the places of `count` records to review: half the least likely right, half at random.

    What would be held is what a reviewer sees first; the random half is what shows the wrong records that pass.
    """
    random = Random(seed)
    judged = [place for place, p in enumerate(p_chosen) if p is not None and twins[place].truth.kind != UNREADABLE]
    by_doubt = sorted(judged, key=lambda place: p_chosen[place] or 0.0)
    held = by_doubt[: count // 2]
    rest = [place for place in judged if place not in set(held)]
    return [*held, *random.sample(rest, min(len(rest), count - len(held)))]


def answer(twin: Twin) -> Labelled:
    """Return the verdict of someone who knows: the record as the user's content, and whether it is right."""
    return Labelled(twin.value.decode("utf-8"), not twin.truth.is_wrong)
