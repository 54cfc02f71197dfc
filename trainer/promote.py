"""The last step of a cycle: aliases are moved as the version's own report decided, as often as it takes.

Enters: a published version. Leaves: the aliases moved, or the reason why not. What was decided travels inside the version,
so a cycle that dies between publishing and promoting is finished by the next one, which comes to the same.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from foundation.errors import ModelRefused, RegistryUnreachable
from model_registry.newest import newest_of_cycles
from model_registry.registry import CHALLENGER, CHAMPION, Registry, Version
from model_registry.report import REPORT_JSON
from trainer.evaluate import Promotion

log = logging.getLogger("winnow.train")

_REFUSED = "not promoted: "
_PINNED = "the champion is pinned by a rollback; `winnow registry promote` or `unpin` lifts it"
_OVERTAKEN = "another version became champion while this one was trained"


def announce(registry: Registry, version: Version) -> None:
    """Make a version the champion if there is none, else the challenger."""
    if not registry.advance(str(version.number), None, "first version"):
        registry.point(CHALLENGER, str(version.number), "published")


def conclude(registry: Registry, version: Version, decision: dict[str, Any], step: Callable[[str], None] = lambda what: None) -> Promotion:
    """Move the aliases as decided; where that was done already nothing moves.

    decision: promoted, why, and over, the digest of the champion that the version was compared with, None if there was none.
    """
    number = version.number
    if number in _been(registry, CHAMPION):
        return Promotion(True, str(decision["why"]))
    said = [str(move["why"]) for move in _moves(registry, CHALLENGER) if move["version"] == number]
    if said and said[-1].startswith(_REFUSED):
        return Promotion(False, said[-1].removeprefix(_REFUSED))
    if not said:
        announce(registry, version)
        step("announced")
    why, over = str(decision["why"]), decision["over"]
    if decision["promoted"] and over is not None:
        registry.advance(str(number), str(over), why)
    if number in _been(registry, CHAMPION):  # by this, as the first version, or by somebody else who concludes it too
        return Promotion(True, why)
    if decision["promoted"]:
        why = _PINNED if registry.is_pinned() else _OVERTAKEN
    registry.point(CHALLENGER, str(number), f"{_REFUSED}{why}")
    return Promotion(False, why)


def finish_interrupted(registry: Registry) -> None:
    """Conclude the newest version that a cycle has made, if that cycle died before it could."""
    newest = newest_of_cycles(registry)
    if newest is None:
        return
    try:
        raw = registry.read(newest, REPORT_JSON)
        decision = None if raw is None else json.loads(raw).get("decision")
        if decision is not None:
            conclude(registry, newest, decision)
    except RegistryUnreachable:
        raise
    except ModelRefused as error:  # a broken version must not be in the way of the next one
        log.error("an earlier cycle cannot be finished", extra={"version": newest.label, "detail": str(error)})  # noqa: TRY400


def _been(registry: Registry, alias: str) -> set[int]:
    return {int(move["version"]) for move in _moves(registry, alias)}


def _moves(registry: Registry, alias: str) -> list[dict[str, Any]]:
    return registry.history(alias) if alias in registry.aliases() else []
