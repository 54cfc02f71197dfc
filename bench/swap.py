"""Hot swap under load: the alias moves while a gate judges, some of the versions are bad, and nothing may be lost.

Every output must name a model that really scored it: each is scored again by the version it names. Gate and load have a
process each, as they have in service. The load is half of what the gate does with a backlog here, at most 1,000 records/s: a gate
that cannot keep up has long batches and no pause to speak of. What happens in the load's first seconds is left out.

`pauses_ms` has the longest time between two commits of each swap, refused ones last, `undisturbed_ms` that of a time as long right before
it; they are pairs. A swap must pause for no longer than one batch. Which of the two has the longest of twenty is a matter of luck where a
swap costs nothing (one run in two fails), so two things are asked instead: that no pause is longer than a full batch (`full_batch_ms`,
the usual time between two commits of the backlog before), and that those of versions that were taken up are longer than the others by
at most a quarter on the mean; what they are longer by, with twice its standard error, is `longer_ms`.
"""

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.constant import WORDS
from bench.gate_process import Asked, metric, running, wait_until_ready
from bench.load import feed, fill
from bench.machine import keep
from bench.starters import readable
from demo.broker import free_port, temporary_broker
from demo.ledger import messages, read_ledger
from model_registry.config import RegistrySettings
from model_registry.manifest import MANIFEST
from model_registry.registry import CHAMPION, Registry
from stream import wire
from stream.cluster import make_topics
from stream.config import GateSettings, KafkaSettings, TopicSettings
from stream.decide import Calibration
from stream.decode import decode_value
from stream.evidence import load_evidence
from stream.live_model import d_of_shown, load_scorer
from stream.records import Content
from stream.render import Rendered, render
from trainer.config import TrainSettings
from trainer.starter import Plan, Shape, save_starter, train_starter
from trainer.train import train_and_publish

BAD = ("tampered", "wrong fingerprint", "half-written")
MOST_PER_SECOND, LOAD_SHARE, BACKLOG = 1_000.0, 0.5, 6_000
_PATIENCE_SECONDS = 60.0
_IDLE_SECONDS = 15.0  # the load takes seconds to start
_WARM_SECONDS = 20.0  # a broker that has just been started still compiles itself: every batch takes twice as long beside that
_UNDISTURBED_SECONDS = 2.0
_MOST_LONGER = 1.25


def prepare(registry: RegistrySettings, place: Path, *, evidence: bool = True) -> dict[str, int]:
    """Publish two good versions and three bad ones; return their numbers by name, `a` and `b` the good ones.

    Without evidence both read records alike, and differ in what the text says alone.
    """
    twins = readable(300, 5)
    texts = [render(c) for twin in twins if isinstance(c := decode_value(twin.value, "auto"), Content)]
    tables = SimpleNamespace(kafka=KafkaSettings(), gate=GateSettings(), registry=registry)
    numbers = {}
    for seed, name in enumerate("ab"):
        shape = Shape(hidden=32, layers=3, heads=2, inner=64, vocabulary=600, max_length=512)
        made = train_starter(texts, WORDS, Plan(steps=5, pairs_per_batch=8, seed=seed), shape)
        save_starter(made, [twin.value.decode() for twin in twins], place / name, {"verdict_words": list(WORDS), "steps": made.steps})
        numbers[name] = train_and_publish(
            tables, TrainSettings(cold_hold_share=0.3, evidence=evidence), str(place / name), None, None
        ).number
    versions = Registry(registry).root / "versions"
    for offset, name in enumerate(BAD, start=1):
        numbers[name] = max(numbers["a"], numbers["b"]) + offset
        spoil(versions / str(numbers["a"]), versions / str(numbers[name]), name)
    return numbers


