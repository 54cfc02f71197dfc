"""The challenger in shadow, as the running gates tell it on /metrics: how many records it scored, how many would have flipped.

Enters: the addresses of the gates. Leaves: sums over those that answer. Knows no registry; a gate that is away says nothing.
"""

import logging
import socket
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from threading import Lock
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

log = logging.getLogger("winnow.review")

_TIMEOUT_SECONDS = 1.0
_KEPT_SECONDS = 3.0
_AT_ONCE, _MOST_BYTES = 16, 10_000_000
NO_CHALLENGER = "none"


class ShadowFigures(NamedTuple):
    """What one challenger made of live records, beside the champion, since the gates took it into shadow."""

    version: str
    records: int
    to_clean: int
    to_quarantine: int
    gates: int


class Gates:
    """The gates whose shadow figures the model page shows."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Take the addresses of their /metrics; nothing is asked yet."""
        self._addresses = addresses
        self._lock = Lock()
        self._found: list[ShadowFigures] = []
        self._looked = -_KEPT_SECONDS

    def shadows(self) -> list[ShadowFigures]:
        """Return the figures of every challenger in shadow, asking the gates at most every few seconds."""
        with self._lock:
            if time.monotonic() - self._looked >= _KEPT_SECONDS:
                with ThreadPoolExecutor(_AT_ONCE) as asking:
                    self._found = _summed([told for told in asking.map(_told_by, _everywhere(self._addresses)) if told is not None])
                self._looked = time.monotonic()
            return self._found


def _everywhere(addresses: Sequence[str]) -> list[str]:
    """Return the addresses, one for each machine behind a name that stands for several, as a headless service's does; each once."""
    found: dict[str, None] = {}
    for address in addresses:
        parts = urlsplit(address)
        try:
            infos = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM)
        except OSError:
            infos = []
        # of one family: a machine may have an address of each, and is one gate
        family = min((info[0] for info in infos), default=socket.AF_INET)
        machines = sorted({str(info[4][0]) for info in infos if info[0] == family})
        if parts.scheme != "http" or len(machines) < 2:  # noqa: PLR2004 - a certificate is of the name
            found[address] = None
            continue
        for machine in machines:
            host = f"[{machine}]" if ":" in machine else machine
            found[urlunsplit(parts._replace(netloc=f"{host}:{parts.port or 80}"))] = None
    return list(found)


def _told_by(address: str) -> tuple[str, dict[str, int]] | None:
    """Return the challenger of one gate and what it has come to; None where nothing answers, or something else than a gate."""
    try:
        with urlopen(address, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310 - the operator's own setting, http(s) by its check
            return _read(answer.read(_MOST_BYTES).decode())
    except (OSError, ValueError, KeyError, HTTPException) as error:
        log.debug("a gate does not answer", extra={"address": address, "error": type(error).__name__})
        return None


def _summed(told: Sequence[tuple[str, dict[str, int]]]) -> list[ShadowFigures]:
    found: dict[str, Counter[str]] = {}
    for version, counts in told:
        if version != NO_CHALLENGER:
            found.setdefault(version, Counter()).update({**counts, "gates": 1})
    return [
        ShadowFigures(version, counts["records"], counts["to-clean"], counts["to-quarantine"], counts["gates"])
        for version, counts in sorted(found.items())
    ]


def _read(text: str) -> tuple[str, dict[str, int]]:
    """Read one gate's metrics."""
    version, counts = NO_CHALLENGER, {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "winnow_shadow_info":
                version = sample.labels.get("version", NO_CHALLENGER)
            elif sample.name == "winnow_shadow_records_total":
                counts["records"] = int(sample.value)
            elif sample.name == "winnow_shadow_flips_total":
                counts[sample.labels["direction"]] = int(sample.value)
    return version, counts
