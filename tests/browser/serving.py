"""The review service as a process of its own, as an operator starts it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from demo.processes import running, wait_ready
from foundation.settings import as_toml


def settings_file(tables: SimpleNamespace, place: Path) -> Path:
    """Write the tables as winnow.toml."""
    path = place / "winnow.toml"
    path.write_text(as_toml(vars(tables)), encoding="utf-8")
    return path


@contextmanager
def served(tables: SimpleNamespace) -> Iterator[str]:
    """Start `winnow review` and yield its address."""
    with tempfile.TemporaryDirectory() as place:
        with running("review", settings_file(tables, Path(place))) as service:
            yield wait_ready(service, "the review service")
