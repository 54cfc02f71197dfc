"""What a result must stand with: date, machine, commit, command; and where results are kept."""

import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results")


def describe() -> dict[str, Any]:
    """Return date, processor, cores, Python, commit and command."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        processor = next(
            (line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")), processor
        )
        flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
        best = [name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags][:1]
        processor = " ".join([processor, *best])
    commit = ""
    if shutil.which("git"):
        commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit or "unknown",
        "command": " ".join(["python", "-m", str(sys.modules["__main__"].__spec__.name), *sys.argv[1:]]),  # type: ignore[union-attr]
    }


def keep(name: str, found: dict[str, Any]) -> None:
    """Write a result beside its circumstances, and print it as the last line; one that cannot be written is printed all the same."""
    circumstances = describe()
    day = circumstances["date"][:10]
    try:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{day}-{name}.json").write_text(json.dumps({**circumstances, **found}, ensure_ascii=False, indent=1) + "\n")
    except OSError as error:
        print(f"the result is not kept: {error}", file=sys.stderr)
    print(json.dumps(found, ensure_ascii=False), flush=True)
