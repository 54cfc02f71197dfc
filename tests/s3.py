"""A real S3 server process for tests: moto's, in an environment of its own, which wants an older python-dateutil than ours.

The environment is built once, from requirements-s3-server.txt, in the cache.
"""

import fcntl
import hashlib
import os
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
from foundation.cache import cache_directory
from tests.conftest import skip_or_fail

PINS = Path(__file__).parents[1] / "requirements-s3-server.txt"
BUILD_SECONDS = 300
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
        subprocess.Popen(command, stdout=out, stderr=out, env=_without_venv(), preexec_fn=die_with_parent) as process,
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
    """Return the Python of moto's environment, built now if it is not there."""
    place = cache_directory() / f"s3-server-{hashlib.sha256(PINS.read_bytes()).hexdigest()[:12]}"
    python, ready = place / "bin" / "python", place / "ready"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_file():
            uv = Path(sys.executable).with_name("uv")
            for command in (
                [uv, "venv", "--quiet", "--clear", "--python", sys.executable, place],
                [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", PINS],
            ):
                done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False, env=_without_venv())
                if done.returncode != 0:
                    skip_or_fail(f"the environment of the S3 server could not be built: {done.stderr[-300:]}")
            ready.touch()
    return python


def _without_venv() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
