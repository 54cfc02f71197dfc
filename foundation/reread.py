"""A file that somebody edits while we run: read again when it has changed; one that cannot be used leaves what was read before.

Enters: a path and how to read it. Leaves: the value of the last file that could be read.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Generic, TypeVar

from foundation.errors import WinnowError

log = logging.getLogger("winnow")
Value = TypeVar("Value")
_Signature = tuple[int, int, int] | None


class Reread(Generic[Value]):
    """The value of a file, looked at once a second at most; any thread may ask."""

    def __init__(self, path: Path | None, read: Callable[[Path | None], Value], every_seconds: float = 1.0) -> None:
        """Read it once. Raises what `read` raises."""
        self._path = path
        self._read = read
        self._every_seconds = every_seconds
        self._lock = Lock()
        self._signature = _signature_of(path)
        self._looked = time.monotonic()
        self._value = read(path)

    @property
    def value(self) -> Value:
        """What the file said when it could last be read."""
        now = time.monotonic()
        if self._path is None or now - self._looked < self._every_seconds:
            return self._value
        with self._lock:
            self._looked = now
            signature = _signature_of(self._path)
            if signature != self._signature:
                self._signature = signature
                try:
                    self._value = self._read(self._path)
                except WinnowError as error:
                    log.error("a changed file cannot be used; what it said before is in force", extra={"detail": str(error)})  # noqa: TRY400
        return self._value


def _signature_of(path: Path | None) -> _Signature:
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_size, found.st_ino)
