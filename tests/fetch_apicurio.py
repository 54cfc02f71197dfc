"""Fetches Apicurio Registry from Maven into a directory, checked against its recorded SHA-256: the schema registry of the tests."""

import hashlib
import sys
import tarfile
import tempfile
from pathlib import Path

from jgo.maven import MavenContext, PythonResolver

GROUP, ARTIFACT, VERSION = "io.apicurio", "apicurio-registry-app", "3.3.3"
SHA256 = "8bc6751c76d963734224b01d5e7f84ccb3cb61c87d3bd77c36c35f10a5cbed63"


def main() -> None:
    """Fetch, check and unpack; ends with a sentence where it is not what was recorded."""
    place = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as aside:
        context = MavenContext(resolver=PythonResolver(), repo_cache=Path(aside), local_repos=[], timeout=60)
        packed = context.project(GROUP, ARTIFACT).at_version(VERSION).artifact(classifier="all", packaging="tar.gz").resolve()
        found = hashlib.sha256(packed.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"{ARTIFACT} {VERSION} is not what was recorded: SHA-256 {found} instead of {SHA256}")
        with tarfile.open(packed) as archive:
            archive.extractall(place, filter="data")


if __name__ == "__main__":
    main()
