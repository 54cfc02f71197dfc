"""The registry on a file system: versions/N directories that never change, aliases/NAME.json that move with a history.

A version is written aside, synced, renamed: it is whole or it is not there. Aliases move under one lock.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from foundation.errors import ModelRefused, SettingInvalid, VersionMissing
from model_registry.config import RegistrySettings
from model_registry.manifest import MANIFEST, Manifest, digest_of_file, read_manifest, verify_files

CHAMPION, CHALLENGER = "champion", "challenger"


class Version(NamedTuple):
    """A published version: its number, where its files are, its manifest, and the manifest's digest."""

    number: int
    directory: Path
    manifest: Manifest
    digest: str

    @property
    def label(self) -> str:
        """`name@version`, as headers show it."""
        return f"{self.manifest.name}@{self.number}"


class Registry:
    """Versions and aliases below one directory."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Take the directory from `registry.url`; nothing is created before something is published."""
        self.name = settings.name
        self.root = _directory_of(settings.url)

    def versions(self) -> list[int]:
        """Return the numbers of all published versions, oldest first."""
        directory = self.root / "versions"
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal()) if directory.is_dir() else []

    def resolve(self, reference: str) -> Version:
        """Return the version of a number, an alias, or name@number. Raises VersionMissing, ModelRefused."""
        number = self._number_of(reference)
        directory = self.root / "versions" / str(number)
        if not directory.is_dir():
            known = ", ".join(map(str, self.versions())) or "none"
            raise VersionMissing(f"version {number} is not in the registry {self.root}; there are: {known}")
        manifest, digest = read_manifest(directory)
        return Version(number, directory, manifest, digest)

    def verified(self, reference: str) -> Version:
        """Return a version after checking the digest of every file of it. Raises FileChanged naming the file."""
        version = self.resolve(reference)
        verify_files(version.directory, version.manifest)
        return version

    def publish(self, prepared: Path, manifest: Manifest) -> Version:
        """Copy a prepared directory in as the next version, manifest last, and return it; the source stays.

        Raises ModelRefused if the prepared files are not those of the manifest.
        """
        versions = self.root / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        aside = versions / f".writing-{uuid.uuid4().hex}"
        try:
            shutil.copytree(prepared, aside)
            verify_files(aside, manifest)
            (aside / MANIFEST).write_bytes(manifest.to_bytes())
            for path in [*aside.rglob("*"), aside]:
                _sync(path)
            with self._lock():
                number = max(self.versions(), default=0) + 1
                aside.rename(versions / str(number))
            _sync(versions)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return self.resolve(str(number))

    def aliases(self) -> dict[str, int]:
        """Return where every alias points."""
        directory = self.root / "aliases"
        return {path.stem: self._alias(path.stem)["version"] for path in sorted(directory.glob("*.json"))} if directory.is_dir() else {}

    def history(self, alias: str) -> list[dict[str, Any]]:
        """Return the moves of an alias, oldest first: version, time, why."""
        found: list[dict[str, Any]] = self._alias(alias)["history"]
        return found

    def point(self, alias: str, reference: str, why: str, *, pinned: bool | None = None) -> Version:
        """Move an alias to a version, in one step for every reader, and remember the move."""
        version = self.resolve(reference)
        with self._lock():
            self._move(alias, version.number, why, pinned=pinned)
        return version

    def promote(self, reference: str) -> Version:
        """Make a version the champion and lift a pin; its files are checked first."""
        version = self.verified(reference)
        return self.point(CHAMPION, str(version.number), "promoted", pinned=False)

    def advance(self, reference: str, over: str | None, why: str) -> bool:
        """Make a version the champion if that of digest `over` still is and no rollback has pinned it; return whether it is now."""
        version = self.verified(reference)
        with self._lock():
            is_free = not self.is_pinned() and (over is None or self.resolve(CHAMPION).digest == over)
            if is_free:
                self._move(CHAMPION, version.number, why, pinned=False)
        return is_free

    def rollback(self, only_from: str | None = None) -> Version:
        """Make the champion before this one the champion again, and pin it until `promote` or `unpin`.

        A second rollback goes one further back: what was rolled back from is not gone back to.
        only_from: a version's digest; if another version is champion by now, nothing moves and it is returned.
        """
        with self._lock():
            champion = self.resolve(CHAMPION)
            if only_from is not None and champion.digest != only_from:
                return champion
            before = _before(self.history(CHAMPION))
            if before is None:
                raise VersionMissing(f"there is no champion before version {champion.number} to roll back to in {self.root}")
            version = self.verified(str(before))
            self._move(CHAMPION, before, f"rolled back from {champion.number}", pinned=True, is_rollback=True)
        return version

    def unpin(self) -> None:
        """Let training promote again after a rollback."""
        with self._lock():
            self._write_alias(CHAMPION, {**self._alias(CHAMPION), "pinned": False})

    def is_pinned(self) -> bool:
        """Whether a rollback holds the champion in place."""
        return (self.root / "aliases" / f"{CHAMPION}.json").is_file() and bool(self._alias(CHAMPION)["pinned"])

    def export(self, reference: str, directory: Path) -> Version:
        """Copy a verified version, manifest included, to a directory that does not exist yet."""
        version = self.verified(reference)
        if directory.exists():
            raise SettingInvalid(f"{directory} exists already; export writes a new directory")
        shutil.copytree(version.directory, directory)
        if digest_of_file(directory / MANIFEST) != version.digest:
            raise ModelRefused(f"{directory} was changed while version {version.number} was written to it")
        return version

    def _number_of(self, reference: str) -> int:
        bare = reference.removeprefix(f"{self.name}@")
        if bare.isdecimal():
            return int(bare)
        if not (self.root / "aliases" / f"{bare}.json").is_file():
            hint = "`winnow train` publishes one" if not self.versions() else "`winnow registry promote` sets it"
            raise VersionMissing(f"the registry {self.root} has no alias {bare!r}; {hint}")
        return int(self._alias(bare)["version"])

    def _alias(self, alias: str) -> dict[str, Any]:
        path = self.root / "aliases" / f"{alias}.json"
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            found["version"], found["history"], found["pinned"]  # noqa: B018
        except FileNotFoundError:
            raise VersionMissing(f"the registry {self.root} has no alias {alias!r}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelRefused(f"the alias file {path} cannot be read: {error!r}") from error
        return found

    def _move(self, alias: str, number: int, why: str, *, pinned: bool | None, is_rollback: bool = False) -> None:
        """Write an alias with one more move in its history; the lock is held."""
        old: dict[str, Any] = {"history": [], "pinned": False}
        if (self.root / "aliases" / f"{alias}.json").is_file():
            old = self._alias(alias)
        move: dict[str, Any] = {"version": number, "time": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}
        if is_rollback:
            move["is_rollback"] = True
        is_pinned = old["pinned"] if pinned is None else pinned
        self._write_alias(alias, {"version": number, "pinned": is_pinned, "history": [*old["history"], move]})

    def _write_alias(self, alias: str, content: dict[str, Any]) -> None:
        directory = self.root / "aliases"
        directory.mkdir(parents=True, exist_ok=True)
        aside = directory / f".{alias}-{uuid.uuid4().hex}"
        aside.write_text(json.dumps(content, indent=2) + "\n")
        _sync(aside)
        aside.rename(directory / f"{alias}.json")
        _sync(directory)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _before(history: list[dict[str, Any]]) -> int | None:
    """Return the champion before this one: moves pile up, and a rollback takes off what it goes back behind."""
    pile: list[int] = []
    for move in history:
        version = int(move["version"])
        if move.get("is_rollback"):
            while pile and pile[-1] != version:
                pile.pop()
        elif not pile or pile[-1] != version:
            pile.append(version)
    return pile[-2] if len(pile) > 1 else None


def _directory_of(url: str) -> Path:
    parsed = urlparse(url)
    if parsed.scheme == "file":
        return Path(unquote(parsed.path))
    if "://" in url:
        raise SettingInvalid(f"registry.url = {url}: the scheme {parsed.scheme} is not supported; use a path or file://")
    return Path(url)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
