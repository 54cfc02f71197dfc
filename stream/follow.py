"""Follows the registry's aliases and the rules file while the gate runs, in a thread of its own.

Enters: what is in service. Leaves: a new Service, loaded aside, verified and warm, which the gate takes up between two
batches. What cannot be trusted is refused, counted and logged once, and the old one serves on. A rollback is an alias
that moves, so it takes the same way.
"""

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from foundation.errors import ModelRefused, RegistryUnreachable, VersionMissing, WinnowError
from model_registry.aliases import Mark
from model_registry.registry import CHALLENGER, CHAMPION, Registry, Version
from stream import wire
from stream.cache import RewardCache
from stream.config import GateSettings
from stream.decide import Lotteries
from stream.judge import Judge, reader_of
from stream.metrics import GateMetrics
from stream.read import Reader
from stream.reading_process import ReadingProcess
from stream.rules import Rules
from stream.schemas import Schemas

if TYPE_CHECKING:  # a gate in rules mode starts without torch
    from stream.live_model import LiveModel
    from stream.shadow import Shadow

log = logging.getLogger("winnow.follow")

_RETRY_EVERY_LOOKS = 15
_STOP_SECONDS = 5.0
_NICE = 15


class Service(NamedTuple):
    """What judges a batch, and what its headers say about that: the two change together."""

    judge: Judge
    shared: wire.Constants
    shadow: "Shadow | None" = None


def _step_aside() -> None:
    """Let the threads that judge go first: loading and warming a model beside them costs a pause otherwise.

    In a thread that starts no process: that would be born with this priority, and read records with it for ever.
    """
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _kind(error: ModelRefused) -> str:
    if isinstance(error, RegistryUnreachable):
        return "unreachable"
    return "missing" if isinstance(error, VersionMissing) else "unreadable"


class Lasting(NamedTuple):
    """What a swap of models or rules leaves as it is."""

    topic_ids: dict[str, str]
    lotteries: Lotteries | None
    cache: RewardCache | None = None
    schemas: Schemas | None = None


def make_service(settings: GateSettings, lasting: Lasting, rules: Rules, model: "LiveModel | None", like: Service | None = None) -> Service:
    """Put rules and model into service; `model` None judges by rules alone.

    like: what is in service; its process that reads is kept, and told what is new, since starting one takes a core for a second.
    """
    if model is None:
        shared = wire.constants(lasting.topic_ids, None, None, None, rules.digest)
    else:
        shared = wire.constants(lasting.topic_ids, model.threshold, model.label, model.digest, rules.digest)
    before = None if like is None else like.judge.reads
    kept = before if isinstance(before, ReadingProcess) else None
    reads: Reader | ReadingProcess
    if not settings.reading_process:
        reads = reader_of(settings, rules, model)
    elif kept is not None and kept.reads_as(settings, rules, model):
        reads = kept
    else:
        reads = ReadingProcess(settings, rules, model, reader_of(settings, rules, model), kept)
    return Service(Judge(settings, rules, model, reads, lasting.lotteries, lasting.cache, lasting.schemas), shared)


