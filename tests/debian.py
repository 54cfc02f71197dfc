"""Programs that tests need from Debian's packages: found, installed when we are root on Debian, else the test is skipped."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from foundation.cache import cache_directory
from tests.conftest import skip_or_fail

INSTALL_SECONDS = 300
AXE = "axe-core@4.10.3"


def program(package: str, find: Callable[[], Path | None]) -> Path:
    """Return a program's path, after installing its package if that is possible; else skip, or fail where all must run."""
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
    return program("postgresql", lambda: next((p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None))


def chromium() -> Path:
    """Return Chromium."""
    return program("chromium", lambda: next((Path(p) for name in ("chromium", "chromium-browser") if (p := shutil.which(name))), None))


def openssl() -> Path:
    """Return the program that makes keys and certificates."""
    return program("openssl", lambda: Path(found) if (found := shutil.which("openssl")) else None)


def axe_script() -> Path:
    """Return axe-core's script, fetched by npm into the cache once."""
    place = cache_directory() / "axe"
    script = place / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        npm = program("npm", lambda: Path(found) if (found := shutil.which("npm")) else None)
        place.mkdir(parents=True, exist_ok=True)
        command = [npm, "install", "--prefix", place, "--no-audit", "--no-fund", "--no-package-lock", AXE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        if not script.is_file():
            skip_or_fail(f"npm could not fetch {AXE}: {done.stderr[-300:]}")
    return script
