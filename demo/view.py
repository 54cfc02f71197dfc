"""The demo's live view: rates, routes and the last held records, from a plain reader of the output topics."""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from foundation.errors import WinnowError
from foundation.terminal import as_shown
from stream import wire
from stream.config import KafkaSettings, TopicSettings
from stream.tail import Tail

_PATIENCE_SECONDS = 240.0
_HELD_SHOWN = 8
_WIDTH = 100
_POLL_RECORDS, _POLL_SECONDS = 1_000, 0.25


class Arrival(NamedTuple):
    """When something came out of the gate, how many records, and the digests of the models that had judged them."""

    at: float
    records: int
    digests: frozenset[str]


class LiveView:
    """Reads the outputs as they are committed and shows them; off a terminal it prints a line every few seconds."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings, console: Console) -> None:
        """Read all outputs from their beginning. Raises BrokerUnreachable, TopicMissing."""
        self._topics = topics
        self._console = console
        self._tail = Tail(kafka, [topics.clean, topics.quarantine, topics.dead_letter], {})
        self._counts: Counter[str] = Counter()
        self._held: deque[tuple[str, str, str]] = deque(maxlen=_HELD_SHOWN)
        self._arrivals: list[Arrival] = []

    def watch(self, expected: int, still_running: Callable[[], bool]) -> float:
        """Show until `expected` records are out in all; return the records per second of those that came meanwhile.

        Raises WinnowError when nothing comes for minutes, KafkaRefused.
        """
        deadline, said = time.monotonic() + _PATIENCE_SECONDS, 0.0
        first = len(self._arrivals)
        live = Live(console=self._console, refresh_per_second=4, transient=False) if self._console.is_terminal else None
        with live or nullcontext():
            while (done := sum(self._counts.values())) < expected and still_running():
                self._read()
                if sum(self._counts.values()) > done:
                    deadline = time.monotonic() + _PATIENCE_SECONDS
                elif time.monotonic() > deadline:
                    raise WinnowError(f"no record left the gate for {_PATIENCE_SECONDS:.0f} s; {done} of {expected} were routed")
                rate = _rate(self._arrivals[first:])
                if live is not None:
                    live.update(self._picture(expected, rate))
                elif time.monotonic() - said > 5:  # noqa: PLR2004
                    said = time.monotonic()
                    self._console.print(f"routed {sum(self._counts.values())} of {expected}: {dict(self._counts)}")
        return _rate(self._arrivals[first:])

    def pause_ms(self, since: float, digest: str) -> float | None:
        """Return the longest time without an output from `since` (monotonic seconds) until the first one that `digest` judged.

        None when that model has judged nothing, or nothing came before it: then no swap was seen under load.
        """
        later = [arrival for arrival in self._arrivals if arrival.at >= since]
        taken_up = next((place for place, arrival in enumerate(later) if digest in arrival.digests), None)
        if not taken_up:
            return None
        return 1000 * max(after.at - before.at for before, after in pairwise(later[: taken_up + 1]))

    def close(self) -> None:
        """Let go of the reader."""
        self._tail.close()

    def _read(self) -> None:
        records = self._tail.poll(_POLL_RECORDS, _POLL_SECONDS)
        ours = [record for record in records if wire.last(record.headers, wire.ORIGIN) == "gate"]
        if not ours:
            return
        digests = frozenset(wire.last(record.headers, wire.MODEL_DIGEST) or "" for record in ours)
        self._arrivals.append(Arrival(time.monotonic(), len(ours), digests))
        for record in ours:
            self._counts[wire.last(record.headers, wire.ROUTE) or ""] += 1
            if record.topic == self._topics.quarantine:
                p = wire.last(record.headers, wire.P_CHOSEN)
                shown = (record.value or b"").decode("utf-8", "replace")[:_WIDTH]
                self._held.append((wire.last(record.headers, wire.REASON) or "", "" if p is None else f"{float(p):.3f}", shown))

    def _picture(self, expected: int, rate: float) -> Group:
        done = sum(self._counts.values())
        routes = Table.grid(padding=(0, 3))
        routes.add_row(
            Text(f"clean {self._counts['clean']}", "green"),
            Text(f"quarantine {self._counts['quarantine']}", "yellow"),
            Text(f"dead letter {self._counts['dead-letter']}", "red"),
            Text(f"to come {expected - done}"),
            Text(f"{rate:.0f} records/s"),
        )
        held = Table(title="last held", title_justify="left", expand=False)
        held.add_column("reason", min_width=17)  # the record gives way on a narrow screen
        held.add_column("P(right)", min_width=8)
        held.add_column("record", no_wrap=True, overflow="ellipsis", max_width=_WIDTH)
        for reason, p, value in self._held:
            held.add_row(reason, p, as_shown(value))
        bar = Table.grid()
        bar.add_row(ProgressBar(total=expected, completed=done, width=60))  # alone it does not end its line
        return Group(bar, routes, held)


def _rate(arrivals: Sequence[Arrival]) -> float:
    """Return the records per second that came after the first arrival."""
    seconds = arrivals[-1].at - arrivals[0].at if arrivals else 0.0
    return sum(arrival.records for arrival in arrivals[1:]) / seconds if seconds > 0 else 0.0
