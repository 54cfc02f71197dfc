"""Secrets that lie in files of their own: keys and tokens, refused where they are too short to be one, and values of settings."""

from collections.abc import Mapping
from pathlib import Path

from foundation.errors import SettingInvalid

LEAST_BYTES = 16


def read_secret(setting: str, path: Path | None, what: str) -> bytes:
    """Return what the file of a setting holds, nothing where none is set; `what` names it in the sentence. Raises SettingInvalid."""
    if path is None:
        return b""
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        raise SettingInvalid(f"{setting} = {path} cannot be read: {error.strerror}") from error
    if len(found) < LEAST_BYTES:
        raise SettingInvalid(f"{setting} = {path} holds {len(found)} bytes; a {what} has at least {LEAST_BYTES}")
    return found


def read_named(setting: str, files: Mapping[str, Path]) -> dict[str, str]:
    """Return what the files of a setting hold, less the end of their last line, by their names. Raises SettingInvalid."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = path.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
            raise SettingInvalid(f'{setting}."{name}" = {path} cannot be read: {why}') from error
    return found
