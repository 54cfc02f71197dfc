"""moto's S3 server as a process of its own: `python s3_server.py PORT`; run by the Python of its own environment.

moto compares and writes an object in two steps and serves requests side by side. Here writes wait for each other, so that
a conditional put is the one step that it is in a real store.
"""

import sys
import threading
from collections.abc import Callable, Iterable

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

moto = DomainDispatcherApplication(create_backend_app)
writing = threading.Lock()


def app(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer a request; one that writes waits for the one before it."""
    if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        found: Iterable[bytes] = moto(environ, start_response)
        return found
    with writing:
        return list(moto(environ, start_response))


run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=MotoRequestHandler)
