"""What the registry asks of the place where it keeps versions and aliases; a file system and an object store give it."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from model_registry.manifest import Manifest


class Store(Protocol):
    """Versions that are whole or not there, and aliases that change one after the other."""

    place: str
    """Path or URL, as sentences name it."""
    root: Path
    """Directory on this machine below which versions' files lie."""

    def numbers(self) -> list[int]:
        """Return the numbers of the versions that are whole, oldest first."""

    def manifest(self, number: int) -> bytes | None:
        """Return a version's manifest as it is kept, None if there is no such version."""

    def directory(self, number: int, digest: str) -> Path:
        """Return where `check` puts, or finds, the files of a version; `digest` is that of its manifest."""

    def check(self, number: int, digest: str, manifest: Manifest) -> None:
        """See to it that `directory` holds exactly what the manifest lists. Raises FileChanged naming the file."""

    def read(self, number: int, name: str) -> bytes:
        """Return one file of a version, unchecked. Raises FileChanged if it is missing."""

    def add(self, prepared: Path, manifest: Manifest) -> int:
        """Keep the prepared files as the next version, whole or not at all, and return its number. Raises FileChanged."""

    def alias_names(self) -> list[str]:
        """Return the names of all aliases, in order."""

    def alias(self, name: str) -> bytes | None:
        """Return what is kept of an alias, None if there is none."""

    def change(self, name: str, step: Callable[[bytes | None], bytes | None]) -> None:
        """Put what `step` makes of an alias in its place; None leaves it. No other change comes in between.

        `step` may be asked again when another process was faster.
        """
