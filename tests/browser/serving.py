"""The review service as a process of its own, as an operator starts it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from foundation.settings import as_toml

WINNOW = [sys.executable, "-m", "winnow"]


def settings_file(tables: SimpleNamespace, place: Path) -> Path:
    """Write the tables as winnow.toml."""
    path = place / "winnow.toml"
    path.write_text(as_toml(vars(tables)), encoding="utf-8")
    return path


@contextmanager
def served(tables: SimpleNamespace) -> Iterator[str]:
    """Start `winnow review` and yield its address."""
    with tempfile.TemporaryDirectory() as place:
        command = [*WINNOW, "review", "--config", str(settings_file(tables, Path(place)))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                said = service.stdout.readline().split()
                assert said[:1] == ["ready"], said
                yield said[1]
            finally:
                service.terminate()
                service.wait(60)
