"""A cycle that is killed and run again: nothing half-published, no version trained twice, the same aliases in the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from demo.twins import RIGHT, Truth, Twin
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from model_registry.report import REPORT_JSON
from tests.integration.killed_cycle import TABLES
from tests.integration.test_cycle import say, tables
from trainer.cycle import run_cycle
from trainer.promote import conclude, finish_interrupted
from trainer.train import train_and_publish
from trainer.watch import new_verdicts

__all__ = ["tables"]  # a fixture

pytestmark = pytest.mark.integration


@pytest.fixture
def registry(tables: Any, starter_directory: Path, tmp_path: Path) -> Registry:
    """A registry whose champion knows nothing, and verdicts that are easily learned, so that what a cycle makes is promoted."""
    more = {"base": str(starter_directory), "work_directory": tmp_path / "work", "learning_rate": 3e-3, "epochs": 4}
    tables.train = tables.train.model_copy(update=more)
    train_and_publish(tables, tables.train, tables.train.base, None, None)
    say(tables, simple(250))
    return Registry(tables.registry)


def simple(count: int) -> list[Twin]:
    """Records of which every third says that it is broken."""
    return [
        Twin(
            b"k",
            f"读数 {n * 7_919} {'坏 坏 坏' if n % 3 == 0 else '好 好 好'}".encode(),
            Truth("broken" if n % 3 == 0 else RIGHT),
        )
        for n in range(count)
    ]


def killed_at(tables: Any, step: str) -> None:
    given = json.dumps({name: getattr(tables, name).model_dump(mode="json") for name in TABLES})
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.killed_cycle", given, step], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2_000:]


def test_a_cycle_killed_anywhere_is_finished_by_the_next(tables: Any, registry: Registry) -> None:
    killed_at(tables, "trained")
    assert registry.versions() == [1]
    [left] = tables.train.work_directory.glob("winnow-train-*")
    hour_ago = time.time() - 3_600
    os.utime(left, (hour_ago, hour_ago))

    killed_at(tables, "published")
    assert not left.exists(), "the next training removes what a killed one left"
    assert registry.versions() == [1, 2]
    assert registry.aliases() == {CHAMPION: 1}
    decision = json.loads(registry.read(registry.resolve("2"), REPORT_JSON) or b"")["decision"]
    assert decision["promoted"], decision["why"]
    assert decision["over"] == registry.resolve("1").digest

    assert new_verdicts(registry, tables) == 0, "nothing new is to be trained on, and yet it must not be lost"
    finish_interrupted(registry)
    assert registry.aliases() == {CHAMPION: 2, CHALLENGER: 2}
    moves = registry.history(CHAMPION)
    assert moves[-1]["why"] == decision["why"]
    finish_interrupted(registry)
    assert registry.history(CHAMPION) == moves, "done once"

    registry.rollback()
    say(tables, simple(30), 500)
    killed_at(tables, "announced")
    assert registry.aliases() == {CHAMPION: 1, CHALLENGER: 3}
    third = run_cycle(tables, tables.train, tables.train.base, None)
    assert third.version.number == 4
    assert "pinned" in third.promotion.why
    said = [move["why"] for move in registry.history(CHALLENGER) if move["version"] == 3]
    assert said[0] == "published"
    assert "not promoted: the champion is pinned" in said[1]
    assert registry.aliases() == {CHAMPION: 1, CHALLENGER: 4}


def test_a_version_decided_over_another_champion_stays_challenger(registry: Registry) -> None:
    version = registry.resolve("1")
    over = {"promoted": True, "why": "not worse", "over": "sha256:another"}
    assert conclude(registry, version, over).promoted, "it is champion already"
    registry.publish(version.directory.parent / "1", version.manifest)
    found = conclude(registry, registry.resolve("2"), over)
    assert not found.promoted
    assert found.why == "another version became champion while this one was trained"
    assert conclude(registry, registry.resolve("2"), over) == found
    assert [move["why"] for move in registry.history(CHALLENGER)] == ["published", f"not promoted: {found.why}"]


def test_a_watching_trainer_outlives_a_broker_that_is_away(tables: Any, tmp_path: Path) -> None:
    away = socket.socket()
    away.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else gets it
    config = tmp_path / "winnow.toml"
    config.write_text(
        f'[kafka]\nbootstrap_servers = "127.0.0.1:{away.getsockname()[1]}"\nconnect_timeout_seconds = 1\n'
        f'[registry]\nurl = "{tables.registry.url}"\n'
    )
    command = [sys.executable, "-m", "winnow", "train", "--watch", "--config", str(config)]
    with away, subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as watching:
        try:
            assert watching.stderr is not None
            line = next(line for line in watching.stderr if "tried again" in line)
            assert "is not reachable" in line or "no broker" in line, line
            time.sleep(1)
            assert watching.poll() is None
        finally:
            watching.terminate()
