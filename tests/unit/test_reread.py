"""A file that changes while we run: what can be read is taken over, what cannot leaves what was read before."""

import os
from pathlib import Path

import pytest

from foundation.errors import SettingInvalid
from foundation.reread import Reread


def number_in(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        return int(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingInvalid(f"{path}: {error}") from error


def test_a_changed_file_is_read_again_and_a_broken_one_is_not_taken_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "number"
    path.write_text("1")
    found = Reread(path, number_in, every_seconds=0)
    assert found.value == 1
    path.write_text("two")
    assert found.value == 1
    assert found.value == 1
    assert [record.message for record in caplog.records] == ["a changed file cannot be used; what it said before is in force"]
    path.write_text("33")
    assert found.value == 33
    path.unlink()
    assert found.value == 33
    path.write_text("44")
    os.utime(path, (1, 1))
    assert found.value == 44


def test_it_is_looked_at_once_in_a_while_and_must_be_readable_at_first(tmp_path: Path) -> None:
    path = tmp_path / "number"
    with pytest.raises(SettingInvalid):
        Reread(path, number_in)
    path.write_text("1")
    found = Reread(path, number_in, every_seconds=3_600)
    path.write_text("2")
    assert found.value == 1
    assert Reread(None, number_in).value == 0
