"""Asks again about what a training doubts: the newest cycle's doubtful verdicts wait for a look of another person.

Enters: the registry. Leaves: doubts in the store. The trainer leaves out what it doubts until two people say the same, and what the
newest cycle does not doubt any more is not asked about any more (re-labelling where a model is least sure of the label: Bernhardt et
al., Nature Communications 2022).
"""

import json
import logging
import threading
from datetime import datetime
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from foundation.errors import ModelRefused, RegistryUnreachable, WinnowError
from model_registry.registry import Registry, Version
from model_registry.report import REPORT_JSON
from review.store import Store

log = logging.getLogger("winnow.review")

LOOK_SECONDS = 20.0
ASKED_AGAIN = "review"


class Doubted(NamedTuple):
    """What a version's training doubts, and when it was published, in Unix milliseconds."""

    decision_ids: list[str]
    until_ms: int


class Doubts(threading.Thread):
    """Looks for a newer cycle now and then; a registry that is away is asked again the next time."""

    def __init__(self, registry: Registry, store: Store, every_seconds: float = LOOK_SECONDS) -> None:
        """Take the registry, and the store of the records that are to be looked at again."""
        super().__init__(name="doubts", daemon=True)
        self._registry = registry
        self._store = store
        self._every_seconds = every_seconds
        self._looked_at: list[int] = []
        self._digest: str | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._over.is_set():
            try:
                self.look()
            except (WinnowError, SQLAlchemyError) as error:
                log.warning("doubtful verdicts are not asked about for now", extra={"detail": str(error).splitlines()[:1]})
            self._over.wait(self._every_seconds)

    def look(self) -> None:
        """Take in what the newest cycle doubts, if it is another one than the last time. Raises RegistryUnreachable, StoreTaken."""
        numbers = self._registry.versions()
        if numbers == self._looked_at:
            return
        version = newest_cycle(self._registry, numbers)
        if version is not None and version.digest != self._digest:
            self._take(version)
            self._digest = version.digest
        self._looked_at = numbers

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self.is_alive():
            self.join(10)

    def _take(self, version: Version) -> None:
        try:
            doubted = doubted_by(self._registry, version)
        except RegistryUnreachable:
            raise
        except ModelRefused as error:
            log.warning("what a version doubts cannot be read; what was asked about stays", extra={"detail": str(error)})
            return
        self._store.doubt(*doubted)
        log.info("doubtful verdicts wait for another look", extra={"version": version.label, "count": len(doubted.decision_ids)})


def newest_cycle(registry: Registry, numbers: list[int]) -> Version | None:
    """Return the newest version that a cycle has made of verdicts, those that cannot be read apart; None where there is none.

    numbers: of versions, the oldest first. Raises RegistryUnreachable.
    """
    for number in reversed(numbers):
        try:
            version = registry.resolve(str(number))
        except RegistryUnreachable:
            raise
        except ModelRefused:
            continue  # which the model page says
        if version.manifest.verdict_offsets:
            return version
    return None


def doubted_by(registry: Registry, version: Version) -> Doubted:
    """Return what the training of a version leaves out until another person has looked; nothing where it makes something else of doubt.

    Raises ModelRefused for a report that cannot be read.
    """
    until_ms = int(datetime.fromisoformat(version.manifest.created).timestamp() * 1000)
    figures = registry.read(version, REPORT_JSON)
    if figures is None or version.manifest.settings.get("noise") != ASKED_AGAIN:
        return Doubted([], until_ms)
    try:
        return Doubted([str(each) for each in json.loads(figures)["suspects"]], until_ms)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{REPORT_JSON} of {version.label} does not name what is doubted: {error}") from error
