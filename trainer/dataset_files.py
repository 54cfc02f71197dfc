"""Files of data sets, in and out, one entry in memory at a time: .json, .jsonl, .parquet, a directory, `hub:OWNER/NAME`.

Enters and leaves: rows as dictionaries, each with the place it came from. What a row means is trainer/datasets.py's.
A directory is what Hugging Face `datasets` loads by its name: train.* and test.* with a README.md.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from foundation.errors import DataRefused
from stream.files import parquet_rows
from stream.json_stream import json_values

KINDS = (".json", ".jsonl", ".parquet")
_OF_SHEETS = (".csv", ".tsv", ".xlsx")  # which would be told of as broken JSON
SPLITS = ("train", "test")
HUB = "hub:"
BATCH_ROWS = 4_096
_SURROGATE = re.compile("[\ud800-\udfff]")


class Row(NamedTuple):
    """One entry of a data set as it was written, and how errors call its place."""

    where: str
    value: Any


def rows_of(source: str, split: str | None = None) -> Iterator[Row]:
    """Yield the rows of a file, of a directory (both splits, or one), or of `hub:OWNER/NAME`. Raises DataRefused."""
    if source.startswith(HUB):
        yield from _hub_rows(source.removeprefix(HUB), split or SPLITS[0])
        return
    path = Path(source)
    if path.is_dir():
        for each in _parts_of(path, split):
            yield from _file_rows(each)
    elif path.is_file():
        yield from _file_rows(path)
    else:
        raise DataRefused(f"the data file {path} does not exist")


def write_rows(rows: Callable[[], Iterable[Mapping[str, Any]]], path: Path) -> int:
    """Write rows as the suffix says: .json one array, .jsonl lines, .parquet; return how many.

    `rows` begins a pass over them: a Parquet file takes two, since its columns stand before its first row. Where there is none, what was
    there stays. Raises DataRefused; a file that failed half-way is removed.
    """
    if path.suffix not in KINDS:
        raise DataRefused(f"{path}: data sets are written as {', '.join(KINDS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".parquet":
            count = _write_parquet(rows, part, path)
        else:
            count = _write_json(rows(), part, is_array=path.suffix == ".json")
        if count:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def _file_rows(path: Path) -> Iterator[Row]:
    if path.suffix.lower() == ".parquet":
        for number, row in enumerate(parquet_rows(path), start=1):
            # a table has every column in every row, records have only their own fields
            yield Row(f"{path}, row {number}", {name: value for name, value in row.items() if value is not None})
        return
    if path.suffix.lower() in _OF_SHEETS:
        raise DataRefused(f"{path}: labelled records are read from {', '.join(KINDS)}, not from {path.suffix}")
    for line, value in json_values(path):
        yield Row(f"{path}, line {line}", value)


def _parts_of(directory: Path, split: str | None) -> list[Path]:
    wanted = SPLITS if split is None else (split,)
    found = [directory / f"{name}{kind}" for name in wanted for kind in KINDS if (directory / f"{name}{kind}").is_file()]
    if not found:
        names = " or ".join(f"{name}{{{','.join(KINDS)}}}" for name in wanted)
        raise DataRefused(f"the directory {directory} holds no {names}")
    return found


def _hub_rows(name: str, split: str) -> Iterator[Row]:
    from datasets import load_dataset  # noqa: PLC0415

    try:
        for number, row in enumerate(load_dataset(name, split=split), start=1):
            yield Row(f"{HUB}{name}, row {number}", {field: value for field, value in row.items() if value is not None})
    except Exception as error:  # the hub raises what its client raises
        raise DataRefused(f"{HUB}{name} cannot be loaded: {(str(error).splitlines() or ['no reason'])[0][:200]}") from error


def _write_json(rows: Iterable[Mapping[str, Any]], path: Path, *, is_array: bool) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            if is_array:
                file.write(",\n" if count else "[\n")
            file.write(_as_json(row))
            file.write("" if is_array else "\n")
            count += 1
        if is_array:
            file.write("\n]\n" if count else "[]\n")
    return count


def _as_json(row: Mapping[str, Any]) -> str:
    """Return a row as JSON, half a surrogate pair as its escape: UTF-8 has no form of it."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isascii() or not _SURROGATE.search(text) else json.dumps(row)


def _write_parquet(rows: Callable[[], Iterable[Mapping[str, Any]]], path: Path, named: Path) -> int:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        schema = pa.schema([])
        for batch in _batches(rows()):
            # the columns of every row: from_pylist looks at the first one's alone
            columns = dict.fromkeys(name for row in batch for name in row)
            seen = pa.table({name: pa.array([row.get(name) for row in batch]) for name in columns}).schema
            schema = pa.unify_schemas([schema, seen], promote_options="permissive")
        count = 0
        with pq.ParquetWriter(path, schema) as writer:
            for batch in _batches(rows()):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))
                count += len(batch)
    except UnicodeEncodeError as error:
        raise DataRefused(f"{named}: Parquet holds UTF-8, and a record has half a surrogate pair; write .jsonl") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataRefused(f"{named}: a Parquet column has one type, these rows do not agree ({error}); write .jsonl") from error
    return count


def _batches(rows: Iterable[Mapping[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    left = iter(rows)
    while batch := [dict(row) for row in islice(left, BATCH_ROWS)]:
        yield batch
