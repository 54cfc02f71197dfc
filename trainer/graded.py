"""Many answers to one prompt with scores, or in order -> preference pairs with margins.

    graded      {"prompt": "…", "answers": [{"content": "A", "score": 2}, {"content": "B", "score": 3}, …]}
    in order    {"prompt": "…", "answers": ["B", "A", "C", "D"]}: the best first, each one better than the next by 1

Every two answers with different scores become a pair whose margin is the difference (Llama 2, arXiv 2307.09288, 3.2.2).
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from foundation.errors import DataRefused
from trainer.dataset_files import Row


class Answer(NamedTuple):
    """What may follow a prompt, and how good it is; scores have no unit."""

    content: str
    score: float


def is_graded(value: Any) -> bool:
    """Return whether a row holds a prompt and its graded answers."""
    return isinstance(value, dict) and "prompt" in value and "answers" in value


def graded_pairs(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the preference chats of one graded row, with `score_chosen`, `score_rejected` and `margin`. Raises DataRefused."""
    where, value = row
    prompt, answers = value["prompt"], value["answers"]
    if not isinstance(prompt, str) or not isinstance(answers, list):
        raise DataRefused(f"{where}: `prompt` must be text and `answers` a list")
    graded = [_answer(each, len(answers) - place, where) for place, each in enumerate(answers)]
    if len({answer.content for answer in graded}) != len(graded):
        raise DataRefused(f"{where}: the same answer is given twice")
    user = {"role": "user", "content": prompt}
    for one, other in combinations(graded, 2):
        if one.score == other.score:
            continue
        better, worse = (one, other) if one.score > other.score else (other, one)
        yield {
            "chosen": [user, {"role": "assistant", "content": better.content}],
            "rejected": [user, {"role": "assistant", "content": worse.content}],
            "score_chosen": better.score,
            "score_rejected": worse.score,
            "margin": better.score - worse.score,
        }


def _answer(given: Any, rank: int, where: str) -> Answer:
    if isinstance(given, str):
        return Answer(given, float(rank))
    try:
        return Answer(str(given["content"]), float(given["score"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataRefused(f"{where}: an answer is text, or {{content, score}}: {given!r}") from error
