"""Tables with their truth: what is read of two files, and what a recipe of faults does to a clean one."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

from bench.asking import WAYS, Known, one
from bench.baselines import PAST, SEEN, WHOLE, auroc_of_wrong, baselines, column_features
from bench.evidence import evidence_of
from bench.spoiled import FAULTS, spoiled
from bench.table import Table, never_asked, read_table
from foundation.errors import DataRefused
from trainer.pairs import RENDERING, rendered
from trainer.weigh import Said


def written(place: Path, name: str, text: bytes) -> Path:
    path = place / name
    path.write_bytes(text)
    return path


def test_what_is_alike_in_both_files_stays_alike(tmp_path: Path) -> None:
    clean = written(tmp_path, "clean.csv", "id,city\n1,Köln\n2,Zürich\n".encode())
    dirty = written(tmp_path, "dirty.csv", "id,city\n1,Köln\n2,Zürich\n".encode())
    assert not read_table(dirty, clean, ["id"]).is_wrong.any()
    latin = written(tmp_path, "latin.csv", "id,city\n1,Köln\n2,Zurich\n".encode("latin-1"))
    latin_clean = written(tmp_path, "latin-clean.csv", "id,city\n1,Köln\n2,Zürich\n".encode("latin-1"))
    assert read_table(latin, latin_clean, ["id"]).is_wrong.tolist() == [False, True]
    assert read_table(latin, clean, ["id"]).is_wrong.tolist() == [False, True]
    assert not read_table(latin_clean, clean, ["id"]).is_wrong.any()
    moved = written(tmp_path, "moved.csv", "city,id\nKöln,1\nZürich,2\n".encode("latin-1"))
    assert not read_table(moved, written(tmp_path, "others.csv", "no,city\n1,Köln\n2,Zürich\n".encode()), ["id", "no"]).is_wrong.any()
    sized = written(tmp_path, "sized.csv", "Größe,city\n7,Köln\n8,Zürich\n".encode("latin-1"))
    assert not read_table(sized, written(tmp_path, "unsized.csv", "city\nKöln\nZürich\n".encode()), ["Größe"]).is_wrong.any()
    broken = written(tmp_path, "broken.csv", "id,city\n1,Köln\n2,Zürich\n".encode().replace(b"\xc3\xbcr", b"\xbcr"))
    assert read_table(broken, clean, ["id"]).is_wrong.tolist() == [False, True]


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    clean = written(tmp_path, "clean.csv", b"id,city\n1,a\n2,b\n")
    with pytest.raises(DataRefused, match="1 records and .* 2"):
        read_table(written(tmp_path, "short.csv", b"id,city\n1,a\n"), clean, [])
    with pytest.raises(DataRefused, match="--drop name"):
        read_table(clean, clean, ["name"])
    with pytest.raises(DataRefused, match="cannot be read"):
        read_table(tmp_path / "none.csv", clean, [])


def test_columns_are_told_apart_and_dropped_by_either_name(tmp_path: Path) -> None:
    dirty = written(tmp_path, "dirty.csv", b"row,a,a,\n1,x,y,z\n2,x\n")
    clean = written(tmp_path, "clean.csv", b"number,A,B,C\n1,x,y,z\n2,x,,\n")
    table = read_table(dirty, clean, ["number"])
    assert table.columns == ("a", "a_2", "column_3")
    assert table.cells == [("x", "y", "z"), ("x", "", "")]
    assert not table.is_wrong.any()
    alike = written(tmp_path, "alike.csv", b"a_3,a,a,a\n1,2,3,4\n")
    assert read_table(alike, alike, []).columns == ("a_3", "a", "a_3_", "a_4")
    beside = written(tmp_path, "beside.csv", b"A,B,C\n1,x,y\n1,x,q\n")
    numbered = written(tmp_path, "numbered.csv", b"n,A,B,C\n1,1,x,y\n2,1,x,y\n")
    assert read_table(numbered, beside, ["n"]).wrong_RC.tolist() == [[False] * 3, [False, False, True]]
    first = written(tmp_path, "first.csv", b"n,A,B\n1,x,y\n2,x,q\n")
    last = written(tmp_path, "last.csv", b"A,B,m\nx,y,1\nx,y,2\n")
    assert read_table(first, last, ["n", "m"]).wrong_RC.tolist() == [[False] * 2, [False, True]]
    with pytest.raises(DataRefused, match="4 columns and .* 3; --drop"):
        read_table(numbered, beside, [])
    with pytest.raises(DataRefused, match=r"long\.csv, row 2: 3 cells under 2 columns"):
        read_table(written(tmp_path, "long.csv", b"a,b\n1,2,3\n"), written(tmp_path, "two.csv", b"a,b\n1,2\n"), [])
    most = b"a,b\n" + b"x" * 200_000 + b",2\n"
    assert not read_table(written(tmp_path, "most.csv", most), written(tmp_path, "same.csv", most), []).is_wrong.any()


def clean_table(records: int = 400) -> Table:
    cells = [(f"{1000 + row}", f"{row % 90}.25", f"2026-11-{row % 27 + 1:02}", f"a name {row % 50}") for row in range(records)]
    return Table(("id", "volume", "day", "name"), cells, np.zeros((records, 4), dtype=bool))


def test_a_recipe_is_the_same_each_time_and_marks_what_it_changed() -> None:
    clean = clean_table()
    kinds = set()
    for seed in range(12):
        table, said = spoiled(clean, seed)
        assert (table.cells, said) == (spoiled(clean, seed)[0].cells, spoiled(clean, seed)[1])
        differs = [[one != other for one, other in zip(row, was, strict=True)] for row, was in zip(table.cells, clean.cells, strict=True)]
        assert table.wrong_RC.tolist() == differs
        assert 2 <= len(said) <= 4
        assert 0 < table.is_wrong.mean() < 1
        kinds |= {each.partition(" ")[0] for each in said}
    assert len(kinds) > len(set(FAULTS)) / 2


def test_a_fifth_is_never_asked_about_and_an_area_needs_both_kinds() -> None:
    assert 0.15 < never_asked(2_000, 0).mean() < 0.25
    assert (never_asked(2_000, 0) != never_asked(2_000, 1)).any()
    is_wrong = np.array([True, False, True, False])
    assert auroc_of_wrong(is_wrong, np.array([3.0, 1.0, 2.0, 2.0])) == 0.875
    assert auroc_of_wrong(is_wrong, None) is None
    assert auroc_of_wrong(np.ones(4, dtype=bool), np.arange(4.0)) is None


def test_each_way_asks_about_as_many_others_as_it_should() -> None:
    table, _ = spoiled(clean_table(), 3)
    records = rendered(table.contents(), RENDERING)
    said = [Said(record, not is_wrong) for record, is_wrong in zip(records[:20], table.is_wrong[:20], strict=True)]
    evidence = evidence_of(records, said, 0)
    free = records[20:]
    known = Known(free, np.array([evidence.of(record) for record in free]), records[:20], records, evidence)
    chosen = {name: way(known, 12) for name, way in WAYS.items() if way is not None}
    assert {len(set(places)) for places in chosen.values()} == {12}
    assert min(known.nats[chosen["suspect"]]) == min(known.nats)
    middle = np.abs(known.nats - np.median(known.nats))
    assert max(middle[chosen["uncertain"]]) <= min(np.delete(middle, chosen["uncertain"]))
    assert len({tuple(sorted(places)) for places in chosen.values()}) == len(chosen)
    area = one(table, 12, WAYS["groups"], 0)
    assert area is not None
    assert 0.5 < area < 1


def test_column_figures_count_what_may_be_known() -> None:
    cells = [("a", "1"), ("b", "2"), ("a", "1"), ("a", ""), ("a", "1")]
    table = Table(("x", "y"), cells, np.zeros((5, 2), dtype=bool))
    held = np.array([False, False, False, False, True])
    # frequency, of the pattern, length, empty, least and mean probability beside the other column
    first = {name: column_features(table, name, held)[:, :6].tolist() for name in (PAST, SEEN, WHOLE)}
    assert first[PAST][2] == [2 / 3, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert first[WHOLE][2] == [4 / 5, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert first[SEEN][4] == [4 / 5, 1.0, 1.0, 0.0, 1.0, 1.0]
    second = {name: column_features(table, name, held)[:, 6:].tolist() for name in (PAST, SEEN, WHOLE)}
    assert second[PAST][3] == [1 / 4, 1 / 4, 0.0, 1.0, 1 / 3, 1 / 3]
    assert second[SEEN][3] == [1 / 4, 1 / 4, 0.0, 1.0, 1 / 3, 1 / 3]
    assert second[WHOLE][0] == [3 / 5, 4 / 5, 1.0, 0.0, 3 / 4, 3 / 4]
    assert second[SEEN][0] == [2 / 4, 3 / 4, 1.0, 0.0, 2 / 3, 2 / 3]
    one = column_features(Table(("x",), [("a",), ("b",)], np.zeros((2, 1), dtype=bool)), WHOLE)
    assert one.tolist() == [[1 / 2, 1.0, 1.0, 0.0, 1.0, 1.0]] * 2


def test_other_detectors_find_a_plain_fault_and_say_nothing_without_both_verdicts() -> None:
    clean = clean_table()
    cells = [(*row[:3], "") if place % 7 == 0 else row for place, row in enumerate(clean.cells)]
    wrong_RC = np.array([[one != other for one, other in zip(*rows, strict=True)] for rows in zip(cells, clean.cells, strict=True)])
    table, held = Table(clean.columns, cells, wrong_RC), never_asked(400, 0)
    asked = np.flatnonzero(~held)[:100]
    found = baselines(table, asked, held)
    assert all(found[f"gradient_boosting_{name}"] > 0.95 for name in (PAST, SEEN, WHOLE))
    assert found["characters_seen"] > 0.9
    assert found["flag_everything"] == 0.5
    some = held & (np.arange(400) % 2 == 0)
    of_some = baselines(table, asked, held, some)
    assert of_some["characters_seen"] > 0.9
    features = column_features(table, SEEN, held)
    by_hand = auroc_of_wrong(table.is_wrong[some], -IsolationForest(random_state=0).fit(features).score_samples(features[some]))
    assert of_some["isolation_forest_seen"] == by_hand, "what is not judged is not seen all the same"
    alike = baselines(table, asked[table.is_wrong[asked]], held)
    assert alike["gradient_boosting_seen"] is alike["characters_whole"] is None
    assert alike["isolation_forest_seen"] is not None
