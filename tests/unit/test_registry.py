"""The registry: whole or not there, verified to the byte, aliases with a history, rollback that stays."""

import os
from pathlib import Path

import pytest

from foundation.aside import held, sweep
from foundation.errors import FileChanged, ModelRefused, SettingInvalid, VersionMissing
from model_registry.config import RegistrySettings
from model_registry.manifest import Calibration, Fingerprint, Manifest, Threshold, files_of
from model_registry.registry import CHAMPION, Registry


def manifest(files: dict[str, str]) -> Manifest:
    return Manifest(
        name="winnow", base="b", method="full", created="2026-01-01T00:00:00+00:00", verdict_words=("正确", "错误"),
        rendering="fields@1", encoding="chat@1", pad_id=0, eos_id=1, max_length=10, calibration=Calibration(),
        threshold=Threshold(p_chosen=0.5, chosen_by="test"), fingerprint=Fingerprint(texts=(), rewards=()), metrics={}, settings={},
        files=files,
    )  # fmt: skip


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    found = Registry(RegistrySettings(url=f"file://{tmp_path}/registry"))
    for content in ("one", "two"):
        prepared = tmp_path / content
        (prepared / "sub").mkdir(parents=True)
        (prepared / "weights").write_text(content)
        (prepared / "sub" / "x").write_text("x")
        found.publish(prepared, manifest(files_of(prepared)))
    return found


def test_a_name_of_the_environment_that_is_set_to_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "")
    with pytest.raises(SettingInvalid, match="AWS_ENDPOINT_URL is set to nothing; give it a value, or leave it out"):
        Registry(RegistrySettings(url="s3://models/winnow"))


def test_versions_and_digests(registry: Registry) -> None:
    assert registry.versions() == [1, 2]
    one, two = registry.verified("1"), registry.verified("winnow@2")
    assert one.label == "winnow@1"
    assert one.digest != two.digest
    assert one.digest.startswith("sha256:")
    assert len(one.digest) == 71


def test_a_changed_byte_is_refused_by_name(registry: Registry) -> None:
    path = registry.root / "versions" / "1" / "weights"
    path.write_text("onE")
    with pytest.raises(FileChanged, match="versions/1/weights has changed"):
        registry.verified("1")
    path.unlink()
    with pytest.raises(FileChanged, match="weights is missing"):
        registry.verified("1")
    path.write_text("one")
    (path.parent / "extra").write_text("")
    with pytest.raises(FileChanged, match="extra is not in the manifest"):
        registry.verified("1")


def test_a_changed_manifest_changes_the_digest_or_is_refused(registry: Registry) -> None:
    path = registry.root / "versions" / "1" / "manifest.json"
    before = registry.resolve("1").digest
    path.write_text(path.read_text().replace("0.5", "0.4"))
    assert registry.resolve("1").digest != before
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ModelRefused, match=r"manifest\.json cannot be read"):
        registry.resolve("1")


def test_aliases_move_with_a_history(registry: Registry) -> None:
    with pytest.raises(VersionMissing, match="no alias 'champion'"):
        registry.resolve(CHAMPION)
    registry.promote("1")
    registry.promote("2")
    assert registry.resolve(CHAMPION).number == 2
    assert registry.rollback().number == 1
    assert registry.is_pinned()
    with pytest.raises(VersionMissing, match="no champion before version 1"):
        registry.rollback()
    registry.unpin()
    assert not registry.is_pinned()
    assert [move["version"] for move in registry.history(CHAMPION)] == [1, 2, 1]
    assert registry.aliases() == {CHAMPION: 1}


def test_a_second_rollback_goes_further_back(registry: Registry) -> None:
    prepared = registry.export("2", registry.root.parent / "three").directory
    third = registry.publish(prepared, manifest(registry.resolve("2").manifest.files))
    for number in ("1", "2", "1", str(third.number)):
        registry.promote(number)
    assert registry.rollback(only_from="sha256:0").number == third.number
    assert [registry.rollback().number for _ in range(3)] == [1, 2, 1]
    registry.promote("2")
    assert registry.rollback().number == 1


def test_missing_things_are_named(registry: Registry) -> None:
    with pytest.raises(VersionMissing, match="version 9 is not in the registry .*there are: 1, 2"):
        registry.resolve("9")
    registry.promote("1")
    with pytest.raises(VersionMissing, match="no champion before version 1"):
        registry.rollback()
    with pytest.raises(SettingInvalid, match="scheme ftp is not supported"):
        Registry(RegistrySettings(url="ftp://x/y"))


def test_a_failed_publish_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    prepared = tmp_path / "three"
    prepared.mkdir()
    (prepared / "weights").write_text("three")
    with pytest.raises(FileChanged):
        registry.publish(prepared, manifest({"weights": "sha256:0"}))
    assert registry.versions() == [1, 2]
    with pytest.raises(OSError):
        registry.publish(tmp_path / "nowhere", manifest({}))
    assert list((registry.root / "versions").glob(".*")) == []


def test_export_is_a_verified_copy(registry: Registry, tmp_path: Path) -> None:
    registry.export("1", tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "one"
    with pytest.raises(SettingInvalid, match="exists already"):
        registry.export("1", tmp_path / "out")


def test_what_a_dead_writer_left_is_removed_and_a_living_one_is_let_be(tmp_path: Path) -> None:
    names = (".writing-dead", ".writing-living", ".writing-young", "1")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model").write_text("half")
        if name != ".writing-young":
            os.utime(tmp_path / name, (1, 1))
    with held(tmp_path / ".writing-living"):
        sweep(tmp_path, ".writing-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-living", ".writing-young", "1"]
    sweep(tmp_path, ".writing-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".writing-young", "1"]