def spoil(good: Path, bad: Path, how: str) -> None:
    """Copy a version and make it bad; its manifest differs, so that it is another version and not the one in service."""
    shutil.copytree(good, bad)
    manifest = json.loads((bad / MANIFEST).read_text())
    manifest["created"] = f"{how}"
    if how == "wrong fingerprint":
        manifest["fingerprint"]["rewards"] = [[right + 9, wrong] for right, wrong in manifest["fingerprint"]["rewards"]]
    (bad / MANIFEST).write_text(json.dumps(manifest))
    weights = bad / "model.safetensors"
    if how == "tampered":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif how == "half-written":
        weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def swap(bootstrap: str, topics: TopicSettings, place: Path, swaps: int, refused: int, per_second: float | None = None) -> dict[str, Any]:
    """Move the alias `swaps` times under load, `refused` of them to bad versions; return what came of it.

    per_second: the load; None takes a share of what the gate does with a backlog, and measures its full batches.
    """
    registry_settings = RegistrySettings(url=str(place / "registry"))
    numbers = prepare(registry_settings, place)
    registry = Registry(registry_settings)
    kafka = KafkaSettings(bootstrap_servers=bootstrap)
    port = free_port()
    gate = GateSettings(
        precision="float32",  # what is scored again must come out the same
        group=topics.records,
        metrics_port=port,
        instance="swap",
        watch_seconds=0.1,
        threads=1,
        audit_rate=0.0,
        audit_extra_rate=0.0,
        shadow_share=0.0,  # what judges in shadow has been loaded already: a swap to it is no more than an exchange
    )
    context = get_context("spawn")
    over = context.Event()
    with running(Asked(kafka, topics, gate, _IDLE_SECONDS, registry=registry_settings), place / "steps") as judging:
        wait_until_ready(port)
        full_batch_ms = None
        if per_second is None:
            begun, ended, rate = _backlog(kafka, topics, port)
            full_batch_ms = _ms(statistics.median(_gaps(judging.times("committed"), begun, ended)))
            per_second = min(MOST_PER_SECOND, LOAD_SHARE * rate)
        load = context.Process(target=feed, args=(kafka, topics.records, per_second, over), daemon=True)
        load.start()
        time.sleep(_WARM_SECONDS)
        warm = time.monotonic()
        _wait_for(lambda: any(at > warm for at in judging.times("committed")))
        time.sleep(_UNDISTURBED_SECONDS)
        spans: dict[bool, list[tuple[float, float]]] = {False: [], True: []}  # by whether the version is bad
        turned_away, good = 0, ["b", "a"]
        for number in range(swaps):
            is_bad = bool(refused) and number % (swaps // refused) == swaps // refused - 1
            begun = time.monotonic()
            if is_bad:
                name = BAD[turned_away % len(BAD)]
                turned_away += 1
                before = metric(port, "winnow_refused_total")
                registry.point(CHAMPION, str(numbers[name]), "bench")
                _wait_for(lambda before=before: metric(port, "winnow_refused_total") > before)
            else:
                name = good[(number - turned_away) % 2]
                version = registry.point(CHAMPION, str(numbers[name]), "bench")
                _wait_for(lambda version=version: metric(port, f'winnow_model_info{{digest="{version.digest}"') == 1)
            spans[is_bad].append((begun, time.monotonic()))
            time.sleep(_UNDISTURBED_SECONDS)
        over.set()
        load.join()
        judging.end()
        commits = judging.times("committed")
    ledger = read_ledger(bootstrap, topics)
    every, taken = [*spans[False], *spans[True]], len(spans[False])
    pauses = [max(_gaps(commits, begun, ended)) for begun, ended in every]
    undisturbed = [max(_gaps(commits, begun - min(ended - begun, _UNDISTURBED_SECONDS), begun)) for begun, ended in every]
    longer = [after - before for after, before in zip(pauses[:taken], undisturbed[:taken], strict=True)]
    named, false = check_names(bootstrap, topics, registry)
    return {
        "records": ledger.records,
        "load_per_second": round(per_second),
        "swaps": swaps,
        "refused": turned_away,
        "lost": len(ledger.lost),
        "repeated": len(ledger.repeated),
        "disordered": ledger.disordered,
        "outputs_by_version": named,
        "outputs_scored_by_another": false,
        "mean_swap_seconds": round(statistics.fmean(ended - begun for begun, ended in spans[False]), 2),
        "pause_ms": _ms(max(pauses)),
        "full_batch_ms": full_batch_ms,
        "longest_undisturbed_ms": _ms(max(undisturbed)),
        "mean_pause_ms": _ms(statistics.fmean(pauses[:taken])),
        "mean_undisturbed_ms": _ms(statistics.fmean(undisturbed[:taken])),
        "longer_ms": [_ms(statistics.fmean(longer)), _ms(2 * statistics.stdev(longer) / math.sqrt(taken))],
        "pauses_ms": [_ms(pause) for pause in pauses],
        "undisturbed_ms": [_ms(pause) for pause in undisturbed],
    }


def _ms(seconds: float) -> int:
    return round(1_000 * seconds)


def _gaps(commits: list[float], begun: float, ended: float) -> list[float]:
    """Return the times between two commits, all or in part between two times, in seconds."""
    return [after - before for before, after in zip(commits, commits[1:], strict=False) if before < ended and after > begun]


def _backlog(kafka: KafkaSettings, topics: TopicSettings, port: int) -> tuple[float, float, float]:
    """Let a gate judge a backlog; return begin and end of its last two thirds, and records/s in them. The first third it wakes up."""
    fill(kafka, topics.records, BACKLOG)
    marks = []
    for share in (1 / 3, 1.0):
        _wait_for(lambda share=share: metric(port, "winnow_records_total") >= share * BACKLOG)
        marks.append((time.monotonic(), metric(port, "winnow_records_total")))
    (begun, before), (ended, after) = marks
    return begun, ended, (after - before) / (ended - begun)


def check_names(bootstrap: str, topics: TopicSettings, registry: Registry) -> tuple[dict[str, int], int]:
    """Score every judged output again by the version it names; return outputs by version, and how many differ."""
    by_label: dict[str, list[tuple[Rendered, float, str | None]]] = {}
    for topic in (topics.clean, topics.quarantine):
        for message in messages(bootstrap, topic):
            label, said = wire.last(message.headers(), wire.MODEL), wire.last(message.headers(), wire.P_CHOSEN)
            reading = decode_value(message.value(), "auto")
            if label is not None and said is not None and isinstance(reading, Content):
                by_label.setdefault(label, []).append((render(reading), float(said), wire.last(message.headers(), wire.MODEL_DIGEST)))
    false = 0
    for label, judged in by_label.items():
        version = registry.verified(label)
        scorer = load_scorer(version, torch.device("cpu"), 8_192)
        calibration = Calibration(version.manifest.calibration.temperature, version.manifest.calibration.bias)
        again = d_of_shown(scorer, load_evidence(version.directory), [shown for shown, _, _ in judged])
        for (_, p, digest), d in zip(judged, again, strict=True):
            false += d is None or abs(calibration.p_chosen(d) - p) > 2e-5 or digest != version.digest
    return {label: len(judged) for label, judged in by_label.items()}, false


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened within {_PATIENCE_SECONDS:.0f} s")
        time.sleep(0.1)


def main() -> None:
    """Run on an embedded broker and print the result; exit 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--refused", type=int, default=5)
    given = parser.parse_args()
    if given.swaps - given.refused < 2:  # noqa: PLR2004
        parser.error(f"--swaps {given.swaps} with {given.refused} refused: at least two must be taken up")
    with temporary_broker() as broker, tempfile.TemporaryDirectory() as place:
        topics = TopicSettings()
        make_topics(KafkaSettings(bootstrap_servers=broker.address), topics, 3)
        found = swap(broker.address, topics, Path(place), given.swaps, given.refused)
    keep("swap", found)
    wrong = any(found[name] for name in ("lost", "repeated", "disordered", "outputs_scored_by_another"))
    is_long = found["pause_ms"] > found["full_batch_ms"] or found["mean_pause_ms"] > _MOST_LONGER * found["mean_undisturbed_ms"]
    sys.exit(1 if wrong or is_long else 0)


if __name__ == "__main__":
    main()
