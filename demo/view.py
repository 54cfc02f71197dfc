"""The demo's live view: rates, routes and the last held records, from a plain reader of the output topics."""

import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from demo.ledger import outcome_of
from foundation.errors import WinnowError
from stream.config import TopicSettings

_PATIENCE_SECONDS = 240.0
_HELD_SHOWN = 8
_WIDTH = 100


class LiveView:
    """Reads the outputs as they are committed and shows them; off a terminal it prints a line every few seconds."""

    def __init__(self, bootstrap_servers: str, topics: TopicSettings, expected: int, console: Console) -> None:
        """Assign all output partitions from their beginning."""
        self._topics = topics
        self._expected = expected
        self._console = console
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "demo-view",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        known = self._consumer.list_topics(timeout=30).topics
        names = (topics.clean, topics.quarantine, topics.dead_letter)
        self._consumer.assign([TopicPartition(name, partition, 0) for name in names for partition in known[name].partitions])
        self._counts: Counter[str] = Counter()
        self._held: deque[tuple[str, str, str]] = deque(maxlen=_HELD_SHOWN)
        self._first = 0.0
        self._last = 0.0
        self._live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None

    def __enter__(self) -> "LiveView":
        """Start showing."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop showing."""
        if self._live is not None:
            self._live.stop()
        self._consumer.close()

    def watch(self, still_running: Callable[[], bool]) -> float:
        """Show until every expected record is out; return the records per second of the gate."""
        deadline, said = time.monotonic() + _PATIENCE_SECONDS, 0.0
        while (done := sum(self._counts.values())) < self._expected and still_running():
            self._read()
            if sum(self._counts.values()) > done:
                deadline = time.monotonic() + _PATIENCE_SECONDS
            elif time.monotonic() > deadline:
                raise WinnowError(f"no record left the gate for {_PATIENCE_SECONDS:.0f} s; {done} of {self._expected} were routed")
            if self._live is not None:
                self._live.update(self._picture())
            elif time.monotonic() - said > 5:  # noqa: PLR2004
                said = time.monotonic()
                self._console.print(f"routed {sum(self._counts.values())} of {self._expected}: {dict(self._counts)}")
        return self.rate

    @property
    def rate(self) -> float:
        """Records per second between the first and the last transaction seen."""
        seconds = self._last - self._first
        return sum(self._counts.values()) / seconds if seconds > 0 else 0.0

    def _read(self) -> None:
        for message in self._consumer.consume(1_000, 0.25):
            if message.error() is not None:
                continue
            now = time.monotonic()
            self._first = self._first or now
            self._last = now
            outcome = outcome_of(message)
            self._counts[outcome.route] += 1
            if outcome.topic == self._topics.quarantine:
                p = "" if outcome.p_chosen is None else f"{outcome.p_chosen:.3f}"
                self._held.append((outcome.reason, p, (outcome.value or b"").decode("utf-8", "replace")[:_WIDTH]))

    def _picture(self) -> Group:
        done = sum(self._counts.values())
        routes = Table.grid(padding=(0, 3))
        routes.add_row(
            Text(f"clean {self._counts['clean']}", "green"),
            Text(f"quarantine {self._counts['quarantine']}", "yellow"),
            Text(f"dead letter {self._counts['dead-letter']}", "red"),
            Text(f"lag {self._expected - done}"),
            Text(f"{self.rate:.0f} records/s"),
        )
        held = Table(title="last held", title_justify="left", expand=False)
        held.add_column("reason")
        held.add_column("P(right)")
        held.add_column("record", no_wrap=True, overflow="ellipsis", max_width=_WIDTH)
        for reason, p, value in self._held:
            held.add_row(reason, p, Text(value))
        return Group(ProgressBar(total=self._expected, completed=done, width=60), routes, held)
