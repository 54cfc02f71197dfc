"""Environments of their own for tests: built once from hashed pins, in the cache, by whoever comes first."""

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from foundation.cache import cache_directory
from tests.conftest import skip_or_fail

BUILD_SECONDS = 300
UV = Path(sys.executable).with_name("uv")
Command = Sequence[str | Path]


def built(name: str, pins: Path, commands: Callable[[Path], Sequence[Command]]) -> Path:
    """Return the directory that the commands fill, filled now if it is not there; skips, or fails, where it cannot be."""
    place = cache_directory() / f"{name}-{hashlib.sha256(pins.read_bytes()).hexdigest()[:12]}"
    ready = place / "ready"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_file():
            for command in commands(place):
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env=without_venv())
                if done.returncode != 0:
                    skip_or_fail(f"the environment of {name} could not be built: {done.stderr[-300:]}")
            ready.touch()
    return place


def without_venv() -> dict[str, str]:
    """Return this process's environment without what points at its own packages."""
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
