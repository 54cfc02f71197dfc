"""The files of a starter's directory: what they are called, their digest, and how a person's records leave them.

Enters: starter directories. Knows no model: what is erased are the unlabelled records, not what weights have learned of them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from foundation.errors import SettingInvalid
from model_registry.manifest import digest_of_bytes, files_of

FACTS, UNLABELLED = "starter.json", "unlabelled.jsonl"


def starters_of(base: str | None) -> list[Path]:
    """Return the directory of `train.base` where that is a starter."""
    return [Path(base)] if base is not None and (Path(base) / UNLABELLED).is_file() else []


def erase_from_starters(places: Sequence[Path], values: set[bytes]) -> dict[str, int]:
    """Write each starter's unlabelled records again without those values, and its digest. Raises SettingInvalid."""
    for place in places:
        if not (place / UNLABELLED).is_file():
            raise SettingInvalid(f"--starter {place} holds no {UNLABELLED}; nothing has been erased")
    contents = {value.decode("utf-8", "replace") for value in values}
    return {str(place): _erased(place, contents) for place in places}


def _erased(place: Path, contents: set[str]) -> int:
    kept, gone = [], 0
    with (place / UNLABELLED).open(encoding="utf-8") as lines:
        for line in lines:
            if json.loads(line) in contents:
                gone += 1
            else:
                kept.append(line)
    if gone:
        _write(place / UNLABELLED, "".join(kept))
    facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
    digest = digest_of(place)
    if digest != facts.get("digest"):  # also where somebody died between the two
        told = {**facts, "erased": int(facts.get("erased", 0)) + gone, "digest": digest}
        _write(place / FACTS, json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    return gone


def _write(path: Path, text: str) -> None:
    """Replace a file in one step."""
    aside = path.parent / f".{path.name}"
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def digest_of(directory: Path) -> str:
    """Return `sha256:` over the names and contents of all files below, starter.json apart."""
    files = {name: digest for name, digest in files_of(directory).items() if name != FACTS}
    return digest_of_bytes(json.dumps(files, sort_keys=True).encode())
