"""Where things that can be fetched again are kept on this machine: jars, copies of model versions."""

import os
from pathlib import Path


def cache_directory() -> Path:
    """Return WINNOW_CACHE, else the user's cache directory."""
    chosen = os.environ.get("WINNOW_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "winnow"
    return Path(chosen).expanduser()
