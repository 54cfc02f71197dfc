"""Looks at labelled records before anybody trains on them; each finding is one sentence with its figures.

Enters: the texts that the model reads, and what people said of them. Leaves: findings; an error refuses the training.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

FEW_DISTINCT_SHARE = 0.1
FEW_DISTINCT = 50
RARE_CLASS_SHARE = 0.02
_MANY = 20


class Finding(NamedTuple):
    """What was found: `error` refuses the training unless it is asked for all the same, `warn` is said and no more."""

    name: str
    is_error: bool
    sentence: str


def check(texts: Sequence[str], is_right: Sequence[bool], held_out: Sequence[bool]) -> list[Finding]:
    """Return the findings over a data set; the three sequences belong together."""
    found = []
    counts = Counter(texts)
    distinct = len(counts)
    repeated = sum(count - 1 for count in counts.values())
    if repeated:
        worst = counts.most_common(1)[0][1]
        found.append(
            Finding("duplicates", False, f"{repeated} of {len(texts)} records repeat another one; the most frequent comes {worst} times")
        )
    said: dict[str, set[bool]] = {}
    for text, right in zip(texts, is_right, strict=True):
        said.setdefault(text, set()).add(right)
    both = sum(len(answers) > 1 for answers in said.values())
    if both:
        found.append(Finding("contradictions", False, f"{both} records are called right by one verdict and wrong by another"))
    if len(texts) >= _MANY and (distinct < FEW_DISTINCT_SHARE * len(texts) or distinct == 1):
        few = distinct < FEW_DISTINCT
        found.append(
            Finding(
                "diversity", few,
                f"{len(texts)} records say only {distinct} different things: a model would learn these by heart and nothing about others",
            )
        )  # fmt: skip
    wrong = sum(not right for right in is_right)
    rare = min(wrong, len(is_right) - wrong)
    if rare < RARE_CLASS_SHARE * len(is_right):
        kind = "wrong" if wrong == rare else "right"
        found.append(Finding("balance", False, f"only {rare} of {len(is_right)} verdicts say {kind}"))
    learned = {text for text, held in zip(texts, held_out, strict=True) if not held}
    leaked = sum(held and text in learned for text, held in zip(texts, held_out, strict=True))
    if leaked:
        found.append(Finding("leakage", True, f"{leaked} held-out records are among those to learn from"))
    return found
