"""A version that nobody vouches for is refused where a key is set, by file and by directory, however it was changed."""

import subprocess
import sys
from pathlib import Path

import pytest

from foundation.errors import FileChanged, SettingInvalid, SignatureInvalid
from model_registry.config import RegistrySettings
from model_registry.manifest import MANIFEST, SIGNATURE, Manifest, files_of
from model_registry.registry import Registry
from tests.debian import openssl
from tests.unit.test_registry import manifest


def prepared(place: Path) -> tuple[Path, Manifest]:
    (place / "sub").mkdir(parents=True)
    (place / "weights").write_text("weights")
    (place / "sub" / "x").write_text("x")
    return place, manifest(files_of(place))


def keys(place: Path, name: str) -> tuple[Path, Path]:
    private, public = place / f"{name}.pem", place / f"{name}.pub"
    for command in (
        [openssl(), "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private],
        [openssl(), "ec", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private, public


def test_a_version_serves_only_with_the_signature_of_the_key(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    _, another = keys(tmp_path, "theirs")
    url = str(tmp_path / "registry")
    directory, described = prepared(tmp_path / "bundle")
    before = sorted(path.name for path in directory.rglob("*"))
    unsigned = Registry(RegistrySettings(url=url)).publish(directory, described)
    signed = Registry(RegistrySettings(url=url, signing_key=private)).publish(directory, described)
    assert sorted(path.name for path in directory.rglob("*")) == before, "the source stays as it was"
    assert signed.digest == unsigned.digest, "a signature changes nothing of what a version is"
    trusting = Registry(RegistrySettings(url=url, public_key=public))
    assert trusting.verified("2").number == 2
    assert Registry(RegistrySettings(url=url)).verified("2").number == 2, "who has no key is not bothered"
    with pytest.raises(SignatureInvalid, match="versions/1 is not signed, and registry.public_key"):
        trusting.verified("1")
    with pytest.raises(SignatureInvalid, match="the signature of .*versions/2 does not hold"):
        Registry(RegistrySettings(url=url, public_key=another)).verified("2")
    with pytest.raises(SignatureInvalid):
        trusting.promote("1")
    said = subprocess.run(
        [Path(sys.executable).parent / "model_signing", "verify", "key", signed.directory, "--signature", signed.directory / SIGNATURE,
         "--ignore-paths", signed.directory / SIGNATURE, "--public_key", public],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    copy = tmp_path / "copy"
    trusting.export("2", copy)
    assert (copy / SIGNATURE).read_bytes() == (signed.directory / SIGNATURE).read_bytes()


def test_what_was_changed_and_described_anew_is_refused(tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    url = str(tmp_path / "registry")
    directory, described = prepared(tmp_path / "bundle")
    signed = Registry(RegistrySettings(url=url, signing_key=private)).publish(directory, described)
    trusting = Registry(RegistrySettings(url=url, public_key=public))
    whole = (signed.directory / MANIFEST).read_text()
    (signed.directory / MANIFEST).write_text(whole.replace('"test"', '"tampered"', 1))
    with pytest.raises(SignatureInvalid, match="does not hold"):
        trusting.verified("1")
    (signed.directory / MANIFEST).write_text(whole)
    name = next(iter(described.files))
    (signed.directory / name).write_bytes(b"other weights")
    with pytest.raises(FileChanged, match=name):
        trusting.verified("1")


def test_keys_that_are_none_are_named(tmp_path: Path) -> None:
    private, _ = keys(tmp_path, "ours")
    directory, described = prepared(tmp_path / "bundle")
    url = str(tmp_path / "registry")
    (tmp_path / "none").write_text("no key")
    with pytest.raises(SettingInvalid, match="registry.signing_key = .*none is no private key"):
        Registry(RegistrySettings(url=url, signing_key=tmp_path / "none")).publish(directory, described)
    Registry(RegistrySettings(url=url, signing_key=private)).publish(directory, described)
    for wrong in (tmp_path / "none", tmp_path / "missing", private):
        with pytest.raises(SettingInvalid, match="registry.public_key = .* is no public key"):
            Registry(RegistrySettings(url=url, public_key=wrong))
    subprocess.run([openssl(), "genrsa", "-out", tmp_path / "rsa.pem", "2048"], check=True, capture_output=True)
    with pytest.raises(SettingInvalid, match="rsa.pem is no private key on an elliptic curve"):
        Registry(RegistrySettings(url=url, signing_key=tmp_path / "rsa.pem"))
