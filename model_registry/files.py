"""The registry on a file system: versions/N directories that never change, aliases/NAME.json that are replaced.

A version is written aside, synced, renamed: it is whole or it is not there; what a dead writer left aside, the next one
removes. Aliases move under one lock.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from foundation.aside import held, locked, sweep
from foundation.errors import FileChanged, ModelRefused
from model_registry.manifest import MANIFEST, Manifest, verify_files

_WRITING = ".writing-"


class FileStore:
    """Versions and aliases below one directory; nothing is created before something is published."""

    def __init__(self, root: Path) -> None:
        """Take the directory."""
        self.root = root
        self.place = str(root)

    def numbers(self) -> list[int]:
        """Return the numbers of all published versions, oldest first."""
        directory = self.root / "versions"
        return sorted(int(path.name) for path in directory.iterdir() if path.name.isdecimal()) if directory.is_dir() else []

    def manifest(self, number: int) -> bytes | None:
        """Return a version's manifest, None if there is no such version. Raises ModelRefused if it cannot be read."""
        directory = self.root / "versions" / str(number)
        if not directory.is_dir():
            return None
        try:
            return (directory / MANIFEST).read_bytes()
        except OSError as error:
            raise ModelRefused(f"the manifest {directory / MANIFEST} cannot be read: {error}") from error

    def directory(self, number: int, digest: str) -> Path:
        """Return the directory of a version."""
        del digest  # a number has one directory here
        return self.root / "versions" / str(number)

    def check(self, number: int, digest: str, manifest: Manifest) -> None:
        """Compare every file with its digest. Raises FileChanged naming one."""
        verify_files(self.directory(number, digest), manifest)

    def read(self, number: int, name: str) -> bytes:
        """Return one file of a version. Raises FileChanged if it cannot be read."""
        path = self.root / "versions" / str(number) / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise FileChanged(f"{path} cannot be read, and the manifest lists it: {error.strerror}") from error

    def add(self, prepared: Path, manifest: Manifest) -> int:
        """Copy a prepared directory in as the next version, manifest last; the source stays. Raises FileChanged."""
        versions = self.root / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        sweep(versions, f"{_WRITING}*")
        aside = versions / f"{_WRITING}{uuid.uuid4().hex}"
        aside.mkdir()
        try:
            with held(aside):
                shutil.copytree(prepared, aside, dirs_exist_ok=True)
                verify_files(aside, manifest)
                (aside / MANIFEST).write_bytes(manifest.to_bytes())
                for path in [*aside.rglob("*"), aside]:
                    _sync(path)
                with locked(self.root / ".lock"):
                    number = max(self.numbers(), default=0) + 1
                    aside.rename(versions / str(number))
            _sync(versions)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return number

    def alias_names(self) -> list[str]:
        """Return the names of all aliases, in order."""
        return sorted(path.stem for path in (self.root / "aliases").glob("*.json"))

    def alias(self, name: str) -> bytes | None:
        """Return the file of an alias, None if there is none. Raises ModelRefused if it cannot be read."""
        path = self.root / "aliases" / f"{name}.json"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelRefused(f"the alias file {path} cannot be read: {error!r}") from error

    def change(self, name: str, step: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the file of an alias by what `step` makes of it, under the registry's lock; None leaves it."""
        with locked(self.root / ".lock"):
            content = step(self.alias(name))
            if content is not None:
                self._replace(name, content)

    def _replace(self, name: str, content: bytes) -> None:
        directory = self.root / "aliases"
        directory.mkdir(parents=True, exist_ok=True)
        for left in directory.glob(f".{name}-*"):  # of somebody who died here: the lock is ours
            left.unlink()
        aside = directory / f".{name}-{uuid.uuid4().hex}"
        aside.write_bytes(content)
        _sync(aside)
        aside.rename(directory / f"{name}.json")
        _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
