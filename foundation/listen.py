"""An HTTP service on one port, until told to stop: the port is opened first, so that a taken one is said at once."""

import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from foundation.errors import SettingInvalid


class Serving:
    """Whether the service is to end, by a signal or by a part of its own that cannot go on."""

    def __init__(self) -> None:
        """Take SIGTERM and Ctrl-C; before there is a server they end the process with code 0."""
        self._server: uvicorn.Server | None = None
        self._is_over = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._leave)

    def end(self) -> None:
        """Let the server finish what it is answering, and end."""
        self._is_over = True
        if self._server is not None:
            self._server.should_exit = True

    def run(self, app: Any, listener: socket.socket) -> None:
        """Say `ready URL` on stdout and serve until told to stop; a part may have failed before there was a server."""
        self._server = _Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False))
        if self._is_over:
            return
        host, port = listener.getsockname()[:2]
        print(f"ready http://{host}:{port}", flush=True)  # noqa: T201
        self._server.run(sockets=[listener])

    def _leave(self, *_: object) -> None:
        if self._server is None:
            sys.exit(0)
        self.end()


class _Server(uvicorn.Server):
    """uvicorn, which would end the process by the signal it was stopped with; being told to stop is no failure."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to Serving."""
        yield


def listen(table: str, bind: str, port: int) -> socket.socket:
    """Open a port; `table` names the settings it comes from. Raises SettingInvalid."""
    # without the protocol's number asyncio leaves Nagle's algorithm on, and every answer waits 40 ms
    listener = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bind, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise SettingInvalid(f"{table}.port = {port} on {bind} cannot be used: {error.strerror}") from error
    return listener


def is_loopback(bind: str) -> bool:
    """Return whether only this machine can reach an address."""
    try:
        return bind == "localhost" or ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False
