"""The demo's story: a model that nobody has taught, a gate that serves it, people who answer, a better model, the same gate.

Enters: a scene with Kafka, a review service and the first part of the stream on its topic. Leaves: the fields of the summary.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

from demo.errors import ERRORS, LATER_ERRORS
from demo.ledger import read_ledger
from demo.processes import running
from demo.round import Round, Stage, play
from demo.scene import Scene
from demo.summary import Judged, fields_of, print_summary, score
from demo.twins import take
from demo.view import LiveView
from model_registry.registry import Version
from trainer.make_starter import make_starter
from trainer.train import train_and_publish

EVALUATION_RECORDS = 5_000
# the first part has the errors that everybody knows; later a third of the errors are of kinds that agree with every pattern
LATER_KINDS = (*ERRORS, *(kind for kind in LATER_ERRORS for _ in range(len(ERRORS) // 4)))


def tell(scene: Scene, stay: ExitStack, count: int, rounds: int, seed: int) -> dict[str, Any]:
    """Train, start the gate, which `stay` ends, play the rounds with `count` records each, and return what came of it."""
    tables, first_part = scene.tables, set(scene.truth)
    strangers = take(min(EVALUATION_RECORDS, (rounds + 1) * count), seed + 1_000_003, kinds=(*ERRORS, *LATER_ERRORS))
    begun = time.monotonic()
    cold = _first_version(scene, count, seed)
    seconds_train = time.monotonic() - begun
    gate = stay.enter_context(running("gate", scene.config))
    played: list[Round] = []
    judged: list[Judged] = []
    with closing(LiveView(tables.kafka, tables.topics, scene.console)) as view:
        stage = Stage(scene, gate, view)
        rate = stage.watch(len(scene.truth))
        # people wait for Kafka more than for this machine; the thread must end with its work: while a second one that has computed lives,
        # OpenMP's threads sleep between products, and training takes three times as long
        beside = ThreadPoolExecutor(1)
        first = beside.submit(score, cold, tables.gate, strangers)
        beside.shutdown(wait=False)
        for number in range(1, rounds + 1):
            played.append(play(stage, take(count, seed + 7_000_003 * number, kinds=LATER_KINDS)))
            judged = judged or [Judged(cold, first.result())]
            new = played[-1].promoted
            judged.append(judged[-1] if new is None else Judged(new.version, score(new.version, tables.gate, strangers)))
    ledger = read_ledger(tables.kafka.bootstrap_servers, tables.topics)
    print_summary(scene.console, ledger, scene.truth, judged)
    return fields_of(ledger, scene.truth, tables.topics, judged, played) | {
        "records_per_second": round(rate, 1),
        "swap_lost": len(set(ledger.lost) - first_part),
        "seconds_train": round(seconds_train + sum(each.seconds_train for each in played), 1),
    }


def _first_version(scene: Scene, count: int, seed: int) -> Version:
    """Train a starter on the first part, which nobody has judged, and publish its own head: a gate with zero verdicts."""
    tables, minutes = scene.tables, scene.starter_minutes
    scene.console.print(f"training a starter on the first {count} records, which nobody has judged ({minutes:g} minutes)")
    made = make_starter(tables, f"topic:{tables.topics.records}", scene.base, minutes, None, seed, count)
    cold = train_and_publish(tables, tables.train, str(scene.base), None, None)
    scene.console.print(f"{cold.label}: {made['steps']} steps, no verdict yet; the gate starts with it")
    return cold
