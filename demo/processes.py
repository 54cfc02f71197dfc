"""winnow's own commands as processes of their own, as an operator starts them; they end with the one that started them."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from foundation.errors import WinnowError

_PATIENCE_SECONDS = 30.0
_PARENT_DIED_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask Linux to send us a signal when the thread that started us dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PARENT_DIED_SIGNAL, number)


def without_venv() -> dict[str, str]:
    """Return this process's environment without what points at its own packages."""
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}


def start(command: str, config: Path, **beside: str) -> "subprocess.Popen[str]":
    """Start `winnow COMMAND --config CONFIG`, with the settings of that file alone; `beside` are further environment variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINNOW_")} | beside
    return subprocess.Popen(
        [sys.executable, "-m", "winnow", *command.split(), "--config", str(config)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509
    )


@contextmanager
def running(command: str, config: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a command as `start` does, and end it when the block is left."""
    process = start(command, config)
    try:
        yield process
    finally:
        end(process)


def wait_ready(process: "subprocess.Popen[str]", name: str) -> str:
    """Return what a service says when it is ready: its address. Raises WinnowError when it ends instead."""
    assert process.stdout is not None
    said = process.stdout.readline().split()
    if said[:1] != ["ready"]:
        raise WinnowError(f"{name} did not come up")
    return said[1]


def end(process: "subprocess.Popen[str]") -> None:
    """Ask a process to end, and end it if it does not."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_SECONDS)
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()
