"""Data sets in every form of the mission, each convertible to the others, and refusals with the place."""

import hashlib
import json
from pathlib import Path

import pytest

from foundation.errors import DataRefused
from tests.conftest import WORDS
from trainer.datasets import Labelled, digest_of_data, is_held_out, read_labelled, write_labelled

BINARY = [{"address": "北京市海淀区学院路29号", "chosen": True}, {"address": "北京市海x路", "phone": "1", "rejected": True}]
RECORDS = [Labelled('{"address":"北京市海淀区学院路29号"}', True), Labelled('{"address":"北京市海x路","phone":"1"}', False)]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(BINARY, ensure_ascii=False),
        "\n".join(json.dumps([row], ensure_ascii=False) for row in BINARY),
        "\n".join(json.dumps(row) for row in BINARY),
        "\n".join(json.dumps(row, indent=2) for row in BINARY),
        "\ufeff" + json.dumps(BINARY),
    ],
)
def test_binary_forms(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text, encoding="utf-8")
    assert read_labelled(str(path), WORDS) == RECORDS


@pytest.mark.parametrize("form", ["binary", "preference"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_every_form_comes_back(tmp_path: Path, form: str, suffix: str) -> None:
    records = [*RECORDS, Labelled("张三,北京,联系电话:ddee", False)]
    path = tmp_path / f"d{suffix}"
    write_labelled(records, path, form, WORDS)
    assert read_labelled(str(path), WORDS) == records


def test_a_wrong_record_prefers_the_wrong_word_and_keeps_the_scores(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    write_labelled([RECORDS[1]], path, "preference", WORDS)
    [row] = json.loads(path.read_text())
    assert [turn["content"] for turn in row["chosen"]][1] == "错误"
    assert (row["score_chosen"], row["score_rejected"]) == (1, 0)


def test_margins_are_score_differences(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    write_labelled([Labelled("x", True, 0.9, 0.2)], path, "preference", WORDS)
    assert read_labelled(str(path), WORDS)[0].margin == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"a": 1, "chosen": true},\n {"a": 2, "chosen": tru}]', "line 2"),
        ('[{"a": 1}]', "line 1: neither"),
        ('[{"a": 1, "chosen": true, "rejected": true}]', "both true"),
        ("[]", "holds no labelled record"),
        ("[3]", "int instead of an object"),
        ('[{"prompt": "p", "answers": ["B", "A"]}]', "`winnow data convert` makes pairs of them"),
        ('[{"chosen": true}]', "empty record"),
        ('[{"chosen": [{"role": "user"}], "rejected": []}]', "not lists of {role, content}"),
        (
            '[{"chosen": [{"role":"user","content":"x"},{"role":"assistant","content":"1"}],'
            '"rejected": [{"role":"user","content":"x"},{"role":"assistant","content":"0"}]}]',
            "are not the verdict words",
        ),
    ],
)
def test_refusals_name_the_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "d.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataRefused) as caught:
        read_labelled(str(path), WORDS)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_table_of_a_sheet_is_refused_by_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "said.csv"
    path.write_text("city,chosen\n北京,true\n", encoding="utf-8")
    with pytest.raises(DataRefused, match=r"said\.csv: labelled records are read from \.json, \.jsonl, \.parquet, not from \.csv"):
        read_labelled(str(path), WORDS)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataRefused, match="does not exist"):
        read_labelled(str(tmp_path / "none.json"), WORDS)


def test_the_hold_out_is_a_fifth_and_never_moves() -> None:
    contents = [f"record {n}" for n in range(5_000)]
    share = sum(is_held_out(content, 0.2) for content in contents) / len(contents)
    assert 0.18 < share < 0.22
    assert [is_held_out(c, 0.2) for c in contents] == [is_held_out(c, 0.2) for c in contents]


def test_the_digest_sees_every_change() -> None:
    assert digest_of_data(RECORDS) == digest_of_data(list(RECORDS))
    assert digest_of_data(RECORDS) != digest_of_data([RECORDS[0], RECORDS[1]._replace(is_right=True)])
    corrected = [RECORDS[0], RECORDS[1]._replace(correction="better")]
    assert digest_of_data(RECORDS) != digest_of_data(corrected) != digest_of_data([RECORDS[0], corrected[1]._replace(correction="best")])
    as_before = hashlib.sha256(b'["x", true, 1.0, 0.0, 1.0, 0.0, ""]').hexdigest()
    assert digest_of_data([Labelled("x", True)]) == f"sha256:{as_before}", "what was published before corrections were learned from"
