"""A pair of CSV files, dirty and clean -> records in file order with their truth; columns are matched by position."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from foundation.errors import DataRefused

PARTS = 5
MOST_CHARACTERS = 1 << 26  # of a cell


class Table(NamedTuple):
    """R records of C columns: what was typed, whether any cell is wrong, and which."""

    columns: tuple[str, ...]
    cells: list[tuple[str, ...]]
    wrong_RC: np.ndarray

    @property
    def is_wrong(self) -> np.ndarray:
        """Whether any cell of a record differs."""
        found: np.ndarray = np.any(self.wrong_RC, axis=1)
        return found

    def contents(self) -> list[str]:
        """Return every record as the JSON that a producer would write."""
        return [json.dumps(dict(zip(self.columns, row, strict=True)), ensure_ascii=False) for row in self.cells]


def read_table(dirty: Path, clean: Path, drop: list[str]) -> Table:
    """Read both files; columns are matched by position once those to drop are gone, and called as the dirty file calls them.

    A name to drop may be that of either file. Short rows end in empty cells. Raises DataRefused where the files do not fit together or
    neither has a column to drop.
    """
    pairs = _readings_of_both(_read(dirty), _read(clean))
    found, refused = [], []
    for one, other in pairs:
        try:
            found.append(_compared(dirty, clean, _rows(dirty, one), _rows(clean, other), drop))
        except DataRefused as error:  # in another encoding its header may fit
            refused.append(error)
    if not found:
        raise refused[0]
    return min(found, key=lambda table: int(table.wrong_RC.sum()))


def _compared(dirty: Path, clean: Path, dirty_rows: list[list[str]], clean_rows: list[list[str]], drop: list[str]) -> Table:
    if len(dirty_rows) != len(clean_rows):
        raise DataRefused(f"{dirty} has {len(dirty_rows) - 1} records and {clean} {len(clean_rows) - 1}")
    ours, theirs = _kept(dirty_rows[0], clean_rows[0], drop, dirty)
    if len(ours) != len(theirs):
        raise DataRefused(f"{dirty} has {len(ours)} columns and {clean} {len(theirs)}; --drop those that are in one alone")
    cells = [tuple(row[place] for place in ours) for row in _even(dirty, dirty_rows)]
    truth = [tuple(row[place] for place in theirs) for row in _even(clean, clean_rows)]
    wrong_RC = np.array([[one != other for one, other in zip(*pair, strict=True)] for pair in zip(cells, truth, strict=True)])
    return Table(_names([dirty_rows[0][place] for place in ours]), cells, wrong_RC)


def never_asked(records: int, seed: int) -> np.ndarray:
    """Return which records are never asked about: a fifth, by a hash of row index and seed."""
    tickets = [hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=8).digest() for row in range(records)]
    return np.array([int.from_bytes(ticket, "big") % PARTS == 0 for ticket in tickets])


def evenly(places: np.ndarray, most: int) -> np.ndarray:
    """Return the places, or an even sample of them where they are more than `most`."""
    if len(places) <= most:
        return places
    sample: np.ndarray = places[np.linspace(0, len(places) - 1, most).astype(int)]
    return sample


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataRefused(f"{path} cannot be read: {error}") from error


def _readings_of_both(dirty: bytes, clean: bytes) -> list[tuple[str, str]]:
    """Return what both files may say, in UTF-8, in Latin-1, or one in each; broken bytes may be what is wrong."""
    ours, theirs = _readings(dirty), _readings(clean)
    if len(ours) > 1 and len(theirs) > 1:  # both alike in an encoding that is not told
        ours, theirs = ours[:1], theirs[:1]
    return [(one, other) for one in ours for other in theirs]


def _readings(found: bytes) -> list[str]:
    """Return the text, or what it may be where it is not UTF-8."""
    try:
        return [found.decode("utf-8-sig")]
    except UnicodeDecodeError:
        return [found.decode("latin-1"), found.decode("utf-8-sig", "backslashreplace")]


def _kept(dirty_head: list[str], clean_head: list[str], drop: list[str], dirty: Path) -> tuple[list[int], list[int]]:
    """Return the places of the columns that stay, in either file. Raises DataRefused."""
    unknown = [name for name in drop if name not in dirty_head and name not in clean_head]
    if unknown:
        raise DataRefused(f"--drop {unknown[0]}: {dirty} has the columns {', '.join(dirty_head)}")
    ours = {place for place, name in enumerate(dirty_head) if name in drop}
    theirs = {place for place, name in enumerate(clean_head) if name in drop}
    if len(dirty_head) == len(clean_head) and len(dirty_head) - len(ours) != len(clean_head) - len(theirs):  # one may call it otherwise
        ours = theirs = ours | theirs
    return [place for place in range(len(dirty_head)) if place not in ours], [
        place for place in range(len(clean_head)) if place not in theirs
    ]


def _even(path: Path, rows: list[list[str]]) -> list[list[str]]:
    """Return the records, each as long as the header. Raises DataRefused where one is longer."""
    width = len(rows[0])
    for number, row in enumerate(rows[1:], start=2):
        if any(row[width:]):
            raise DataRefused(f"{path}, row {number}: {len(row)} cells under {width} columns")
    return [[*row[:width], *[""] * (width - len(row))] for row in rows[1:]]


def _names(head: list[str]) -> tuple[str, ...]:
    """Return the names of the columns, one each: a record keeps one value a name."""
    names: list[str] = []
    for place, name in enumerate(head, start=1):
        unlike = name if name and name not in names else f"{name or 'column'}_{place}"
        while unlike in names:
            unlike += "_"
        names.append(unlike)
    return tuple(names)


def _rows(path: Path, text: str) -> list[list[str]]:
    csv.field_size_limit(MOST_CHARACTERS)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise DataRefused(f"{path} cannot be read as CSV: {error}") from error
    if len(rows) < 2:  # noqa: PLR2004
        raise DataRefused(f"{path} holds no record under its header")
    return rows
