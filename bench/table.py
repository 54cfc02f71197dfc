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
    """Read both files. Raises DataRefused where they do not fit together or a column to drop is not there."""
    found = [_read(path) for path in (dirty, clean)]
    is_utf_8 = [_is_utf_8(each) for each in found]
    if is_utf_8[0] != is_utf_8[1]:  # read as two encodings, what is alike would differ
        raise DataRefused(f"{(dirty, clean)[is_utf_8.index(False)]} is not UTF-8 and the other file is; write both alike")
    encoding = "utf-8-sig" if all(is_utf_8) else "latin-1"
    dirty_rows, clean_rows = (_rows(path, each.decode(encoding)) for path, each in zip((dirty, clean), found, strict=True))
    head = dirty_rows[0]
    unknown = [name for name in drop if name not in head]
    if unknown:
        raise DataRefused(f"--drop {unknown[0]}: {dirty} has the columns {', '.join(head)}")
    if len(dirty_rows) != len(clean_rows):
        raise DataRefused(f"{dirty} has {len(dirty_rows) - 1} records and {clean} {len(clean_rows) - 1}")
    for number, (one, other) in enumerate(zip(dirty_rows, clean_rows, strict=True), start=1):
        if len(one) != len(head) or len(other) != len(head):
            raise DataRefused(f"row {number}: {len(one)} and {len(other)} cells under {len(head)} columns")
    kept = [place for place, name in enumerate(head) if name not in drop]
    cells = [tuple(row[place] for place in kept) for row in dirty_rows[1:]]
    wrong_RC = np.array([[one[place] != other[place] for place in kept] for one, other in zip(dirty_rows[1:], clean_rows[1:], strict=True)])
    return Table(tuple(head[place] for place in kept), cells, wrong_RC)


def never_asked(records: int, seed: int) -> np.ndarray:
    """Return which records are never asked about: a fifth, by a hash of row index and seed."""
    tickets = [hashlib.blake2b(f"{seed}:{row}".encode(), digest_size=8).digest() for row in range(records)]
    return np.array([int.from_bytes(ticket, "big") % PARTS == 0 for ticket in tickets])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataRefused(f"{path} cannot be read: {error}") from error


def _is_utf_8(found: bytes) -> bool:
    try:
        found.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _rows(path: Path, text: str) -> list[list[str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error as error:
        raise DataRefused(f"{path} cannot be read as CSV: {error}") from error
    if len(rows) < 2:  # noqa: PLR2004
        raise DataRefused(f"{path} holds no record under its header")
    return rows
