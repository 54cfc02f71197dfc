"""The model page: versions with their reports, where the aliases point and have pointed, promotion and rollback."""

import json
from typing import Any

from foundation.errors import ModelRefused, RegistryUnreachable
from model_registry.registry import CHALLENGER, CHAMPION, Registry
from model_registry.report import REPORT_JSON
from review.auth import Who
from review.shadow import Gates
from review.store import Store


class Models:
    """What the page shows of the registry, and the two moves that an operator may make."""

    def __init__(self, registry: Registry, store: Store, gates: Gates) -> None:
        """Take the registry, the store whose trail remembers who moved what, and the gates that run a challenger in shadow."""
        self._registry = registry
        self._store = store
        self._gates = gates

    def shown(self) -> dict[str, Any]:
        """Return versions, the newest first, aliases with their history, a pin, and what challengers do in shadow."""
        aliases = self._registry.aliases()
        versions = [self._version(number, aliases) for number in reversed(self._registry.versions())]
        moves = [{"alias": name, **move} for name in (CHAMPION, CHALLENGER) if name in aliases for move in self._registry.history(name)]
        return {
            "versions": versions,
            "aliases": aliases,
            "pinned": self._registry.is_pinned(),
            "shadows": [each._asdict() for each in self._gates.shadows()],
            "moves": sorted(reversed(moves), key=lambda move: str(move["time"]), reverse=True),  # the later of one second first
        }

    def report(self, number: str) -> dict[str, Any]:
        """Return the training report of a version, of doubted records how many there are; `report` is None if it has none."""
        version = self._registry.resolve(number)
        figures = self._registry.read(version, REPORT_JSON)
        report = None if figures is None else json.loads(figures)
        if report is not None and "suspects" in report:  # who looks at one of them again must not know that it is doubted
            report["suspects"] = list(range(len(report["suspects"])))
        return {"version": version.label, "report": report}

    def promote(self, who: Who, number: str) -> dict[str, Any]:
        """Make a version the champion."""
        version = self._registry.promote(number)
        self._store.accounts.note(who.name, "promote", version.label)
        return {"champion": version.label}

    def rollback(self, who: Who) -> dict[str, Any]:
        """Make the champion before this one the champion again, and pin it."""
        version = self._registry.rollback()
        self._store.accounts.note(who.name, "rollback", version.label)
        return {"champion": version.label}

    def unpin(self, who: Who) -> dict[str, Any]:
        """Let training promote again."""
        self._registry.unpin()
        self._store.accounts.note(who.name, "unpin")
        return {"pinned": False}

    def _version(self, number: int, aliases: dict[str, int]) -> dict[str, Any]:
        """Return a version's row; one that cannot be read says so, and takes no other row with it."""
        named = [name for name, at in aliases.items() if at == number]
        try:
            version = self._registry.resolve(str(number))
        except RegistryUnreachable:
            raise
        except ModelRefused as error:
            label = f"{self._registry.name}@{number}"
            detail = str(error).split(" cannot be read: ")[-1]
            return {"number": number, "version": label, "aliases": named, "unreadable": f"cannot be read: {detail}"}
        manifest = version.manifest
        return {
            "number": number,
            "version": version.label,
            "digest": version.digest,
            "created": manifest.created,
            "method": manifest.method,
            "parent": manifest.parent,
            "threshold": manifest.threshold.model_dump(mode="json"),
            "metrics": manifest.metrics,
            "data_counts": manifest.data_counts,
            "aliases": named,
        }
