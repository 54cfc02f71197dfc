"""The registry in a bucket: the same names as in a directory, made safe by conditional puts instead of a lock and a rename.

claims/N        created once by whoever publishes N, and kept: from then on nobody else writes below versions/N
versions/N/...  the files, then the manifest, which makes them a version; without it there is none
aliases/NAME    replaced only by who has read its last state (compare and swap)

Gates load from copies on this machine, one directory per manifest digest below the cache, shared by all of a user's processes.
"""

import json
import random
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from foundation.aside import locked
from foundation.cache import cache_directory
from foundation.errors import FileChanged, ModelRefused
from model_registry.bucket import Bucket
from model_registry.manifest import (
    MANIFEST,
    SIGNATURE,
    Manifest,
    digest_of_bytes,
    digest_of_file,
    verify_digest,
    verify_files,
    verify_names,
)

MOST_TRIES = 100
_PAUSE_SECONDS = 0.02
_LONGEST_PAUSE_SECONDS = 0.5


class ObjectStore:
    """Versions and aliases below one URL. Everything raises RegistryUnreachable."""

    def __init__(self, url: str) -> None:
        """Take an s3://, gs:// or az:// URL; nothing is asked yet."""
        self._bucket = Bucket(url)
        self.place = self._bucket.url
        self.root = cache_directory() / "models"

    def numbers(self) -> list[int]:
        """Return the numbers of the versions whose manifest is there, oldest first."""
        parts = [path.split("/") for path in self._bucket.names("versions")]
        return sorted(int(number) for number, *rest in parts if rest == [MANIFEST] and number.isdecimal())

    def manifest(self, number: int) -> bytes | None:
        """Return a version's manifest, None if there is no such version."""
        found = self._bucket.get(f"versions/{number}/{MANIFEST}")
        return None if found is None else found.content

    def directory(self, number: int, digest: str) -> Path:
        """Return where the copy of a version lies on this machine, once it is checked."""
        del number  # the same content has one copy, whatever it is called
        return self.root / digest.removeprefix("sha256:")

    def check(self, number: int, digest: str, manifest: Manifest) -> None:
        """Fetch what is not here or is another object now, and compare every file with its digest. Raises FileChanged."""
        tags = self._bucket.names(f"versions/{number}")
        verify_names(f"{self.place}/versions/{number}", tags, manifest)
        for name in manifest.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise FileChanged(f"{self.place}/versions/{number}: the manifest lists {name}, which lies outside")
        copy = self.directory(number, digest)
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(copy.with_suffix(".lock")):  # one process of this machine fetches it; the others find it there
                self._complete(copy, number, digest, manifest, tags)
                try:
                    verify_files(copy, manifest)
                except FileChanged:  # the copy was changed on this machine; the store's own may well be whole
                    shutil.rmtree(copy)
                    self._complete(copy, number, digest, manifest, tags)
                    verify_files(copy, manifest)
        except OSError as error:
            raise ModelRefused(f"a copy of {self.place}/versions/{number} cannot be kept in {copy}: {error}; see WINNOW_CACHE") from error

    def read(self, number: int, name: str) -> bytes:
        """Return one file of a version. Raises FileChanged if it is missing."""
        found = self._bucket.get(f"versions/{number}/{name}")
        if found is None:
            raise FileChanged(f"{self.place}/versions/{number}/{name} is missing; the manifest lists it")
        return found.content

    def add(self, prepared: Path, manifest: Manifest) -> int:
        """Claim the next number, write the files, then the manifest, and return the number.

        A crash before the last step leaves a number that is skipped and files that nobody reads.
        """
        if not prepared.is_dir():
            raise NotADirectoryError(f"{prepared} is no directory")
        verify_files(prepared, manifest)
        number = self._claim()
        for name in manifest.files:
            self._bucket.upload(f"versions/{number}/{name}", prepared / name)
        if (prepared / SIGNATURE).is_file():
            self._bucket.upload(f"versions/{number}/{SIGNATURE}", prepared / SIGNATURE)
        path, content = f"versions/{number}/{MANIFEST}", manifest.to_bytes()
        if not self._bucket.put(path, content, "create") and self.manifest(number) != content:
            raise ModelRefused(f"{self.place}/{path} was written by somebody else, who had not claimed {number}")
        return number

    def alias_names(self) -> list[str]:
        """Return the names of all aliases, in order."""
        return sorted(path.removesuffix(".json") for path in self._bucket.names("aliases") if path.endswith(".json"))

    def alias(self, name: str) -> bytes | None:
        """Return the object of an alias, None if there is none."""
        found = self._bucket.get(f"aliases/{name}.json")
        return None if found is None else found.content

    def change(self, name: str, step: Callable[[bytes | None], bytes | None]) -> None:
        """Replace the object of an alias by what `step` makes of it, over and over until nobody came in between."""
        path, written = f"aliases/{name}.json", b""
        for attempt in range(MOST_TRIES):
            found = self._bucket.get(path)
            if found is not None and found.content == written:
                return  # it had been written, and the answer got lost
            content = step(None if found is None else found.content)
            if content is None:
                return
            # two who make the same move in the same second must not take each other's object for their own
            written = _marked(content, uuid.uuid4().hex)
            if self._bucket.put(path, written, "create" if found is None else found.stamp):
                return
            time.sleep(random.uniform(0, min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2**attempt)))
        raise ModelRefused(f"{self.place}/{path} was moved by others {MOST_TRIES} times while it was to be moved; try again")

    def _claim(self) -> int:
        """Return the next number, which from now on is ours alone. Claims are never deleted: a slow publisher might take it again."""
        taken = [path.split("/")[0] for prefix in ("versions", "claims") for path in self._bucket.names(prefix)]
        number = max((int(name) for name in taken if name.isdecimal()), default=0) + 1
        while not self._bucket.put(f"claims/{number}", uuid.uuid4().hex.encode(), "create"):
            number += 1
        return number

    def _complete(self, copy: Path, number: int, digest: str, manifest: Manifest, tags: dict[str, str]) -> None:
        """Download every file that the copy lacks, or that was seen under another tag; each is checked, then renamed in."""
        content = self.manifest(number) or b""
        verify_digest(f"{self.place}/versions/{number}/{MANIFEST}", digest_of_bytes(content), digest)
        copy.mkdir(mode=0o700, exist_ok=True)
        notes = copy.with_suffix(".tags")
        seen = json.loads(notes.read_bytes()) if notes.is_file() else {}
        aside = copy.with_suffix(".writing")
        for name, published in manifest.files.items():
            target = copy / name
            if target.is_file() and seen.get(name) == tags[name]:
                continue
            self._bucket.download(f"versions/{number}/{name}", aside)
            verify_digest(f"{self.place}/versions/{number}/{name}", digest_of_file(aside), published)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(target)
            seen[name] = tags[name]
            aside.write_text(json.dumps(seen))
            aside.rename(notes)
        if SIGNATURE in tags:  # another process may be looking at the one that is here: it is replaced in one step
            self._bucket.download(f"versions/{number}/{SIGNATURE}", aside)
            aside.rename(copy / SIGNATURE)
        else:
            (copy / SIGNATURE).unlink(missing_ok=True)
        if not (copy / MANIFEST).is_file() or (copy / MANIFEST).read_bytes() != content:
            aside.write_bytes(content)
            aside.rename(copy / MANIFEST)


def _marked(content: bytes, mark: str) -> bytes:
    return (json.dumps({**json.loads(content), "written": mark}, indent=2) + "\n").encode()
