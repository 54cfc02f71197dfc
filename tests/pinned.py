"""What tests need beside winnow's own environment: built once from pins, in the cache, by whoever comes first."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from demo.processes import without_venv
from foundation.aside import locked
from foundation.cache import cache_directory
from tests.conftest import skip_or_fail
from tests.debian import on_path, program

BUILD_SECONDS = 300
UV = Path(sys.executable).with_name("uv")
Command = Sequence[str | Path]


def built(name: str, pins: bytes, commands: Callable[[Path], Sequence[Command]]) -> Path:
    """Return the directory that the commands fill, filled now if it is not there; skips, or fails, where it cannot be."""
    place = cache_directory() / f"{name}-{hashlib.sha256(pins).hexdigest()[:12]}"
    ready = place / "ready"
    with locked(place.with_suffix(".lock")):
        if not ready.is_file():
            for command in commands(place):
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env=without_venv())
                if done.returncode != 0:
                    skip_or_fail(f"{name} could not be built: {done.stderr[-300:]}")
            ready.touch()
    return place


def npm_packages(name: str, *packages: str) -> Path:
    """Return the directory with `node_modules` of these packages."""

    def commands(place: Path) -> list[Command]:
        npm = program("npm", on_path("npm"))
        place.mkdir(parents=True, exist_ok=True)
        return [[npm, "install", "--prefix", place, "--no-audit", "--no-fund", "--no-package-lock", *packages]]

    return built(name, " ".join(packages).encode(), commands)


def go_program(module: str) -> Path:
    """Return a program built from a Go module, given as path@version."""
    name = module.partition("@")[0].rpartition("/")[2]

    def commands(place: Path) -> list[Command]:
        return [["env", f"GOBIN={place}", program("golang-go", on_path("go")), "install", module]]

    return built(f"go-{name}", module.encode(), commands) / name
