"""The manifest: everything a gate must know about a version beside its weights, and the digest of every file.

Leaves: a frozen model, canonical JSON bytes, and their digest, which names the version's content in every header.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from foundation.errors import FileChanged, ModelRefused

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"
BESIDE = frozenset({MANIFEST, SIGNATURE})
"""What lies beside the files that a manifest lists."""
_PIECE_BYTES = 1 << 20


class Calibration(BaseModel):
    """p_chosen = σ(d / temperature + bias)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    temperature: float = 1.0
    bias: float = 0.0


class Threshold(BaseModel):
    """The p_chosen from which a record is clean, how it was chosen, and whether it is certified.

    A certificate says: `wrong` of `n` passing audit draws were wrong, so at most alpha are, with confidence 1 - delta.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    p_chosen: float
    chosen_by: str
    certified: bool = False
    reason: str = ""
    alpha: float | None = None
    delta: float | None = None
    n: int | None = None
    wrong: int | None = None


class Fingerprint(BaseModel):
    """Texts that are nobody's record, and the rewards the model gave them when it was published (law 6)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    texts: tuple[str, ...]
    rewards: tuple[tuple[float, float], ...]
    tolerance_p: float = 5e-3


class Manifest(BaseModel):
    """One version, as it was published; it never changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    format: Literal[1] = 1
    name: str
    base: str
    method: Literal["starter", "full", "lora", "imported"]
    parent: str | None = None
    created: str
    verdict_words: tuple[str, str]
    rendering: str
    encoding: str
    pad_id: int
    eos_id: int | None
    max_length: int
    calibration: Calibration
    threshold: Threshold
    fingerprint: Fingerprint
    metrics: dict[str, float]
    settings: dict[str, Any]
    data_digest: str | None = None
    data_counts: dict[str, int] = {}
    verdict_offsets: dict[str, int] = {}
    verdict_digest: str | None = None
    files: dict[str, str]

    def to_bytes(self) -> bytes:
        """Return the bytes that are written and digested."""
        return (json.dumps(self.model_dump(mode="json"), ensure_ascii=False, indent=2, sort_keys=True) + "\n").encode()


def digest_of_bytes(data: bytes) -> str:
    """Return `sha256:` and 64 hex digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(path: Path) -> str:
    """Return the digest of a file of any size."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            total.update(piece)
    return f"sha256:{total.hexdigest()}"


def files_of(directory: Path) -> dict[str, str]:
    """Return the digest of every file below, by relative name, manifest and signature apart."""
    names = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {name: digest_of_file(directory / name) for name in names if name not in BESIDE}


def parse_manifest(raw: bytes, where: str) -> Manifest:
    """Return a manifest from its bytes; `where` names it in the sentence. Raises ModelRefused."""
    try:
        return Manifest.model_validate_json(raw)
    except ValueError as error:
        raise ModelRefused(f"the manifest {where} cannot be read: {str(error).splitlines()[0]}") from error


def verify_names(where: str, present: Iterable[str], manifest: Manifest) -> None:
    """Check that the files present are those of the manifest; itself and the signature are not counted. Raises FileChanged naming one."""
    found = set(present) - BESIDE
    for name in sorted(set(manifest.files) - found):
        raise FileChanged(f"{where}/{name} is missing; the manifest lists it")
    for name in sorted(found - set(manifest.files)):
        raise FileChanged(f"{where}/{name} is not in the manifest")


def verify_digest(where: str, found: str, published: str) -> None:
    """Check the digest of one file. Raises FileChanged naming it."""
    if found != published:
        raise FileChanged(f"{where} has changed since it was published: {found} is not {published}")


def verify_files(directory: Path, manifest: Manifest) -> None:
    """Check that the directory holds exactly the files of the manifest, unchanged. Raises FileChanged naming one."""
    verify_names(str(directory), (path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()), manifest)
    for name, digest in manifest.files.items():
        verify_digest(str(directory / name), digest_of_file(directory / name), digest)
