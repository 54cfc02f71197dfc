"""Asks again about what a training doubts: the newest cycle's doubtful verdicts wait for a look of another person.

Enters: the registry. Leaves: doubts in the store. The trainer leaves out what it doubts until somebody else has looked, and what the
newest cycle does not doubt any more is not asked about any more (re-labelling where a model is least sure of the label: Bernhardt et
al., Nature Communications 2022).
"""

import json
import logging
import threading
from typing import NamedTuple

from sqlalchemy.exc import SQLAlchemyError

from foundation.errors import ModelRefused, RegistryUnreachable, WinnowError
from model_registry.newest import newest_of_cycles
from model_registry.registry import Registry, Version
from model_registry.report import REPORT_JSON
from review.store import Store

log = logging.getLogger("winnow.review")

LOOK_SECONDS = 20.0
ASKED_AGAIN = "review"


class AskedAgain(NamedTuple):
    """What a version's training leaves out until another person has looked, and how far it had read each partition of the verdicts."""

    decision_ids: list[str]
    offsets: dict[int, int]


class Doubts(threading.Thread):
    """Looks for a newer cycle now and then; a registry that is away is asked again the next time."""

    def __init__(self, registry: Registry, store: Store) -> None:
        """Take the registry, and the store of the records that are to be looked at again."""
        super().__init__(name="doubts", daemon=True)
        self._registry = registry
        self._store = store
        self._looked_at: list[int] = []
        self._digest: str | None = None
        self._turn = threading.Lock()
        self._over = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        while not self._over.is_set():
            try:
                self.look()
            except (WinnowError, SQLAlchemyError) as error:
                log.warning("doubtful verdicts are not asked about for now", extra={"detail": str(error).splitlines()[:1]})
            except Exception:
                log.exception("doubtful verdicts are not asked about for now")
            self._over.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Take in what the newest cycle doubts, if it is another one than the last time. Raises RegistryUnreachable, StoreTaken."""
        with self._turn:
            numbers = self._registry.versions()
            if numbers == self._looked_at:
                return
            version = newest_of_cycles(self._registry)
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
            asked = asked_again_by(self._registry, version)
        except RegistryUnreachable:
            raise
        except ModelRefused as error:
            log.warning("what a version doubts cannot be read; what was asked about stays", extra={"detail": str(error)})
            return
        self._store.doubt(*asked)
        log.info("doubtful verdicts wait for another look", extra={"version": version.label, "count": len(asked.decision_ids)})


def asked_again_by(registry: Registry, version: Version) -> AskedAgain:
    """Return what other people are to be asked about for a version; nothing where its training makes something else of doubt.

    Raises ModelRefused for a report that cannot be read.
    """
    offsets = {int(partition): after for partition, after in version.manifest.verdict_offsets.items()}
    figures = registry.read(version, REPORT_JSON)
    if figures is None or version.manifest.settings.get("noise") != ASKED_AGAIN:
        return AskedAgain([], offsets)
    try:
        return AskedAgain([str(each) for each in json.loads(figures)["suspects"]], offsets)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelRefused(f"{REPORT_JSON} of {version.label} does not name what is doubted: {error}") from error
