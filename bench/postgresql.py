"""A real PostgreSQL of its own on 127.0.0.1, that can be stopped and started again; Debian's package `postgresql` brings the programs."""

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.broker import free_port
from demo.processes import die_with_parent

START_SECONDS = 60


def programs() -> Path | None:
    """Return the directory of the server's programs; None where they are not installed."""
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


class Server:
    """A server with its data; `url` names it without a database."""

    def __init__(self, programs: Path, place: Path) -> None:
        """Make its data in a directory of which everything above can be entered: it runs as another user where we are root."""
        self._programs, self._place, self._port = programs, place, free_port()
        self.url = f"postgresql+psycopg://winnow@127.0.0.1:{self._port}"
        self._user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        for directory in (place, *place.parents):
            if directory == Path(tempfile.gettempdir()):
                break
            directory.chmod(0o755)
        self._data = place / "data"
        self._data.mkdir()
        shutil.chown(self._data, self._user or getpass.getuser())
        subprocess.run(
            [programs / "initdb", "-D", self._data, "-U", "winnow", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"],
            check=True, capture_output=True, cwd=self._data, user=self._user,
        )  # fmt: skip

    def start(self) -> None:
        """Start it and wait until it answers. Raises TimeoutError."""
        command: list[str | Path] = [self._programs / "postgres", "-D", self._data, "-p", str(self._port), "-h", "127.0.0.1"]
        command += ["-k", "", "-c", "fsync=off"]  # no socket file; what a bench writes need not outlive the machine
        with (self._place / "log").open("a") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._data, preexec_fn=die_with_parent, user=self._user,  # noqa: PLW1509
            )  # fmt: skip
        asked: list[str | Path] = [self._programs / "pg_isready", "-h", "127.0.0.1", "-p", str(self._port)]
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(asked, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise TimeoutError(f"PostgreSQL does not answer within {START_SECONDS} s: {(self._place / 'log').read_text()[-500:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it at once, whoever is connected. Raises RuntimeError when it has ended by itself before."""
        if self._process.poll() is not None:
            said = (self._place / "log").read_text()[-2_000:]
            raise RuntimeError(f"PostgreSQL ended by itself with code {self._process.returncode}: {said}")
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)


@contextmanager
def postgresql(programs: Path, place: Path) -> Iterator[Server]:
    """Run a server in an empty directory until the block is left."""
    server = Server(programs, place)
    server.start()
    try:
        yield server
    finally:
        server.stop()
