"""A process whose calendar clock can be set while it runs: set_clock.c is compiled and loaded into it."""

import shutil
import struct
import subprocess
from pathlib import Path

from foundation.errors import WinnowError

_SOURCE = Path(__file__).with_suffix(".c")
_SECONDS = struct.Struct("=q")


def compiler() -> str | None:
    """Return the C compiler, None where there is none."""
    return shutil.which("cc")


class Clock:
    """The clock of the processes that are started with its environment."""

    def __init__(self, place: Path) -> None:
        """Compile the library into a directory; the clock is right at first. Raises WinnowError."""
        library, self._file = place / "set_clock.so", place / "set_clock"
        command: list[str | Path] = [compiler() or "cc", "-O2", "-shared", "-fPIC", "-o", library, _SOURCE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise WinnowError(f"{_SOURCE.name} could not be compiled: {done.stderr[-300:]}")
        self._file.write_bytes(_SECONDS.pack(0))
        self.environment = {"LD_PRELOAD": str(library), "SET_CLOCK_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """Set it to so many seconds after the machine's clock, or before it."""
        with self._file.open("r+b") as file:
            file.write(_SECONDS.pack(seconds))
