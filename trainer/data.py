"""`winnow data convert|check|stats|split`: data sets of any size from one form to another, looked at, parted.

Enters: a file, a directory or `hub:OWNER/NAME` (trainer/dataset_files.py). Leaves: files that `winnow train --data` and
stock `trl reward` take, findings, figures, a data-set card.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foundation.errors import DataRefused
from trainer.check import Checker, Finding
from trainer.dataset_files import SPLITS, Row, rows_of, write_rows
from trainer.datasets import Form, Labelled, as_row, fields_of, is_held_out, labelled, labelled_of
from trainer.graded import graded_pairs, is_graded
from trainer.pairs import text_of_content

_SAMPLE = 100_000
CARD = "README.md"
Fits = Callable[[list[str]], list[bool]]


class Stats(NamedTuple):
    """Figures of a data set; lengths in characters of what the model reads, of the first hundred thousand."""

    records: int
    right: int
    wrong: int
    distinct: int
    margins: dict[str, int]
    fields: dict[str, int]
    characters: dict[str, float]


def convert(source: str, out: Path, form: Form, words: tuple[str, str]) -> int:
    """Write `source` as `out`'s suffix and `form` say, one entry in memory at a time; return how many. Raises DataRefused."""
    if Path(source).resolve() == out.resolve():
        raise DataRefused(f"{source} is what would be written; name another target")
    count = write_rows(lambda: _converted(source, form, words), out)
    if not count:
        raise DataRefused(f"{source} holds no labelled record")
    return count


def look(source: str, words: tuple[str, str], test: str | None, share: float, fits: Fits | None) -> tuple[Checker, list[Finding]]:
    """Look at a data set before training; `test` is a held-out one, without it a hash of the record parts them.

    Unreadable entries are counted, not raised; a file that stops being JSON or Parquet is. `fits` says what the model can read.
    """
    checker = Checker()
    for part, is_test in ((source, False), (test, True)):
        if part is None:
            continue
        for record in _readable(rows_of(part), words, checker):
            text = text_of_content(record.content)
            checker.add(text, record.is_right, held_out=is_test or (test is None and is_held_out(text, share)))
            if fits is not None and not fits([text])[0]:
                checker.add_too_long()
    if not checker.records:
        why = checker.findings()
        raise DataRefused(f"{source} holds no labelled record" + (f": {why[0].sentence}" if why else ""))
    return checker, checker.findings()


def stats(source: str, words: tuple[str, str], split: str | None = None) -> Stats:
    """Return the figures of a data set. Raises DataRefused."""
    checker, margins, fields, lengths = Checker(), Counter[str](), Counter[str](), list[int]()
    for record in labelled_of(source, words, split):
        text = text_of_content(record.content)
        checker.add(text, record.is_right, held_out=False)
        margins[f"{record.margin:g}"] += 1
        fields.update(fields_of(record.content).keys())
        if len(lengths) < _SAMPLE:
            lengths.append(len(text))
    if not checker.records:
        raise DataRefused(f"{source} holds no labelled record")
    quantiles = {name: float(np.quantile(lengths, at)) for name, at in (("median", 0.5), ("p95", 0.95), ("most", 1.0))}
    right = checker.records - checker.wrong
    return Stats(checker.records, right, checker.wrong, checker.distinct, dict(margins), dict(fields.most_common(50)), quantiles)


def split(source: str, out: Path, share: float, form: Form, kind: str, words: tuple[str, str]) -> dict[str, int]:
    """Write train and test files and a data-set card to a new directory; the hash of a record says which. Raises DataRefused."""
    if out.exists() and any(out.iterdir()):
        raise DataRefused(f"--out {out} is not empty; a data set is written to a new directory")
    was_there = out.exists()
    try:
        counts = {name: write_rows(partial(_part, source, form, words, share, name), out / f"{name}{kind}") for name in SPLITS}
        empty = next((name for name, count in counts.items() if not count), None)
        if empty is not None:
            raise DataRefused(f"{source}: the {empty} part would be empty with --share {share:g}; give more records or another share")
    except DataRefused:
        for name in SPLITS:
            (out / f"{name}{kind}").unlink(missing_ok=True)
        if not was_there and out.exists():
            out.rmdir()
        raise
    (out / CARD).write_text(_card(out, kind, form, share, words), encoding="utf-8")
    return counts


def _converted(source: str, form: Form, words: tuple[str, str]) -> Iterator[dict[str, Any]]:
    for row in rows_of(source):
        if is_graded(row.value):
            if form == "binary":
                raise DataRefused(f"{row.where}: graded answers have no binary form; use --form preference")
            yield from graded_pairs(row)
        else:
            yield as_row(labelled(row, words), form, words)


def _part(source: str, form: Form, words: tuple[str, str], share: float, name: str) -> Iterator[dict[str, Any]]:
    for record in labelled_of(source, words):
        if is_held_out(text_of_content(record.content), share) == (name == SPLITS[1]):
            yield as_row(record, form, words)


def _readable(rows: Iterator[Row], words: tuple[str, str], checker: Checker) -> Iterator[Labelled]:
    for row in rows:
        try:
            record = labelled(row, words)
        except DataRefused as refused:
            checker.add_unreadable(str(refused))
        else:
            yield record


def _card(directory: Path, kind: str, form: Form, share: float, words: tuple[str, str]) -> str:
    """Return a data-set card: the header that Hugging Face reads, then figures for people."""
    files = "\n".join(f"  - split: {name}\n    path: {name}{kind}" for name in SPLITS)
    rows, fields = [], dict[str, int]()
    for name in SPLITS:
        found = stats(str(directory), words, name)
        rows.append(f"| {name} | {found.records} | {found.right} | {found.wrong} | {found.distinct} | {found.characters['median']:g} |")
        fields |= {field: fields.get(field, 0) + count for field, count in found.fields.items()}
    meaning = (
        "`chosen` or `rejected` is true" if form == "binary" else f"the preferred chat answers {words[0]} (right) or {words[1]} (wrong)"
    )
    shown = ", ".join(f"`{name}` ({count})" for name, count in fields.items())
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}\ntask_categories:\n- text-classification\n---\n\n"
        f"# Records and what people said of them\n\nForm: {form}; {meaning}. A record is in the test part when a hash of what\n"
        f"the model reads of it falls below {share:g}: it never moves, and the same record never stands in both.\n\n"
        "| part | records | right | wrong | different | characters, median |\n|---|---|---|---|---|---|\n" + "\n".join(rows)
        + f"\n\nFields: {shown}.\n\nLicence, origin and personal data: to be said by who publishes it.\n"
    )  # fmt: skip
