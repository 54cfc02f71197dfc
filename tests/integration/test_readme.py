"""The README's blocks run as they stand, on other ports and with few training steps."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from demo.broker import free_port

pytestmark = pytest.mark.integration
README = Path(__file__).parents[2] / "README.md"


ANSWERS = """
import sys
from demo.reviewer import Connection, verdict_path

page = Connection(sys.argv[1])
while (lease := page.ask("POST", "/api/lease", {})[1])["decision_id"] is not None:
    verdict = "wrong" if str(lease["record"].get("reason", "")).startswith("rule") else "right"
    status, said = page.ask("POST", verdict_path(lease["decision_id"]), {"lease": lease["lease"], "verdict": verdict})
    assert status == 200, said
print(page.ask("GET", "/api/counts")[1]["done"], "answered")
"""


def when_open(port: int, job: str) -> str:
    """Wait in bash until the job listens."""
    return f"until (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null; do kill -0 {job}; sleep 0.2; done"


@pytest.mark.timeout(900)
def test_the_blocks_run_from_top_to_bottom(tmp_path: Path) -> None:
    first, second = re.findall(r"<!-- this block runs.*?-->\n```sh\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    port, page = free_port(), free_port()
    (tmp_path / "answers.py").write_text(ANSWERS)
    script = first.replace("9092", str(port)).replace("--minutes 4", "--steps 12").replace("--twins 3000", "--twins 600")
    script = script.replace("winnow topics", f"{when_open(port, '%1')}\nwinnow topics", 1)
    people = f"{when_open(page, '%2')}\npython answers.py http://127.0.0.1:{page}\n"
    script += second.replace("winnow train --cycle", f"{people}winnow train --cycle", 1)
    script = f"set -euo pipefail\ntrap 'kill %2; kill %1; wait' EXIT\n{script}"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WINNOW_GATE__METRICS_PORT": "0",
        "WINNOW_TRAIN__EPOCHS": "1",
        "WINNOW_TRAIN__CONTRASTIVE_PER_VERDICT": "2",
        "WINNOW_REVIEW__PORT": str(page),
    }
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = done.stdout.strip().splitlines()
    assert lines[0] == f"ready 127.0.0.1:{port}"
    [judged] = [line for line in lines if "ddee" in line]
    assert '"route"' in judged
    assert any(line.endswith(" answered") and int(line.split()[0]) > 20 for line in lines)  # noqa: PLR2004
    assert '"version": "winnow@3"' in lines[-1]


def test_every_verb_is_in_the_readme_and_every_page_is_linked() -> None:
    from typer.main import get_command

    from winnow import app

    text = README.read_text(encoding="utf-8")
    for verb in get_command(app).commands:  # type: ignore[attr-defined]
        assert f"`winnow {verb}" in text, verb
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (README.parent / target).exists(), target
