"""The registry in a bucket of a real S3 server process: what a directory does it does too, without a lock and a rename.

What both must do is asked of both. Conditional puts, crashes, copies and an absent server are asked of the bucket alone.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import PreconditionError
from obstore.store import MemoryStore

from foundation.errors import FileChanged, ModelRefused, SettingInvalid, SignatureInvalid, VersionMissing
from model_registry.config import RegistrySettings
from model_registry.manifest import SIGNATURE, files_of
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from review.models import Models
from review.shadow import Gates
from tests.integration.conftest import wait_until
from tests.unit.test_registry import manifest
from tests.unit.test_signing import keys

pytestmark = pytest.mark.integration
PUBLISH = """
import sys
from pathlib import Path
from model_registry.config import RegistrySettings
from model_registry.manifest import files_of
from model_registry.registry import Registry
from tests.unit.test_registry import manifest
place = Path(sys.argv[2])
print(Registry(RegistrySettings(url=sys.argv[1])).publish(place, manifest(files_of(place))).number)
"""


def opened(url: str) -> Registry:
    return Registry(RegistrySettings(url=url))


def prepared(place: Path, content: str) -> Path:
    (place / "sub").mkdir(parents=True)
    (place / "weights").write_text(content)
    (place / "sub" / "x").write_text("x" + content)
    (place / "empty").write_text("")
    return place


def publish(registry: Registry, place: Path, content: str) -> int:
    return registry.publish(prepared(place, content), manifest(files_of(place))).number


def bucket(registry: Registry) -> Any:
    return registry._store._bucket  # type: ignore[attr-defined]


def store(registry: Registry) -> Any:
    """obstore's own client, for what happens behind the registry's back."""
    return bucket(registry)._small


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/registry" if request.param == "file" else str(request.getfixturevalue("s3_url"))


@pytest.fixture
def registry(url: str, tmp_path: Path) -> Registry:
    """Two versions, in each kind of store in turn."""
    found = opened(url)
    assert [publish(found, tmp_path / content, content) for content in ("one", "two")] == [1, 2]
    return found


@pytest.fixture
def in_bucket(s3_url: str, tmp_path: Path) -> Registry:
    found = opened(s3_url)
    assert [publish(found, tmp_path / content, content) for content in ("one", "two")] == [1, 2]
    return found


# both kinds of store


def test_versions_are_whole_and_verified(registry: Registry, url: str) -> None:
    again = opened(url)
    assert again.versions() == [1, 2]
    one, two = again.verified("1"), again.verified("winnow@2")
    assert (one.label, (one.directory / "weights").read_text(), (two.directory / "sub" / "x").read_text()) == ("winnow@1", "one", "xtwo")
    assert one.digest == registry.resolve("1").digest != two.digest
    assert again.read(one, "sub/x") == b"xone"
    assert again.read(one, "report.json") is None


def test_numbers_are_not_taken_for_each_other(registry: Registry, tmp_path: Path) -> None:
    for number in range(3, 12):
        assert publish(registry, tmp_path / f"v{number}", str(number)) == number
    assert (registry.verified("1").directory / "weights").read_text() == "one"
    assert (registry.verified("10").directory / "weights").read_text() == "10"


def test_aliases_move_with_a_history_and_rollbacks_pin(registry: Registry, url: str) -> None:
    with pytest.raises(VersionMissing, match=r"no alias 'champion'; `winnow registry promote` sets it"):
        registry.resolve(CHAMPION)
    assert (registry.aliases(), registry.is_pinned()) == ({}, False)
    registry.promote("1")
    registry.promote("2")
    registry.point(CHALLENGER, "1", "published")
    again = opened(url)
    assert again.aliases() == {CHAMPION: 2, CHALLENGER: 1}
    assert again.rollback().number == 1
    assert registry.is_pinned()
    with pytest.raises(VersionMissing, match="no champion before version 1"):
        registry.rollback()
    assert not registry.advance("2", registry.resolve("1").digest, "better")
    registry.unpin()
    assert not again.is_pinned()
    assert not again.advance("2", registry.resolve("2").digest, "another is champion")
    assert again.advance("2", registry.resolve("1").digest, "better")
    assert again.rollback(only_from="sha256:0").number == 2
    assert [(move["version"], move["why"]) for move in registry.history(CHAMPION)] == [
        (1, "promoted"), (2, "promoted"), (1, "rolled back from 2"), (2, "better")
    ]  # fmt: skip


def test_missing_things_are_named(registry: Registry) -> None:
    with pytest.raises(VersionMissing, match="version 9 is not in the registry .*there are: 1, 2"):
        registry.resolve("9")
    with pytest.raises(VersionMissing, match="no alias 'champion'"):
        registry.unpin()


def test_a_failed_publish_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(FileChanged):
        registry.publish(prepared(tmp_path / "three", "three"), manifest({"weights": "sha256:0"}))
    with pytest.raises(OSError):
        registry.publish(tmp_path / "nowhere", manifest({}))
    assert registry.versions() == [1, 2]
    assert publish(registry, tmp_path / "four", "four") == 3


def test_export_is_a_verified_copy_that_can_be_published(registry: Registry, tmp_path: Path) -> None:
    registry.export("1", tmp_path / "out")
    assert (tmp_path / "out" / "weights").read_text() == "one"
    again = registry.publish(tmp_path / "out", registry.resolve("1").manifest)
    assert (again.number, again.digest) == (3, registry.resolve("1").digest)
    with pytest.raises(SettingInvalid, match="exists already"):
        registry.export("1", tmp_path / "out")


def test_publishers_at_once_get_numbers_of_their_own_and_mix_nothing(registry: Registry, url: str, tmp_path: Path) -> None:
    started = {}
    for name in ("three", "four", "five"):
        place = prepared(tmp_path / name, name)
        started[name] = subprocess.Popen([sys.executable, "-c", PUBLISH, url, place], stdout=subprocess.PIPE, text=True)
    numbers = {name: int(process.communicate(timeout=120)[0]) for name, process in started.items()}
    assert sorted(numbers.values()) == [3, 4, 5]
    for name, number in numbers.items():
        version = registry.verified(str(number))
        assert ((version.directory / "weights").read_text(), (version.directory / "sub" / "x").read_text()) == (name, f"x{name}")


def test_moves_at_once_are_all_in_the_history(registry: Registry, url: str) -> None:
    registries = [opened(url) for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda each: each.point(CHAMPION, "1", "the same move in the same second"), registries))
    assert len(registry.history(CHAMPION)) == 20


# the bucket alone


def test_a_changed_object_is_refused_by_name(in_bucket: Registry, s3_url: str) -> None:
    in_bucket.verified("1")
    objects = store(in_bucket)
    objects.put("versions/1/weights", b"onE")  # a copy is on this machine already
    for each in (in_bucket, opened(s3_url)):
        with pytest.raises(FileChanged, match=f"^{s3_url}/versions/1/weights has changed since it was published: sha256:"):
            each.verified("1")
    with pytest.raises(FileChanged, match="weights has changed"):
        in_bucket.promote("1")
    with pytest.raises(FileChanged, match="weights has changed"):
        in_bucket.read(in_bucket.resolve("1"), "weights")
    objects.delete("versions/1/weights")
    with pytest.raises(FileChanged, match="versions/1/weights is missing; the manifest lists it"):
        in_bucket.verified("1")
    objects.put("versions/1/weights", b"one")
    objects.put("versions/1/extra", b"")
    with pytest.raises(FileChanged, match="versions/1/extra is not in the manifest"):
        in_bucket.verified("1")
    objects.delete("versions/1/extra")
    assert in_bucket.verified("1").number == 1


def test_a_changed_manifest_changes_the_digest_or_is_refused(in_bucket: Registry) -> None:
    before, path = in_bucket.resolve("1"), "versions/1/manifest.json"
    raw = before.manifest.to_bytes()
    store(in_bucket).put(path, raw.replace(b"0.5", b"0.4"))
    assert in_bucket.resolve("1").digest != before.digest
    store(in_bucket).put(path, raw[:-20])
    with pytest.raises(ModelRefused, match=r"the manifest s3://.*manifest\.json cannot be read"):
        in_bucket.resolve("1")


def test_a_manifest_cannot_name_files_elsewhere(in_bucket: Registry, tmp_path: Path) -> None:
    changed = in_bucket.resolve("1").manifest.model_copy(update={"files": {"../outside": "sha256:0"}})
    in_bucket._store._bucket.names = lambda prefix: {"../outside": "1"}  # type: ignore[attr-defined]
    with pytest.raises(FileChanged, match="the manifest lists ../outside, which lies outside"):
        in_bucket._store.check(1, "sha256:1", changed)


def test_a_killed_publisher_leaves_no_version(in_bucket: Registry, s3_url: str, tmp_path: Path) -> None:
    place = prepared(tmp_path / "many", "many")
    for number in range(300):
        (place / f"f{number}").write_text(str(number))
    with subprocess.Popen([sys.executable, "-c", PUBLISH, s3_url, place], stdout=subprocess.PIPE) as process:
        wait_until(lambda: len(bucket(in_bucket).names("versions/3")) > 5, 60)
        process.kill()
        assert process.communicate()[0] == b""
    assert 5 < len(bucket(in_bucket).names("versions/3")) < 300
    assert in_bucket.versions() == [1, 2]
    with pytest.raises(VersionMissing, match="version 3 is not in the registry .*there are: 1, 2"):
        in_bucket.resolve("3")
    assert publish(in_bucket, tmp_path / "next", "next") == 4
    assert in_bucket.versions() == [1, 2, 4]
    assert in_bucket.verified("4").label == "winnow@4"


def test_weights_go_up_in_parts_and_come_down_whole(s3_url: str, tmp_path: Path) -> None:
    place = prepared(tmp_path / "large", "large")
    (place / "weights").write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB, three parts
    version = opened(s3_url).publish(place, manifest(files_of(place)))
    assert (opened(s3_url).verified("1").directory / "weights").stat().st_size == 12_800_000
    assert version.digest == opened(s3_url).resolve("1").digest


class Watched:
    """A bucket that remembers what it was asked, and does something before a put."""

    def __init__(self, real: Any, before_put: Callable[[], None] = lambda: None) -> None:
        self.asked: list[tuple[str, str]] = []
        self._real, self._before_put = real, before_put

    def __getattr__(self, name: str) -> Any:
        def ask(path: str, *rest: Any) -> Any:
            self.asked.append((name, path))
            if name == "put":
                step, self._before_put = self._before_put, lambda: None
                step()
            return getattr(self._real, name)(path, *rest)

        return ask


def watch(registry: Registry, before_put: Callable[[], None] = lambda: None) -> Watched:
    found = Watched(bucket(registry), before_put)
    registry._store._bucket = found  # type: ignore[attr-defined]
    return found


def test_looking_reads_the_alias_and_the_manifest_alone(in_bucket: Registry, s3_url: str, s3: Any) -> None:
    in_bucket.promote("1")
    looking = opened(s3_url)
    watched = watch(looking)
    for _ in range(2):
        version = looking.resolve(CHAMPION)
        assert watched.asked == [("get", "aliases/champion.json"), ("get", "versions/1/manifest.json")]
        watched.asked.clear()
    looking.verified(CHAMPION)
    assert [path for kind, path in watched.asked if kind == "download"] == []  # promote had checked it on this machine
    assert version.directory.is_dir()
    publish(in_bucket, version.directory.parent.parent / "three", "three")
    assert not looking.resolve("3").directory.exists()


def test_gates_on_a_machine_share_a_copy(in_bucket: Registry, s3_url: str) -> None:
    gates = [opened(s3_url) for _ in range(4)]
    watched = [watch(gate) for gate in gates]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda gate: gate.verified("1"), gates))
    assert len({version.directory for version in found}) == 1
    downloads = sorted(path for each in watched for kind, path in each.asked if kind == "download")
    assert downloads == ["versions/1/empty", "versions/1/sub/x", "versions/1/weights"]
    assert found[0].directory.parent.stat().st_mode & 0o077 == 0


def test_a_damaged_copy_is_fetched_again(in_bucket: Registry) -> None:
    copy = in_bucket.verified("1").directory
    (copy / "weights").write_text("onE")
    (copy / "more").write_text("")
    assert (in_bucket.verified("1").directory / "weights").read_text() == "one"
    assert not (copy / "more").exists()


def test_a_cache_that_cannot_be_written_is_refused(
    s3_url: str, in_bucket: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelRefused, match="cannot be kept in .*; see WINNOW_CACHE"):
        opened(s3_url).verified("1")


def test_advance_loses_against_a_rollback_in_between(in_bucket: Registry, s3_url: str, tmp_path: Path) -> None:
    in_bucket.promote("1")
    in_bucket.promote("2")
    third = publish(in_bucket, tmp_path / "three", "three")
    training = opened(s3_url)
    watch(training, before_put=lambda: assert_is(in_bucket.rollback().number, 1))
    assert not training.advance(str(third), in_bucket.resolve("2").digest, "better")
    assert in_bucket.aliases() == {CHAMPION: 1}
    assert in_bucket.is_pinned()
    assert [move["version"] for move in in_bucket.history(CHAMPION)] == [1, 2, 1]


def test_a_rollback_in_between_two_rollbacks_moves_once(in_bucket: Registry, s3_url: str) -> None:
    """Two gates that are flooded by the same version must not go two back."""
    for number in ("1", "2", "1", "2"):
        in_bucket.promote(number)
    digest, other = in_bucket.resolve(CHAMPION).digest, opened(s3_url)
    watch(in_bucket, before_put=lambda: assert_is(other.rollback(only_from=digest).number, 1))
    assert in_bucket.rollback(only_from=digest).number == 1
    assert len(in_bucket.history(CHAMPION)) == 5


class Forgetful:
    """A client whose answer gets lost once: it has written, is asked again, and the condition no longer holds."""

    def __init__(self, real: Any) -> None:
        self._real, self._lost = real, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def put(self, *arguments: Any, **options: Any) -> Any:
        done = self._real.put(*arguments, **options)
        if not self._lost:
            self._lost = True
            raise PreconditionError("412")
        return done


def test_a_lost_answer_is_no_second_move(in_bucket: Registry, tmp_path: Path) -> None:
    in_bucket.promote("1")
    real = store(in_bucket)
    bucket(in_bucket)._small = Forgetful(real)
    in_bucket.promote("2")
    assert [move["version"] for move in in_bucket.history(CHAMPION)] == [1, 2]
    bucket(in_bucket)._small = Forgetful(real)
    assert publish(in_bucket, tmp_path / "three", "three") == 4  # the claim's answer was lost: its number is skipped
    assert in_bucket.versions() == [1, 2, 4]


def test_a_lost_answer_to_the_manifest_is_no_failure(in_bucket: Registry, tmp_path: Path) -> None:
    claim = in_bucket._store._claim  # type: ignore[attr-defined]

    def claimed() -> int:
        number = int(claim())
        bucket(in_bucket)._small = Forgetful(store(in_bucket))
        return number

    in_bucket._store._claim = claimed  # type: ignore[attr-defined]
    assert publish(in_bucket, tmp_path / "three", "three") == 3
    store(in_bucket)._lost = True
    in_bucket._store._claim = lambda: 3  # type: ignore[attr-defined]
    with pytest.raises(ModelRefused, match=r"versions/3/manifest\.json was written by somebody else"):
        publish(in_bucket, tmp_path / "other", "other")


def test_another_store_with_conditional_puts_keeps_the_history_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same against obstore's store in memory, whose conditions are its own."""
    monkeypatch.setenv("WINNOW_CACHE", str(tmp_path / "cache"))
    memory, registries = MemoryStore(), [opened("gs://bucket/prefix") for _ in range(20)]
    for each in registries:
        bucket(each)._small = bucket(each)._large = memory
    assert publish(registries[0], tmp_path / "one", "one") == 1
    with ThreadPoolExecutor(20) as threads:
        numbers = list(threads.map(lambda n: publish(registries[n], tmp_path / f"p{n}", str(n)), range(20)))
        list(threads.map(lambda each: each.point(CHAMPION, "1", "moved"), registries))
    assert sorted(numbers) == list(range(2, 22))
    assert len(registries[0].history(CHAMPION)) == 20
    assert (registries[0].verified("7").directory / "weights").read_text() == str(numbers.index(7))


