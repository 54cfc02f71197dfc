"""Tables with their truth: what is read of two files, and what a recipe of faults does to a clean one."""

from pathlib import Path

import numpy as np
import pytest

from bench.baselines import auroc_of_wrong
from bench.spoiled import FAULTS, spoiled
from bench.table import Table, never_asked, read_table
from foundation.errors import DataRefused


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
    with pytest.raises(DataRefused, match=r"latin\.csv is not UTF-8"):
        read_table(latin, clean, ["id"])


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    clean = written(tmp_path, "clean.csv", b"id,city\n1,a\n2,b\n")
    with pytest.raises(DataRefused, match="1 records and .* 2"):
        read_table(written(tmp_path, "short.csv", b"id,city\n1,a\n"), clean, [])
    with pytest.raises(DataRefused, match="--drop name"):
        read_table(clean, clean, ["name"])
    with pytest.raises(DataRefused, match="cannot be read"):
        read_table(tmp_path / "none.csv", clean, [])


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
