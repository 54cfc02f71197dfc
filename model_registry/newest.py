"""Which version the last cycle has made: the trainer finishes what it left undone, the review service asks about what it doubts."""

import logging

from foundation.errors import ModelRefused, RegistryUnreachable
from model_registry.registry import Registry, Version

log = logging.getLogger("winnow.registry")


def newest_of_cycles(registry: Registry) -> Version | None:
    """Return the newest version that was trained on the verdict topic, of those that can be read."""
    for number in reversed(registry.versions()):
        try:
            version = registry.resolve(str(number))
        except RegistryUnreachable:
            raise
        except ModelRefused as error:
            log.warning("a version is passed over", extra={"version": number, "detail": str(error)})
            continue
        if version.manifest.verdict_offsets:
            return version
    return None
