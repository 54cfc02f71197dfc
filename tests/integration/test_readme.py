"""The README's block runs as it stands, on another port and with few training steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.broker import free_port

pytestmark = pytest.mark.integration
README = Path(__file__).parents[2] / "README.md"


@pytest.mark.timeout(900)
def test_the_block_runs_from_top_to_bottom(tmp_path: Path) -> None:
    [block] = re.findall(r"<!-- this block runs.*?-->\n```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    port = free_port()
    script = block.replace("9092", str(port)).replace("--minutes 4", "--steps 12").replace("--twins 3000", "--twins 600")
    script = f"set -euo pipefail\ntrap 'kill %1; wait' EXIT\n{script}".replace(
        "winnow topics", f"until (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do kill -0 %1; sleep 0.2; done\nwinnow topics", 1
    )
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "WINNOW_GATE__METRICS_PORT": "0"}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = done.stdout.strip().splitlines()
    assert lines[0] == f"ready 127.0.0.1:{port}"
    assert '"route"' in lines[-1]
    assert "ddee" in lines[-1]


def test_every_verb_is_in_the_readme_and_every_page_is_linked() -> None:
    from typer.main import get_command

    from winnow import app

    text = README.read_text(encoding="utf-8")
    for verb in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"`winnow {verb}" in text, verb
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
