"""Locks that end with their process: on a file, for work that one process does alone; on a directory that must not outlive its writer.

Enters: a lock file, a directory to hold, or a parent to look through. Leaves: nothing that nobody holds.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_YOUNG_SECONDS = 60.0


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made with its directory if missing, once every other process of this machine has let it go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold an existing directory, so that `sweep` leaves it alone."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep(parent: Path, pattern: str) -> None:
    """Remove the directories below that nobody holds, are ours, and are older than the moment between making and holding one."""
    for left in parent.glob(pattern):
        with suppress(OSError):  # gone meanwhile, or not ours to open
            found = left.lstat()
            if left.is_symlink() or not left.is_dir() or found.st_uid != os.getuid() or time.time() - found.st_mtime < _YOUNG_SECONDS:
                continue
            descriptor = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(descriptor)
