"""Programs that tests need from Debian's packages: found, installed when we are root on Debian, else the test is skipped."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.postgresql import programs
from foundation.aside import locked
from foundation.cache import cache_directory
from tests.conftest import skip_or_fail

INSTALL_SECONDS = 300


def program(package: str, find: Callable[[], Path | None]) -> Path:
    """Return a program's path, after installing its package if that is possible; else skip, or fail where all must run."""
    with locked(cache_directory() / "debian.lock"):  # apt itself refuses a second one
        return _installed(package, find)


def on_path(name: str) -> Callable[[], Path | None]:
    """Return how to look for a program on PATH."""
    return lambda: Path(found) if (found := shutil.which(name)) else None


def _installed(package: str, find: Callable[[], Path | None]) -> Path:
    found = find()
    if found is not None:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]):
            done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        found = find()
        if found is None:
            skip_or_fail(f"the Debian package {package} could not be installed: {done.stderr[-300:]}")
    if found is None:
        skip_or_fail(f"this test needs the Debian package {package}; as root on Debian it is installed by itself")
    assert found is not None
    return found


def postgres() -> Path:
    """Return the directory of PostgreSQL's server programs."""
    return program("postgresql", programs)


def chromium() -> Path:
    """Return Chromium."""
    return program("chromium", lambda: next((Path(p) for name in ("chromium", "chromium-browser") if (p := shutil.which(name))), None))


def openssl() -> Path:
    """Return the program that makes keys and certificates."""
    return program("openssl", on_path("openssl"))
