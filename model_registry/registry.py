"""The registry: versions that never change, aliases that move with a history, pins and rollbacks.

Where all that is kept is a Store's affair: a directory (files.py) or a bucket (object_store.py); what it means is here.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlparse

from foundation.errors import ModelRefused, SettingInvalid, VersionMissing
from model_registry.aliases import Alias, Mark, mark_of, marks_to_bytes, moved, parse_alias, parse_marks
from model_registry.config import RegistrySettings
from model_registry.files import FileStore
from model_registry.manifest import BESIDE, MANIFEST, Manifest, digest_of_bytes, digest_of_file, parse_manifest, verify_digest
from model_registry.signing import check_keys, check_signature, sign
from model_registry.store import Store

CHAMPION, CHALLENGER = "champion", "challenger"
_DRIFT = "drift"
OBJECT_SCHEMES = ("s3", "gs", "az")


class Version(NamedTuple):
    """A published version: its number, its manifest, the manifest's digest, and where its files lie once they are verified."""

    number: int
    directory: Path
    manifest: Manifest
    digest: str

    @property
    def label(self) -> str:
        """`name@version`, as headers show it."""
        return f"{self.manifest.name}@{self.number}"


class Registry:
    """Versions and aliases in one store."""

    def __init__(self, settings: RegistrySettings) -> None:
        """Take the store of `registry.url`; nothing is created before something is published. Raises SettingInvalid."""
        self.name = settings.name
        self._store = _store_of(settings.url)
        self._signing_key, self._public_key = settings.signing_key, settings.public_key
        check_keys(self._signing_key, self._public_key)

    @property
    def place(self) -> str:
        """Where versions and aliases are kept, as messages name it."""
        return self._store.place

    @property
    def root(self) -> Path:
        """Directory on this machine: the registry itself, or where copies from an object store are kept."""
        return self._store.root

    def versions(self) -> list[int]:
        """Return the numbers of all published versions, oldest first."""
        return self._store.numbers()

    def resolve(self, reference: str) -> Version:
        """Return the version of a number, an alias, or name@number, its files unread. Raises VersionMissing, ModelRefused."""
        number = self._number_of(reference)
        raw = self._store.manifest(number)
        if raw is None:
            known = ", ".join(map(str, self.versions())) or "none"
            raise VersionMissing(f"version {number} is not in the registry {self._store.place}; there are: {known}")
        manifest = parse_manifest(raw, f"{self._store.place}/versions/{number}/{MANIFEST}")
        digest = digest_of_bytes(raw)
        return Version(number, self._store.directory(number, digest), manifest, digest)

    def verified(self, reference: str) -> Version:
        """Return a version after checking the digest of every file of it, and its signature where a key is set.

        Raises FileChanged naming the file, SignatureInvalid.
        """
        version = self.resolve(reference)
        self._store.check(version.number, version.digest, version.manifest)
        if self._public_key is not None:
            check_signature(version.directory, self._public_key, f"{self._store.place}/versions/{version.number}")
        return version

    def read(self, version: Version, name: str) -> bytes | None:
        """Return one verified file of a version without its others, None if it has none. Raises FileChanged."""
        if name not in version.manifest.files:
            return None
        content = self._store.read(version.number, name)
        verify_digest(f"{self._store.place}/versions/{version.number}/{name}", digest_of_bytes(content), version.manifest.files[name])
        return content

    def publish(self, prepared: Path, manifest: Manifest) -> Version:
        """Keep a prepared directory as the next version, manifest last, and return it, signed where a key is set; the source stays.

        Raises ModelRefused if the prepared files are not those of the manifest, SettingInvalid if the key cannot sign.
        """
        if self._signing_key is None:
            return self.resolve(str(self._store.add(prepared, manifest)))
        try:
            (prepared / MANIFEST).write_bytes(manifest.to_bytes())
            sign(prepared, self._signing_key)
            return self.resolve(str(self._store.add(prepared, manifest)))
        finally:
            for name in BESIDE:
                (prepared / name).unlink(missing_ok=True)

    def aliases(self) -> dict[str, int]:
        """Return where every alias points."""
        return {name: self._alias(name).version for name in self._alias_names()}

    def history(self, alias: str) -> list[dict[str, Any]]:
        """Return the moves of an alias, oldest first: version, time, why."""
        return self._alias(alias).history

    def point(self, alias: str, reference: str, why: str, *, pinned: bool | None = None) -> Version:
        """Move an alias to a version, in one step for every reader, and remember the move."""
        version = self.resolve(reference)
        self._change(alias, lambda old: moved(old, version.number, why, pinned=pinned))
        return version

    def promote(self, reference: str) -> Version:
        """Make a version the champion and lift a pin; its files are checked first."""
        version = self.verified(reference)
        return self.point(CHAMPION, str(version.number), "promoted", pinned=False)

    def advance(self, reference: str, over: str | None, why: str) -> bool:
        """Make a version the champion if that of digest `over` still is and no rollback has pinned it; return whether it is now.

        over None: if there is no champion yet.
        """
        version = self.verified(reference)

        def step(old: Alias | None) -> Alias | None:
            if over is None:
                return moved(old, version.number, why, pinned=False) if old is None else None
            if self.resolve(str(self._some(CHAMPION, old).version)).digest != over or (old is not None and old.pinned):
                return None
            return moved(old, version.number, why, pinned=False)

        return self._change(CHAMPION, step) is not None

    def rollback(self, only_from: str | None = None) -> Version:
        """Make the champion before this one the champion again, and pin it until `promote` or `unpin`.

        A second rollback goes one further back: what was rolled back from is not gone back to.
        only_from: a version's digest; if another version is champion by now, nothing moves and it is returned.
        """

        def step(old: Alias | None) -> Alias | None:
            champion = self._some(CHAMPION, old)
            if only_from is not None and self.resolve(str(champion.version)).digest != only_from:
                return None
            before = champion.before()
            if before is None:
                raise VersionMissing(f"there is no champion before version {champion.version} to roll back to in {self._store.place}")
            self.verified(str(before))
            return moved(champion, before, f"rolled back from {champion.version}", pinned=True, is_rollback=True)

        now = self._change(CHAMPION, step)
        return self.resolve(CHAMPION if now is None else str(now.version))

    def unpin(self) -> None:
        """Let training promote again after a rollback."""
        self._change(CHAMPION, lambda old: self._some(CHAMPION, old)._replace(pinned=False))

    def is_pinned(self) -> bool:
        """Whether a rollback holds the champion in place."""
        raw = self._store.alias(CHAMPION)
        return raw is not None and parse_alias(raw, self._where(CHAMPION)).pinned

    def drift(self, digest: str) -> Mark | None:
        """Return what was said of drift of the version of a digest, None where nothing was or a training has answered it."""
        marks = parse_marks(self._store.alias(_DRIFT))
        return next((mark for mark in marks if mark.digest == digest), None)

    def say_drift(self, digest: str, why: str) -> None:
        """Say that what the version of a digest lets through has changed; what was said of it before stays."""

        def step(raw: bytes | None) -> bytes | None:
            marks = parse_marks(raw)
            is_said = any(mark.digest == digest for mark in marks)
            return None if is_said else marks_to_bytes([*marks, mark_of(digest, why)])

        self._store.change(_DRIFT, step)

    def answer_drift(self, said: Mark) -> None:
        """Take back what was said: a training has learned from what has changed."""

        def step(raw: bytes | None) -> bytes | None:
            marks = parse_marks(raw)
            return marks_to_bytes([mark for mark in marks if mark != said]) if said in marks else None

        self._store.change(_DRIFT, step)

    def _alias_names(self) -> list[str]:
        return [name for name in self._store.alias_names() if name != _DRIFT]

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
        return int(bare) if bare.isdecimal() else self._alias(bare).version

    def _alias(self, alias: str) -> Alias:
        raw = self._store.alias(alias)
        return self._some(alias, None if raw is None else parse_alias(raw, self._where(alias)))

    def _some(self, alias: str, found: Alias | None) -> Alias:
        """Return an alias that is there. Raises VersionMissing, saying how to get one."""
        if found is None:
            hint = "`winnow train` publishes one" if not self.versions() else "`winnow registry promote` sets it"
            if alias not in (CHAMPION, CHALLENGER):
                hint = f"there are: {', '.join(self._alias_names()) or 'none'}"
            raise VersionMissing(f"the registry {self._store.place} (registry.url) has no alias {alias!r}; {hint}")
        return found

    def _change(self, alias: str, step: Callable[[Alias | None], Alias | None]) -> Alias | None:
        """Put what `step` makes of an alias in its place and return it; None if nothing moved."""
        now: Alias | None = None

        def change(raw: bytes | None) -> bytes | None:
            nonlocal now
            now = step(None if raw is None else parse_alias(raw, self._where(alias)))
            return None if now is None else now.to_bytes()

        self._store.change(alias, change)
        return now

    def _where(self, alias: str) -> str:
        return f"{self._store.place}/aliases/{alias}.json"


def _store_of(url: str) -> Store:
    parsed = urlparse(url)
    if "://" not in url:
        return FileStore(Path(url))
    if parsed.scheme == "file":
        return FileStore(Path(unquote(parsed.path)))
    if parsed.scheme in OBJECT_SCHEMES:
        from model_registry.object_store import ObjectStore  # who keeps versions in a directory needs no client

        return ObjectStore(url)
    raise SettingInvalid(f"registry.url = {url}: the scheme {parsed.scheme} is not supported; use a path, file://, s3://, gs:// or az://")
