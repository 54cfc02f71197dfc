"""A real schema registry for tests: Apicurio, which speaks Confluent's API, on the Java of the embedded broker."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.paused import paused
from demo.broker import find_java, free_port
from demo.processes import die_with_parent, without_venv
from tests.fetch_apicurio import SHA256
from tests.pinned import built

START_SECONDS = 120


class Apicurio:
    """Where the registry is, and how to stop it for a while."""

    def __init__(self, port: int, process: "subprocess.Popen[bytes]") -> None:
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        self._process = process

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let nobody have an answer inside the block."""
        with paused(self._process):
            yield

    def takes_schemas(self) -> bool:
        """Register a schema: one that only answers questions may still leave the first schema it is given without an answer for ever."""
        body = json.dumps({"schema": '"string"'}).encode()
        asked = urllib.request.Request(f"{self.url}/subjects/ready/versions", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False


@contextmanager
def apicurio_server(log: Path) -> Iterator[Apicurio]:
    """Run a registry on a free port of 127.0.0.1, its schemas in memory, until the block is left."""
    script = Path(__file__).with_name("fetch_apicurio.py")
    place = built("apicurio", SHA256.encode(), lambda place: [[sys.executable, script, place]])
    port = free_port()
    command = [
        find_java(), "-Xmx256m", "-XX:+UseSerialGC", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}",
        "-Dquarkus.management.host=127.0.0.1", f"-Dquarkus.management.port={free_port()}",  # else 9000, for every registry
        "-jar", place / "quarkus-run.jar",
    ]  # fmt: skip
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=out, env=without_venv(), cwd=log.parent, preexec_fn=die_with_parent) as process,
    ):
        try:
            found, deadline = Apicurio(port, process), time.monotonic() + START_SECONDS
            while not found.takes_schemas():
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < deadline, f"no schema registry within {START_SECONDS} s: {log.read_text()[-2000:]}"
                time.sleep(0.5)
            yield found
        finally:
            process.kill()
            process.wait(30)
