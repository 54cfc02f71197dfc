"""Log lines on stderr: one JSON object each for machines, one plain line each for a terminal.

Normal operation emits nothing. Records' contents never enter a log; ids, counts and setting names do.
"""

import json
import logging
import os
import re
import sys
import time
from datetime import UTC, datetime

_DIGITS = re.compile(r"\d+")
_MOST_KEPT = 1_000
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """Format a log record as one JSON object: time, level, logger, event, then the fields given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a newline."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class Seldom(logging.Filter):
    """Let a line through that was not said in the last seconds; a client that cannot connect says so 20 times a second."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        """Lines count as the same when they differ in digits alone."""
        super().__init__()
        self._every_seconds = every_seconds
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is to be written."""
        line = _DIGITS.sub("", f"{record.getMessage()}{getattr(record, 'detail', '')}")
        now = time.monotonic()
        if now - self._said.get(line, -self._every_seconds) < self._every_seconds:
            return False
        if len(self._said) > _MOST_KEPT:
            self._said.clear()
        self._said[line] = now
        return True


def quiet_libraries() -> None:
    """Keep the model libraries' own bars and notices off stderr; winnow shows its own progress."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def set_up(level: int = logging.WARNING) -> None:
    """Send winnow's logs to stderr at `level`; JSON lines unless stderr is a terminal."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.addFilter(Seldom())
    handler.setFormatter(plain if sys.stderr.isatty() else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
