"""The files of a starter's directory: what they are called, their digest, and how a person's records leave them.

Enters: starter directories. Knows no model: what is erased are the unlabelled records, not what weights have learned of them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from model_registry.manifest import digest_of_bytes, files_of

FACTS, UNLABELLED = "starter.json", "unlabelled.jsonl"


def erase_from_starters(places: Sequence[Path], values: set[bytes]) -> dict[str, int]:
    """Write each starter's unlabelled records again without those values, and its digest; a place without them loses none."""
    contents = {value.decode("utf-8", "replace") for value in values}
    return {str(place): _erased(place, contents) for place in places if (place / UNLABELLED).is_file()}


def _erased(place: Path, contents: set[str]) -> int:
    path, aside = place / UNLABELLED, place / f".{UNLABELLED}"
    gone = 0
    with path.open(encoding="utf-8") as lines, aside.open("w", encoding="utf-8") as kept:
        for line in lines:
            if json.loads(line) in contents:
                gone += 1
            else:
                kept.write(line)
        kept.flush()
        os.fsync(kept.fileno())
    if not gone:
        aside.unlink()
        return 0
    aside.replace(path)
    facts = json.loads((place / FACTS).read_text())
    told = {**facts, "erased": int(facts.get("erased", 0)) + gone, "digest": digest_of(place)}
    (place / FACTS).write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n")
    return gone


def digest_of(directory: Path) -> str:
    """Return `sha256:` over the names and contents of all files below, starter.json apart."""
    files = {name: digest for name, digest in files_of(directory).items() if name != FACTS}
    return digest_of_bytes(json.dumps(files, sort_keys=True).encode())
