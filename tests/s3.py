"""What the S3 server of the tests runs on: an environment with moto, built once from requirements-s3-server.txt, in the cache."""

import sys
from pathlib import Path

from tests.pinned import UV, Command, built

PINS = Path(__file__).parents[1] / "requirements-s3-server.txt"


def moto_python() -> Path:
    """Return the Python of moto's environment."""

    def commands(place: Path) -> list[Command]:
        python = place / "bin" / "python"
        return [
            [UV, "venv", "--quiet", "--clear", "--python", sys.executable, place],
            [UV, "pip", "install", "--quiet", "--python", python, "--require-hashes", "-r", PINS],
        ]

    return built("s3-server", PINS.read_bytes(), commands) / "bin" / "python"
