"""A secret that lies in a file of its own, such as a key or a token: read, and refused where it is too short to be one."""

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
