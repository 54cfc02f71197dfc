"""Data sets in and out: the binary form and preference chats, as JSON arrays, JSON lines, comma-less objects, Parquet.

    binary      {"address": "北京市海淀区学院路29号", "chosen": true}   or   {…, "rejected": true}
    preference  {"chosen": [{role, content}, …], "rejected": […], "score_chosen": 1, "score_rejected": 0}

Leaves: labelled records. For a wrong record the chosen answer is the wrong word, and the scores are still 1 and 0.
A record travels as the user's content: plain text as it is, anything else as compact JSON, so both forms convert
into each other without loss; the binary form calls plain text `text`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from foundation.errors import DataRefused
from stream.files import json_values, parquet_rows

TEXT_FIELD = "text"


class Labelled(NamedTuple):
    """A record, as the user's content, and what people said of it; margin = score_chosen - score_rejected.

    weight: how much it counts in training. doubt: probability that the verdict is a mistake, as far as it is softened.
    kind: what is wrong with it, as far as somebody has said.
    """

    content: str
    is_right: bool
    score_chosen: float = 1.0
    score_rejected: float = 0.0
    weight: float = 1.0
    doubt: float = 0.0
    kind: str = ""

    @property
    def margin(self) -> float:
        """How much better the chosen answer is; 1 for plain verdicts."""
        return self.score_chosen - self.score_rejected


def read_labelled(source: str, words: tuple[str, str]) -> list[Labelled]:
    """Read a file, or `hub:OWNER/NAME`, in any of the forms. Raises DataRefused naming the file and the entry."""
    if source.startswith("hub:"):
        rows: Iterable[Any] = _hub_rows(source.removeprefix("hub:"))
        path = Path(source)
    else:
        path = Path(source)
        if not path.is_file():
            raise DataRefused(f"the data file {path} does not exist")
        rows = _present(parquet_rows(path)) if path.suffix.lower() == ".parquet" else _json_rows(path)
    found = [_labelled(row, words, f"{path}, entry {number}") for number, row in enumerate(rows, start=1)]
    if not found:
        raise DataRefused(f"{path} holds no labelled record")
    return found


def write_labelled(records: Sequence[Labelled], path: Path, form: str, words: tuple[str, str]) -> None:
    """Write as `binary` or `preference`; the suffix says how: .json one array, .jsonl lines, .parquet."""
    rows = [as_binary(record) if form == "binary" else as_preference(record, words) for record in records]
    if path.suffix == ".parquet":
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        columns = list(dict.fromkeys(name for row in rows for name in row))
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        raise DataRefused(f"{path}: data sets are written as .json, .jsonl or .parquet")


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
    """Return the binary form of a record; what is no JSON object is called `text`."""
    fields: Any = None
    if record.content.lstrip().startswith("{"):
        try:
            fields = json.loads(record.content)
        except json.JSONDecodeError:
            fields = None
    if not isinstance(fields, dict):
        fields = {TEXT_FIELD: record.content}
    return {**fields, "chosen" if record.is_right else "rejected": True}


def content_of(fields: dict[str, Any]) -> str:
    """Return a record's fields as the user's content; a lone `text` is plain text."""
    if set(fields) == {TEXT_FIELD} and isinstance(fields[TEXT_FIELD], str):
        return str(fields[TEXT_FIELD])
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def is_held_out(text: str, share: float) -> bool:
    """Return whether a record belongs to the test split, by a hash of its text: it never moves and never leaks."""
    ticket = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8, person=b"hold-out").digest(), "big")
    return ticket < share * 2**64


def digest_of_data(records: Iterable[Labelled]) -> str:
    """Return `sha256:` over contents, verdicts and scores, in order."""
    total = hashlib.sha256()
    for record in records:
        total.update(json.dumps(record, ensure_ascii=True).encode())
    return f"sha256:{total.hexdigest()}"


def _json_rows(path: Path) -> Iterator[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataRefused(f"{path} is not UTF-8: byte {error.start}") from error
    return json_values(text, path)


def _present(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Drop empty cells: a table has every column in every row, records have only their own fields."""
    return ({name: value for name, value in row.items() if value is not None} for row in rows)


def _hub_rows(name: str) -> Iterator[Any]:
    from datasets import load_dataset  # noqa: PLC0415

    try:
        yield from load_dataset(name, split="train")
    except Exception as error:  # the hub raises what its client raises
        raise DataRefused(f"hub:{name} cannot be loaded: {str(error).splitlines()[0][:200]}") from error


def _labelled(row: Any, words: tuple[str, str], where: str) -> Labelled:
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
    raise DataRefused(f"{where}: neither `chosen`/`rejected` true or false nor two chats")


def _from_preference(row: dict[str, Any], words: tuple[str, str], where: str) -> Labelled:
    try:
        asked = [turn["content"] for turn in row["chosen"] if turn["role"] == "user"]
        preferred = row["chosen"][-1]["content"].strip()
        other = row["rejected"][-1]["content"].strip()
        score_chosen = 1.0 if row.get("score_chosen") is None else float(row["score_chosen"])
        score_rejected = 0.0 if row.get("score_rejected") is None else float(row["score_rejected"])
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise DataRefused(f"{where}: the chats are not lists of {{role, content}}: {error!r}") from error
    if not asked:
        raise DataRefused(f"{where}: no turn of the user, so no record")
    if {preferred, other} != set(words):
        raise DataRefused(
            f"{where}: the answers {preferred!r} and {other!r} are not the verdict words {words[0]}/{words[1]} (--verdict-words)"
        )
    return Labelled(asked[-1], preferred == words[0], score_chosen, score_rejected)
