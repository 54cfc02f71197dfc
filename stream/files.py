"""Files of records -> values as a producer would write them: .jsonl .json .csv .parquet .txt, or - for standard input.

One line, row or array element is one record. Rows of tables become JSON objects; text stays text, byte for byte.
"""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation.errors import DataRefused
from stream.json_stream import json_values

KINDS = (".jsonl", ".json", ".csv", ".parquet", ".txt")


def read_values(path: Path) -> Iterator[bytes]:
    """Yield the value bytes of every record of a file, in order; empty lines are no records.

    Raises DataRefused when the file is missing, of no known kind, or cannot be read.
    """
    if str(path) == "-":
        yield from _lines(sys.stdin.buffer)
        return
    if not path.is_file():
        raise DataRefused(f"the file {path} does not exist")
    kind = path.suffix.lower()
    if kind in (".jsonl", ".txt"):
        with path.open("rb") as file:
            yield from _lines(file)
    elif kind == ".json":
        for _, element in json_values(path):
            yield as_value(element)
    elif kind == ".csv":
        yield from _csv_rows(path)
    elif kind == ".parquet":
        yield from (as_value(row) for row in parquet_rows(path))
    else:
        raise DataRefused(f"{path} is no {', '.join(KINDS)} file")


def parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, a batch in memory at a time."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=4_096):
            yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataRefused(f"{path} is not a readable Parquet file: {error}") from error


def as_value(element: object) -> bytes:
    """Return one record as bytes: text as it is, anything else as JSON."""
    if isinstance(element, str):
        return element.encode("utf-8", "surrogatepass")
    return json.dumps(element, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def _lines(file: Any) -> Iterator[bytes]:
    for line in file:
        value = line.rstrip(b"\r\n")
        if value:
            yield value


def _csv_rows(path: Path) -> Iterator[bytes]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                yield as_value({key: value for key, value in row.items() if key is not None})
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataRefused(f"{path} is not a readable CSV file: {error}") from error