def test_a_registry_of_files_copied_to_a_bucket_is_one(s3_url: str, tmp_path: Path) -> None:
    files = opened(str(tmp_path / "files"))
    for content in ("one", "two"):
        publish(files, tmp_path / content, content)
        files.promote(content == "one" and "1" or "2")
    copied = opened(s3_url)
    for path in files.root.rglob("*"):
        if path.is_file() and path.name != ".lock":
            store(copied).put(path.relative_to(files.root).as_posix(), path.read_bytes())
    assert copied.verified(CHAMPION).digest == files.resolve(CHAMPION).digest
    assert copied.rollback().number == 1
    assert publish(copied, tmp_path / "three", "three") == 3


def test_the_model_page_reads_the_report_alone(in_bucket: Registry, tmp_path: Path) -> None:
    place = prepared(tmp_path / "three", "three")
    (place / "report.json").write_text(json.dumps({"threshold": 0.5}))
    in_bucket.publish(place, manifest(files_of(place)))
    watched = watch(in_bucket)
    page = Models(in_bucket, None, Gates(()))  # type: ignore[arg-type]
    assert page.report("3") == {"version": "winnow@3", "report": {"threshold": 0.5}}
    assert page.report("1") == {"version": "winnow@1", "report": None}
    assert [each["number"] for each in page.shown()["versions"]] == [3, 2, 1]
    assert "download" not in {kind for kind, _ in watched.asked}


def assert_is(found: object, wanted: object) -> None:
    assert found == wanted


def test_a_signed_version_is_trusted_from_a_bucket_too(s3_url: str, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "ours")
    place = prepared(tmp_path / "bundle", "weights")
    signer = Registry(RegistrySettings(url=s3_url, signing_key=private))
    trusting = Registry(RegistrySettings(url=s3_url, public_key=public))
    signed = signer.publish(place, manifest(files_of(place)))
    assert publish(opened(s3_url), tmp_path / "other", "unsigned") == 2
    assert trusting.verified("1").digest == signed.digest
    with pytest.raises(SignatureInvalid, match="versions/2 is not signed"):
        trusting.verified("2")
    store(signer).delete(f"versions/1/{SIGNATURE}")
    with pytest.raises(SignatureInvalid, match="versions/1 is not signed"):
        trusting.verified("1")
