"""A real S3 server process on 127.0.0.1, moto's, that can be made to answer nothing for a while.

moto wants another python-dateutil than winnow, so it lies in a place of its own; requirements-s3-server.txt pins it.
"""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from bench.paused import pause, resume
from demo.broker import free_port
from demo.processes import die_with_parent, without_venv

START_SECONDS = 60


class S3Server:
    """Where the server is, and how to make a bucket there."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        """Know a server that runs."""
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"
        self._process = process

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        }  # fmt: skip

    def make_bucket(self, name: str) -> None:
        """Make an empty bucket. Raises OSError."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", f"/{name}")
        status = connection.getresponse().status
        connection.close()
        if status != 200:  # noqa: PLR2004
            raise OSError(f"the bucket {name} could not be made: status {status}")

    def fall_silent(self) -> None:
        """Take connections and answer none, as a store behind a network that has gone."""
        pause(self._process)

    def answer(self) -> None:
        """Answer again."""
        resume(self._process)


@contextmanager
def s3_server(python: Path | str, log: Path, packages: Path | None = None) -> Iterator[S3Server]:
    """Run a server on a free port until the block is left, by a Python that finds moto, or finds it among `packages`."""
    port = free_port()
    environment = without_venv()
    if packages is not None:
        environment["PYTHONPATH"] = str(packages)
    command = [python, Path(__file__).with_name("s3_server.py"), str(port)]
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=environment, preexec_fn=die_with_parent) as process,  # noqa: PLW1509
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _is_open(port):
                if process.poll() is not None:
                    raise RuntimeError(f"the S3 server ended by itself with code {process.returncode}: {log.read_text()[-2_000:]}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no S3 server within {START_SECONDS} s: {log.read_text()[-2_000:]}")
                time.sleep(0.1)
            yield S3Server(port, process)
        finally:
            resume(process)
            process.terminate()
            process.wait(30)


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
