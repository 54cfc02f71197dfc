"""A real S3 server process for tests: moto's, in an environment of its own, which wants an older python-dateutil than ours.

The environment is built once, from requirements-s3-server.txt, in the cache.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

from demo.broker import free_port
from demo.processes import die_with_parent
from tests.pinned import UV, Command, built, without_venv

PINS = Path(__file__).parents[1] / "requirements-s3-server.txt"
START_SECONDS = 60


class S3Server:
    """Where the server is, and how to make a bucket there."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.endpoint = f"http://127.0.0.1:{port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        }  # fmt: skip

    def make_bucket(self, name: str) -> None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()


@contextmanager
def s3_server(log: Path) -> Iterator[S3Server]:
    """Run a server on a free port of 127.0.0.1 until the block is left."""
    python, port = _python(), free_port()
    command = [python, Path(__file__).with_name("s3_server.py"), str(port)]
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=without_venv(), preexec_fn=die_with_parent) as process,
    ):
        try:
            deadline = time.monotonic() + START_SECONDS
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()[-2000:]
                    assert time.monotonic() < deadline, f"no S3 server within {START_SECONDS} s: {log.read_text()[-2000:]}"
                    time.sleep(0.1)
            yield S3Server(port)
        finally:
            process.terminate()
            process.wait(30)


def _python() -> Path:
    """Return the Python of moto's environment."""

    def commands(place: Path) -> list[Command]:
        python = place / "bin" / "python"
        return [
            [UV, "venv", "--quiet", "--clear", "--python", sys.executable, place],
            [UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", PINS],
        ]

    return built("s3-server", PINS.read_bytes(), commands) / "bin" / "python"
