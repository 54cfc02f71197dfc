"""What goes wrong around a gate, each as one function: the causes of bench/faults.py.

Enters: a scene, and what it may touch. Leaves: the fault has been brought about and, where its cause ends by itself, is over.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer
from confluent_kafka.admin import NewPartitions

from bench.gate_process import metric
from bench.paused import paused
from bench.s3 import S3Server
from bench.set_clock import Clock
from demo.broker import Broker, start_broker
from foundation.errors import WinnowError
from model_registry.config import RegistrySettings
from model_registry.registry import CHAMPION, Registry
from stream.cluster import administrator, base_config
from stream.config import KafkaSettings, TopicSettings

STORE, CLOCK = "object store silent 30 s", "clock set 2 h ahead, then 1 h back"
IN_BUCKET = "s3://registry/models"
PARTITIONS = 4
_HOUR_SECONDS, _MOST_SECONDS = 3_600, 240.0


class Scene(NamedTuple):
    """What a fault may touch."""

    place: Path
    broker: Broker
    port: int
    kafka: KafkaSettings
    topics: TopicSettings
    registry: str
    metrics_port: int
    store: S3Server | None = None
    clock: Clock | None = None


Cause = Callable[[Scene], float | None]
"""Brings a fault about; returns when it ended, in monotonic seconds, where that is not when it returns."""


def broker_restarted(scene: Scene) -> None:
    """Stop the broker under load and start it again on the same data."""
    scene.broker.stop()
    time.sleep(5)
    again = start_broker(scene.port, scene.broker.directory)
    scene.broker.process = again.process


def broker_killed(scene: Scene) -> None:
    """Kill the broker, as a machine that loses power does, and start it again on the same data."""
    scene.broker.process.kill()
    scene.broker.process.wait()
    again = start_broker(scene.port, scene.broker.directory)
    scene.broker.process = again.process


def broker_paused(scene: Scene) -> None:
    """Stop the broker's process for a minute without closing a connection."""
    with paused(scene.broker.process):
        time.sleep(60)


def partitions_added(scene: Scene) -> None:
    """Give the input and the outputs two more partitions each."""
    admin = administrator(scene.kafka)
    wanted = [NewPartitions(name, PARTITIONS + 2) for name in scene.topics.model_dump().values()]
    for made in admin.create_partitions(wanted).values():
        made.result(20)


def registry_gone(scene: Scene) -> None:
    """Take the registry away for half a minute, as an object store or a network disk goes."""
    place = Path(scene.registry)
    aside = place.with_suffix(".gone")
    place.rename(aside)
    time.sleep(30)
    aside.rename(place)


def store_silent(scene: Scene) -> float:
    """Let the object store answer nothing for half a minute; what is published and promoted in it afterwards must be taken up."""
    assert scene.store is not None
    registry = Registry(RegistrySettings(url=scene.registry))
    version = registry.verified(CHAMPION)
    scene.store.fall_silent()
    time.sleep(30)
    scene.store.answer()
    ended = time.monotonic()
    if not told(scene.metrics_port, "winnow_refused_total"):
        raise WinnowError("the gate did not notice that the object store was silent")
    again = registry.publish(version.directory, version.manifest.model_copy(update={"created": "2026-01-02"}))
    registry.point(CHAMPION, str(again.number), "faults")
    until(lambda: told(scene.metrics_port, "winnow_swaps_total") == 1, "the promoted version to be taken up", 60.0)
    return ended


def clock_set(scene: Scene) -> float:
    """Set the gate's clock two hours ahead for a while, then to an hour behind, as a clock that was wrong is set right."""
    assert scene.clock is not None
    for hours, seconds in ((2, 20.0), (-1, 5.0)):
        scene.clock.set(hours * _HOUR_SECONDS)
        ended = time.monotonic()
        time.sleep(seconds)
        ahead = told(scene.metrics_port, "winnow_last_turn_timestamp_seconds") - time.time()
        print(f"its clock set {hours:+} h: by its last turn {ahead:+.0f} s", file=sys.stderr, flush=True)
        if hours > 0 and abs(ahead - hours * _HOUR_SECONDS) > _HOUR_SECONDS / 10:
            raise WinnowError(f"the gate's clock is {ahead:.0f} s ahead, it was to be {hours} h")
    return ended


def disk_full(scene: Scene) -> None:
    """Let a training publish into a registry whose disk is full; the version must not be there, and the champion must."""
    registry = Registry(RegistrySettings(url=scene.registry))
    version = registry.verified(CHAMPION)
    before = registry.versions()
    with tempfile.TemporaryDirectory(prefix="winnow-full-") as name:
        small = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", name], check=True)
        try:
            full = Registry(RegistrySettings(url=str(small / "registry")))
            prepared = scene.place / "prepared"
            shutil.copytree(version.directory, prepared, ignore=shutil.ignore_patterns("manifest.json"))
            try:
                full.publish(prepared, version.manifest)
            except OSError:
                pass
            else:
                raise WinnowError("a full disk took a whole version")
            if full.versions():
                raise WinnowError(f"half a version is visible: {full.versions()}")
        finally:
            subprocess.run(["umount", name], check=True)
    if registry.versions() != before:
        raise WinnowError("the registry in service was touched")


def reader_slow(scene: Scene) -> None:
    """Let somebody read clean a record at a time, twenty a second, for half a minute."""
    reader = Consumer(
        {**base_config(scene.kafka), "group.id": "slow", "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    )
    reader.subscribe([scene.topics.clean])
    begun = time.monotonic()
    while time.monotonic() - begun < 30:  # noqa: PLR2004
        reader.poll(1.0)
        time.sleep(0.05)
    reader.close()


FAULTS: dict[str, Cause] = {
    "broker restarted": broker_restarted,
    "broker killed": broker_killed,
    "broker paused 60 s": broker_paused,
    "partitions added": partitions_added,
    "registry gone 30 s": registry_gone,
    "disk full at the registry": disk_full,
    STORE: store_silent,
    CLOCK: clock_set,
    "slow reader of clean": reader_slow,
}


def told(port: int, name: str) -> float:
    """Return what a gate says of itself, 0 while it does not answer."""
    try:
        return metric(port, name)
    except OSError:
        return 0.0


def until(is_so: Callable[[], bool], what: str, most_seconds: float = _MOST_SECONDS) -> None:
    """Wait for something. Raises WinnowError when it has not come about in time."""
    deadline = time.monotonic() + most_seconds
    while not is_so():
        if time.monotonic() > deadline:
            raise WinnowError(f"waited {most_seconds:.0f} s in vain for {what}")
        time.sleep(0.5)
