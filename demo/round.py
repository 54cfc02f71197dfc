"""One round of learning: people answer, a cycle trains on their verdicts, the running gate takes the new version up under load.

Enters: a running gate and review service, and the next part of the stream. Leaves: what came of the round.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from demo.reviewer import Answered, answer_all
from demo.scene import Scene
from demo.stream import produce
from demo.twins import Truth, Twin
from demo.view import LiveView
from foundation.errors import DataRefused, WinnowError
from trainer.cycle import Cycle, run_cycle

MISTAKEN_SHARE = 0.05
MOST_PER_SECOND = 600.0  # on a fast machine all would be through before the gate has loaded the new version


class Stage(NamedTuple):
    """A scene with its gate running, and the view of what leaves it."""

    scene: Scene
    gate: "subprocess.Popen[str]"
    view: LiveView

    def watch(self, expected: int) -> float:
        """Show the gate until so many records are routed; return records per second. Raises WinnowError if it ends."""
        rate = self.view.watch(expected, lambda: self.gate.poll() is None)
        if self.gate.poll() is not None:
            raise WinnowError(f"the gate ended with code {self.gate.returncode} before everything was routed")
        return rate


class Round(NamedTuple):
    """What came of a round: the cycle, or why there was none; the swap's pause where there was one under load."""

    answered: Answered
    cycle: Cycle | None
    refused: str | None
    seconds_train: float
    pause_ms: float | None

    @property
    def promoted(self) -> Cycle | None:
        """The cycle whose version became champion, if it did."""
        return self.cycle if self.cycle is not None and self.cycle.promotion.promoted else None


def play(stage: Stage, part: Sequence[Twin]) -> Round:
    """Answer, train, promote, and let the next part of the stream come while the gate takes the version up."""
    scene = stage.scene
    answered = answer_all(scene.page, scene.accounts, scene.truth, MISTAKEN_SHARE)
    scene.console.print(f"{answered.verdicts} verdicts over HTTP, {answered.mistakes} of them mistaken; training on them with TRL")
    begun = time.monotonic()
    with ThreadPoolExecutor(1) as beside:  # the view must not look away while the first records of the part come out
        came = Coming(lambda: beside.submit(produce, scene.tables.kafka, scene.tables.topics.records, part, MOST_PER_SECOND))

        def step(what: str) -> None:
            if what == "published":  # promotion is next: the gate shall be at work when it comes
                came.begin()
                stage.watch(len(scene.truth) + 1)

        cycle, refused = _cycle(scene, step)
        came.begin()
        stage.watch(len(scene.truth) + len(part))
        scene.truth.update(came.truth())
    found = Round(answered, cycle, refused, came.since - begun, None)
    if found.promoted is None:
        return found
    return found._replace(pause_ms=stage.view.pause_ms(came.since, found.promoted.version.digest))


class Coming:
    """The next part of the stream, which begins once."""

    def __init__(self, start: Callable[[], Future[dict[str, Truth]]]) -> None:
        """Keep what starts it; nothing has begun yet."""
        self.since = 0.0
        self._start = start
        self._produced: Future[dict[str, Truth]] | None = None

    def begin(self) -> None:
        """Let it come, if it does not already; `since` says when, in monotonic seconds."""
        if self._produced is None:
            self.since = time.monotonic()
            self._produced = self._start()

    def truth(self) -> dict[str, Truth]:
        """Wait until all is written and return what is true of it."""
        return {} if self._produced is None else self._produced.result()


def _cycle(scene: Scene, step: Callable[[str], None]) -> tuple[Cycle | None, str | None]:
    try:
        cycle = run_cycle(scene.tables, scene.tables.train, str(scene.base), None, step)
    except DataRefused as error:
        scene.console.print(f"no new version: {error}")
        return None, str(error)
    promotion = "it becomes champion" if cycle.promotion.promoted else "the champion stays"
    chosen_by = cycle.version.manifest.threshold.chosen_by
    scene.console.print(f"{cycle.version.label}: {promotion}: {cycle.promotion.why}; threshold: {chosen_by}")
    return cycle, None
