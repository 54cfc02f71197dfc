"""A process that answers nobody for a while and closes no connection, as one on a machine that hangs.

Enters: a process that this one started. Leaves: the same process, stopped as a whole, and later going on.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def pause(process: "subprocess.Popen[Any]") -> None:
    """Stop it, and return when the last of its threads stands: the signal alone lets them answer for some milliseconds more.

    Raises RuntimeError when it ends instead.
    """
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        process.returncode = os.waitstatus_to_exitcode(status)
        raise RuntimeError(f"process {process.pid} ended with {process.returncode} instead of standing still")


def resume(process: "subprocess.Popen[Any]") -> None:
    """Let it go on."""
    process.send_signal(signal.SIGCONT)


@contextmanager
def paused(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Let it answer nobody inside the block."""
    pause(process)
    try:
        yield
    finally:
        resume(process)