class Follower(threading.Thread):
    """Looks every `gate.watch_seconds` whether model, challenger or rules have changed, and prepares what has."""

    def __init__(
        self,
        registry: Registry | None,
        settings: GateSettings,
        make: "Callable[[Rules, LiveModel | None, Service], Service]",
        current: Service,
        metrics: GateMetrics,
    ) -> None:
        """`registry` None follows the rules file alone; `make` builds a Service as boot did, like the one that serves."""
        super().__init__(name="follow", daemon=True)
        self._registry = registry
        self._settings = settings
        self._make = make
        self._current = current
        self._metrics = metrics
        self._ready: Service | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._called = threading.Event()
        self._flooded: str | None = None
        self._drifted: tuple[str, str] | None = None
        self._said: Mark | None = None
        self._looks = 0
        self._refused: dict[str, int] = {}
        self._shadow: Shadow | None = None

    def take(self) -> Service | None:
        """Return what has become ready since the last call, else None; never waits."""
        with self._lock:
            ready, self._ready = self._ready, None
            return ready

    def stop(self) -> None:
        """End the thread; what it is loading is let go."""
        self._over.set()
        self._called.set()
        if self.is_alive():
            self.join(_STOP_SECONDS)

    def flooded(self, digest: str) -> None:
        """Ask for the champion before the one of this digest, in the thread's own time; nothing waits for it here."""
        self._flooded = digest
        self._called.set()

    def drifted(self, digest: str, why: str) -> None:
        """Say in the registry that what the version of this digest lets through has changed, in the thread's own time."""
        self._drifted = digest, why

    @property
    def is_drift_said(self) -> bool:
        """Whether the registry says that what is in service has been overtaken: by this gate, another one, or the verdicts."""
        said, model = self._said, self._current.judge.model
        return said is not None and model is not None and said.digest == model.digest

    def run(self) -> None:
        """Look until stopped; nothing that goes wrong here may end the gate."""
        while not self._over.is_set():
            self._called.wait(self._settings.watch_seconds)
            self._called.clear()
            if self._over.is_set():
                return
            try:
                self._roll_back()
                self._say_drift()
                self._look()
            except Exception:
                log.exception("looking for a new model failed; the old one serves on")

    def _roll_back(self) -> None:
        """Go back to the previous champion, once, if the version that flooded is still the champion."""
        digest, self._flooded = self._flooded, None
        if digest is None or self._registry is None or self._settings.model != CHAMPION:
            return
        try:
            if self._registry.is_pinned():
                log.error("too much is held, and a rollback has been made already: the stream itself may have changed")
                return
            back = self._registry.rollback(only_from=digest)
            log.error("too much is held: rolled back", extra={"from": digest, "to": back.label})
        except WinnowError as error:
            log.error("too much is held, and there is nothing to roll back to", extra={"detail": str(error)})  # noqa: TRY400

    def _say_drift(self) -> None:
        """Hear what others have said of the champion, and say what this gate has seen; other gates keep it to themselves."""
        model = self._current.judge.model
        if self._registry is None or model is None or self._settings.model != CHAMPION:
            return
        seen, self._drifted = self._drifted, None
        try:
            self._said = self._registry.drift(model.digest)
            if self._said is None and seen is not None and seen[0] == model.digest:
                self._registry.say_drift(*seen)
                self._said = self._registry.drift(model.digest)
            self._refused.pop("drift", None)
        except ModelRefused as error:
            self._refuse("drift", _kind(error), error)
        except OSError as error:  # a registry that this gate may only read
            self._refuse("drift", "unreachable", error)

    def _look(self) -> None:
        self._looks += 1
        judge = self._current.judge
        rules, model, shadow = self._new_rules(judge.rules), judge.model, self._shadow
        if self._registry is not None and model is not None:
            model = self._new_model(self._registry, model)
            shadow = self._new_shadow(self._registry, model, judge.model)
        if rules is not judge.rules or model is not judge.model or shadow is not self._shadow:
            self._shadow = shadow
            is_same = rules is judge.rules and model is judge.model
            self._current = (self._current if is_same else self._make(rules, model, self._current))._replace(shadow=shadow)
            with self._lock:
                self._ready = self._current

    def _new_rules(self, rules: Rules) -> Rules:
        if self._settings.rules_file is None:
            return rules
        try:
            found = Rules.load(self._settings.rules_file)
        except WinnowError as error:
            self._refuse("rules", "rules", error)
            return rules
        return rules if found.digest == rules.digest else found

    def _new_model(self, registry: Registry, model: "LiveModel") -> "LiveModel":
        version = self._resolved(registry, self._settings.model)
        if version is None or version.digest == model.digest:
            return model
        if self._shadow is not None and self._shadow.model.digest == version.digest:
            return self._shadow.model  # loaded and verified already, and warm
        return self._loaded(registry, version, "model") or model

    def _new_shadow(self, registry: Registry, champion: "LiveModel", before: "LiveModel | None") -> "Shadow | None":
        """Return the challenger in shadow, None when there is none, it is the champion, or it is not wanted.

        before: what has been in service so far; after a rollback the challenger is that, loaded already.
        """
        if not self._settings.shadow_share:
            return None
        try:
            if CHALLENGER not in registry.aliases():
                return None
        except ModelRefused as error:
            self._refuse(f"alias {CHALLENGER}", _kind(error), error)
            return self._shadow
        version = self._resolved(registry, CHALLENGER)
        if version is None:
            return self._shadow
        if version.digest == champion.digest:
            return None
        if self._shadow is not None and self._shadow.model.digest == version.digest:
            return self._shadow
        model = before if before is not None and before.digest == version.digest else self._loaded(registry, version, "shadow")
        if model is None:
            return None
        from stream.shadow import Shadow  # noqa: PLC0415

        return Shadow(model, self._settings.shadow_share)

    def _resolved(self, registry: Registry, reference: str) -> Version | None:
        try:
            version = registry.resolve(reference)
        except ModelRefused as error:
            self._refuse(f"alias {reference}", _kind(error), error)
            return None
        self._refused.pop(f"alias {reference}", None)  # the next outage is news again
        return version

    def _loaded(self, registry: Registry, version: Version, what: str) -> "LiveModel | None":
        """Verify, load, compare the fingerprint, warm up; None when refused, now or a short while ago."""
        since = self._refused.get(version.digest)
        if since is not None and self._looks - since < _RETRY_EVERY_LOOKS:
            return None
        from stream.live_model import load_aside  # noqa: PLC0415

        try:
            return load_aside(lambda: registry.verified(str(version.number)), self._settings, self._current.judge.model, _step_aside)
        except WinnowError as error:
            self._refuse(version.digest, what, error)
        except (RuntimeError, ValueError, OSError, KeyError) as error:
            self._refuse(version.digest, what, error)
        return None

    def _refuse(self, name: str, what: str, error: Exception) -> None:
        """Count every refusal; log the first of each name."""
        self._metrics.refused.labels(what).inc()
        if name not in self._refused:
            log.error("refused, the old one serves on", extra={"what": what, "which": name, "detail": str(error)})
        self._refused[name] = self._looks
