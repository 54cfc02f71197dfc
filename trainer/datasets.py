"""What the rows of a data set mean: the binary form and preference chats.

    binary      {"address": "北京市海淀区学院路29号", "chosen": true}   or   {…, "rejected": true}
    preference  {"chosen": [{role, content}, …], "rejected": […], "score_chosen": 1, "score_rejected": 0}

Leaves: labelled records. For a wrong record the chosen answer is the wrong word, and the scores are still 1 and 0.
A record travels as the user's content: plain text as it is, anything else as compact JSON, so both forms convert
into each other without loss; the binary form calls plain text `text`.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from foundation.errors import DataRefused
from trainer.dataset_files import Row, rows_of, write_rows
from trainer.graded import is_graded

TEXT_FIELD = "text"
UNSEEN_SHARE = 0.1
Form = Literal["binary", "preference"]


class Labelled(NamedTuple):
    """A record, as the user's content, and what people said of it; margin = score_chosen - score_rejected.

    weight: how much it counts in training. doubt: probability that the verdict is a mistake, as far as it is softened.
    kind: what is wrong with it, as far as somebody has said. correction: the content that it should have had, where somebody said that.
    """

    content: str
    is_right: bool
    score_chosen: float = 1.0
    score_rejected: float = 0.0
    weight: float = 1.0
    doubt: float = 0.0
    kind: str = ""
    correction: str = ""

    @property
    def margin(self) -> float:
        """How much better the chosen answer is; 1 for plain verdicts."""
        return self.score_chosen - self.score_rejected


def read_labelled(source: str, words: tuple[str, str]) -> list[Labelled]:
    """Read a whole data set (see `labelled_of`). Raises DataRefused naming the file and the line, or that it is empty."""
    found = list(labelled_of(source, words))
    if not found:
        raise DataRefused(f"{source} holds no labelled record")
    return found


def labelled_of(source: str, words: tuple[str, str], split: str | None = None) -> Iterator[Labelled]:
    """Yield the labelled records of a file, a directory or `hub:OWNER/NAME`, one in memory at a time. Raises DataRefused."""
    for row in rows_of(source, split):
        yield labelled(row, words)


def write_labelled(records: Sequence[Labelled], path: Path, form: Form, words: tuple[str, str]) -> None:
    """Write as `binary` or `preference`; the suffix says how: .json one array, .jsonl lines, .parquet. Raises DataRefused."""
    write_rows(lambda: (as_row(record, form, words) for record in records), path)


def as_row(record: Labelled, form: Form, words: tuple[str, str]) -> dict[str, Any]:
    """Return a record as a row of that form."""
    return as_binary(record) if form == "binary" else as_preference(record, words)


def as_preference(record: Labelled, words: tuple[str, str]) -> dict[str, Any]:
    """Return the preference chats of a record."""
    user = {"role": "user", "content": record.content}
    answers = words if record.is_right else (words[1], words[0])
    return {
        "chosen": [user, {"role": "assistant", "content": answers[0]}],
        "rejected": [user, {"role": "assistant", "content": answers[1]}],
        "score_chosen": record.score_chosen,
        "score_rejected": record.score_rejected,
    }


def as_binary(record: Labelled) -> dict[str, Any]:
    """Return the binary form of a record. Raises DataRefused where a field would be lost."""
    fields = fields_of(record.content)
    own = next((name for name in ("chosen", "rejected") if name in fields), None)
    if own is not None:
        raise DataRefused(f"a record has a field `{own}` of its own, which the binary form needs for the verdict; use --form preference")
    return {**fields, "chosen" if record.is_right else "rejected": True}


def fields_of(content: str) -> dict[str, Any]:
    """Return the fields of a record; what is no JSON object is called `text`."""
    fields: Any = None
    if content.lstrip().startswith("{"):
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError):  # also a number of more digits than Python turns into one
            fields = None
    return fields if isinstance(fields, dict) else {TEXT_FIELD: content}


def content_of(fields: dict[str, Any]) -> str:
    """Return a record's fields as the user's content; a lone `text` is plain text."""
    if set(fields) == {TEXT_FIELD} and isinstance(fields[TEXT_FIELD], str):
        return str(fields[TEXT_FIELD])
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), default=str)  # a table's dates and decimals as they are shown


def is_held_out(text: str, share: float) -> bool:
    """Return whether a record belongs to the test split, by a hash of its text: it never moves and never leaks."""
    ticket = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=b"hold-out").digest(), "big")
    return ticket < share * 2**64


def is_unseen(text: str) -> bool:
    """Return whether a record of the stream is of the tenth that no training reads, by the same hash.

    A model is surer of what it has learned from: thresholds, and the baseline of drift, are made on records that it has never read.
    """
    return is_held_out(text, UNSEEN_SHARE)


def digest_of_data(records: Iterable[Labelled]) -> str:
    """Return `sha256:` over contents, verdicts, scores and corrections, in order."""
    total = hashlib.sha256()
    for record in records:
        told = record if record.correction else record[:-1]  # as before there were corrections
        total.update(json.dumps(told, ensure_ascii=True).encode())
    return f"sha256:{total.hexdigest()}"


def labelled(given: Row, words: tuple[str, str]) -> Labelled:
    """Return what a row says. Raises DataRefused with its place where it says nothing or two things."""
    where, row = given
    if not isinstance(row, dict):
        raise DataRefused(f"{where}: {type(row).__name__} instead of an object with `chosen` or `rejected`")
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _from_preference(row, words, where)
    if isinstance(chosen, bool | None) and isinstance(rejected, bool | None) and (chosen is not None or rejected is not None):
        if chosen is not None and rejected is not None and chosen == rejected:
            raise DataRefused(f"{where}: chosen and rejected are both {str(chosen).lower()}")
        is_right = chosen if chosen is not None else not rejected
        fields = {key: value for key, value in row.items() if key not in ("chosen", "rejected")}
        if not fields:
            raise DataRefused(f"{where}: a verdict on an empty record")
        return Labelled(content_of(fields), bool(is_right))
    if is_graded(row):
        raise DataRefused(f"{where}: graded answers are no verdict; `winnow data convert` makes pairs of them, which `trl reward` reads")
    raise DataRefused(f"{where}: neither `chosen`/`rejected` true or false nor two chats")


def _from_preference(row: dict[str, Any], words: tuple[str, str], where: str) -> Labelled:
    try:
        asked = [turn["content"] for turn in row["chosen"] if turn["role"] == "user"]
        preferred = row["chosen"][-1]["content"].strip()
        other = row["rejected"][-1]["content"].strip()
        score_chosen = 1.0 if row.get("score_chosen") is None else float(row["score_chosen"])
        score_rejected = 0.0 if row.get("score_rejected") is None else float(row["score_rejected"])
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        raise DataRefused(f"{where}: the chats are not lists of {{role, content}}: {error!r}") from error
    if not asked:
        raise DataRefused(f"{where}: no turn of the user, so no record")
    if not isinstance(asked[-1], str):
        raise DataRefused(f"{where}: the user's turn holds {type(asked[-1]).__name__} instead of text")
    if not (math.isfinite(score_chosen) and math.isfinite(score_rejected) and score_chosen >= score_rejected):
        raise DataRefused(
            f"{where}: score_chosen {score_chosen:g} is not at least score_rejected {score_rejected:g}; of a wrong record "
            f"the chosen answer is {words[1]}, and the scores are still 1 and 0"
        )
    if {preferred, other} != set(words):
        raise DataRefused(
            f"{where}: the answers {preferred!r} and {other!r} are not the verdict words {words[0]}/{words[1]} (--verdict-words)"
        )
    return Labelled(asked[-1], preferred == words[0], score_chosen, score_rejected)
