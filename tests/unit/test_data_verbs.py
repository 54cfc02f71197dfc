"""`winnow data`: forms and sizes, what the check says, parts that never leak, graded answers."""

import json
import tracemalloc
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from foundation.errors import DataRefused
from tests.conftest import WORDS
from trainer.check import Checker
from trainer.data import convert, look, split, stats
from trainer.datasets import Labelled, read_labelled, write_labelled
from winnow import app

RECORDS = [Labelled(f"王伟{n},北京市朝阳区和平路{n}号", n % 3 > 0) for n in range(300)]


def written(path: Path, records: list[Labelled] = RECORDS, form: str = "binary") -> str:
    write_labelled(records, path, form, WORDS)  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize("first", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize("second", [".json", ".jsonl", ".parquet"])
def test_every_form_becomes_every_other_and_comes_back(tmp_path: Path, first: str, second: str) -> None:
    source = written(tmp_path / f"a{first}")
    assert convert(source, tmp_path / f"b{second}", "preference", WORDS) == len(RECORDS)
    assert convert(str(tmp_path / f"b{second}"), tmp_path / f"c{first}", "binary", WORDS) == len(RECORDS)
    assert read_labelled(str(tmp_path / f"c{first}"), WORDS) == RECORDS


@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_a_large_file_is_converted_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"large{kind}"
    row = json.dumps({"text": "x" * 1_000, "chosen": True})
    with path.open("w") as file:
        file.write("[" if kind == ".json" else "")
        for number in range(20_000):
            file.write((("," if number and kind == ".json" else "") + row) + "\n")
        file.write("]" if kind == ".json" else "")
    tracemalloc.start()
    assert convert(str(path), tmp_path / "out.jsonl", "preference", WORDS) == 20_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 20_000_000
    assert most < 12_000_000


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text('{"a": 1, "chosen": true}\n{"a": 2}\n')
    with pytest.raises(DataRefused, match=r"a\.jsonl, line 2: neither"):
        convert(str(source), tmp_path / "b.json", "binary", WORDS)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.jsonl"]
    mixed = written(tmp_path / "m.jsonl", [Labelled('{"a":1}', True), Labelled('{"a":"x"}', False)])
    with pytest.raises(DataRefused, match=r"write \.jsonl"):
        convert(mixed, tmp_path / "m.parquet", "binary", WORDS)


def test_graded_answers_become_pairs_with_margins(tmp_path: Path) -> None:
    source = tmp_path / "graded.jsonl"
    rows = [
        {"prompt": "p", "answers": [{"content": "A", "score": 2}, {"content": "B", "score": 3.5}, {"content": "C", "score": 2}]},
        {"prompt": "q", "answers": ["B", "A", "C"]},
    ]
    source.write_text("\n".join(json.dumps(row) for row in rows))
    assert convert(str(source), tmp_path / "pairs.json", "preference", WORDS) == 5
    pairs = json.loads((tmp_path / "pairs.json").read_text())
    told = [(each["chosen"][1]["content"], each["rejected"][1]["content"], each["margin"]) for each in pairs]
    assert told == [("B", "A", 1.5), ("B", "C", 1.5), ("B", "A", 1.0), ("B", "C", 2.0), ("A", "C", 1.0)]
    with pytest.raises(DataRefused, match="no binary form"):
        convert(str(source), tmp_path / "x.json", "binary", WORDS)
    source.write_text('{"prompt": "p", "answers": [1]}')
    with pytest.raises(DataRefused, match="line 1: an answer is text"):
        convert(str(source), tmp_path / "x.json", "preference", WORDS)


def test_the_check_counts_what_it_cannot_read_and_what_is_too_long(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_text("".join(json.dumps({"text": f"record {n} {'x' * n}", "chosen": n % 2 == 0}) + "\n" for n in range(60)) + '{"a": 1}\n')
    checker, findings = look(str(source), WORDS, None, 0.2, lambda texts: [len(text) < 61 for text in texts])
    assert checker.records == 60
    assert {f.name: f.sentence for f in findings} == {
        "unreadable": f"1 entries cannot be read, the first: {source}, line 61: neither `chosen`/`rejected` true or false nor two chats",
        "too-long": "9 of 60 records are longer than the model's maximum: not trained on, and held by the gate",
    }


def test_the_check_sees_what_only_spaces_and_case_tell_apart() -> None:
    checker = Checker()
    for number in range(100):
        checker.add(f"Sensor {number // 2}{' ' * (number % 2)}: ok", number % 3 == 0, held_out=False)
    assert [f.name for f in checker.findings()] == ["near-duplicates"]


def test_a_test_part_that_leaks_is_refused(tmp_path: Path) -> None:
    train, test = written(tmp_path / "train.jsonl", RECORDS[:200]), written(tmp_path / "test.jsonl", RECORDS[190:])
    done = CliRunner().invoke(app, ["data", "check", train, "--test", test])
    assert "10 held-out records are among those to learn from" in done.stdout
    assert isinstance(done.exception, DataRefused)
    done = CliRunner().invoke(app, ["data", "check", train])
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["records"] == 200


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_parts_are_loaded_by_datasets_and_never_leak(tmp_path: Path, kind: str) -> None:
    from datasets import load_dataset

    out = tmp_path / "set"
    counts = split(written(tmp_path / "a.json"), out, 0.2, "preference", kind, WORDS)
    assert sum(counts.values()) == len(RECORDS)
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == counts
    contents = {name: {row["chosen"][0]["content"] for row in part} for name, part in loaded.items()}
    assert not contents["train"] & contents["test"]
    assert sorted(read_labelled(str(out), WORDS)) == sorted(RECORDS)
    card = (out / "README.md").read_text()
    assert f"| train | {counts['train']} |" in card
    with pytest.raises(DataRefused, match="is not empty"):
        split(str(out), out, 0.2, "preference", kind, WORDS)


def test_stats_count(tmp_path: Path) -> None:
    rows = [Labelled('{"a":1,"b":"x"}', True), Labelled('{"a":1,"b":"x"}', True), Labelled('{"a":2}', False, 0.9, 0.4)]
    found = stats(written(tmp_path / "a.jsonl", rows, "preference"), WORDS)
    assert (found.records, found.right, found.wrong, found.distinct) == (3, 2, 1, 2)
    assert found.margins == {"1": 2, "0.5": 1}
    assert found.fields == {"a": 3, "b": 2}
    assert found.characters["most"] == len("a: 1\nb: x")


def test_what_a_conversion_cannot_keep_is_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    write_labelled([Labelled('{"city":"Köln","rejected":1}', True)], own, "preference", WORDS)
    with pytest.raises(DataRefused, match="a field `rejected` of its own"):
        convert(str(own), tmp_path / "out.jsonl", "binary", WORDS)
    assert stats(str(own), WORDS).fields == {"city": 1, "rejected": 1}
    kept = tmp_path / "kept.jsonl"
    kept.write_text("what was there\n")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(DataRefused, match="holds no labelled record"):
        convert(str(empty), kept, "binary", WORDS)
    assert kept.read_text() == "what was there\n"
    half = tmp_path / "half.jsonl"
    half.write_text('{"text": "\\ud800 ä", "chosen": true}\n')
    assert convert(str(half), tmp_path / "half.json", "preference", WORDS) == 1
    assert read_labelled(str(tmp_path / "half.json"), WORDS)[0].content == "\ud800 ä"
    with pytest.raises(DataRefused, match="half a surrogate pair"):
        convert(str(half), tmp_path / "half.parquet", "preference", WORDS)


def test_a_conversion_never_replaces_its_source(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    write_labelled([Labelled('{"city":"Köln"}', True)], own, "binary", WORDS)
    before = own.read_text()
    with pytest.raises(DataRefused, match="name another target"):
        convert(str(own), tmp_path / "." / "own.jsonl", "preference", WORDS)
    assert own.read_text() == before


@pytest.mark.parametrize("text", ['{"city": "a", "chosen": true}\n', '{"city": "a"}\n', "{"])
def test_parts_that_are_refused_leave_no_directory(tmp_path: Path, text: str) -> None:
    source = tmp_path / "few.jsonl"
    source.write_text(text)
    with pytest.raises(DataRefused, match=r"few\.jsonl"):
        split(str(source), tmp_path / "parts", 0.2, "preference", ".jsonl", WORDS)
    assert [each.name for each in tmp_path.iterdir()] == ["few.jsonl"]
    (tmp_path / "there").mkdir()
    with pytest.raises(DataRefused, match=r"few\.jsonl"):
        split(str(source), tmp_path / "there", 0.2, "preference", ".jsonl", WORDS)
    assert list((tmp_path / "there").iterdir()) == []


def test_columns_of_dates_and_decimals_are_read_as_they_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "dates.parquet"
    rows = {"day": [date(2026, 11, 27)], "litres": [Decimal("1.50")], "chosen": [True]}
    pq.write_table(pa.table(rows), path)
    assert read_labelled(str(path), WORDS)[0].content == '{"day":"2026-11-27","litres":"1.50"}'


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"score_chosen": 0, "score_rejected": 1}, "score_chosen 0 is not at least score_rejected 1"),
        ({"score_chosen": float("nan")}, "score_chosen nan"),
        ({"chosen": [{"role": "user", "content": 7}, {"role": "assistant", "content": WORDS[0]}]}, "the user's turn holds int"),
    ],
)
def test_chats_that_say_what_cannot_be_meant_are_refused(tmp_path: Path, changed: dict[str, object], said: str) -> None:
    path = tmp_path / "one.jsonl"
    write_labelled(RECORDS[:1], path, "preference", WORDS)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}) + "\n")
    with pytest.raises(DataRefused, match=f"line 1: {said}"):
        read_labelled(str(path), WORDS)


def test_twenty_rows_of_two_records_are_poor() -> None:
    checker = Checker()
    for place in range(20):
        checker.add(f"record {place % 2}", place % 2 == 0, held_out=False)
    assert [each.name for each in checker.findings() if each.is_error] == ["diversity"]
