"""How far what passes now is from what passed when the model was made: the population stability index of d and of every field.

Enters: a version's baseline, and records that it lets through. Leaves: PSI = Σ (now - then) ln(now / then) over categories, in
nats, less what chance alone would give; below .1 nothing has changed, above .25 much has (Siddiqi 2006; the divergence is
Jeffreys'). Categories are deciles of d and of numbers, the values of fields that have few, else patterns of characters; a missing
field is a category of its own.
Values are kept as digests, paths in plain text where at least one record in a hundred has them.
"""

from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from stream import kept
from stream.render import Rendered
from stream.values import digest_of_text, frequent_paths, number_of, runs, values_of

BASELINE_FILE = "baseline.json"
FEWEST_RECORDS = 200
WINDOW_RECORDS = 1_000
_DECILES = tuple(n / 10 for n in range(1, 10))
_MOST_VALUES, _COVERED = 20, 0.95
_FEWEST_NUMBERS = 20
_SMOOTH = 0.5


class Sorter(NamedTuple):
    """How the values of a field fall into categories: 0 is missing, 1 what none of the others is."""

    kind: Literal["number", "value", "pattern"]
    limits: list[float]
    known: dict[str, int]

    @property
    def categories(self) -> int:
        """How many there are."""
        return 3 + len(self.limits) if self.kind == "number" else 2 + len(self.known)

    def of(self, value: str | None) -> int:
        """Return the category of a value, None for a missing field."""
        if value is None:
            return 0
        if self.kind == "number":
            number = number_of(value)
            return 1 if number is None else 2 + int(np.searchsorted(self.limits, number))
        return self.known.get(digest_of_text(value if self.kind == "value" else runs(value)), 1)

    @classmethod
    def for_values(cls, values: Sequence[str]) -> "Sorter":
        """Choose categories for the values that a field had."""
        numbers = [number for value in values if (number := number_of(value)) is not None]
        if len(numbers) >= _COVERED * len(values) and len(set(numbers)) >= _FEWEST_NUMBERS:
            return cls("number", sorted({float(limit) for limit in np.quantile(numbers, _DECILES)}), {})
        often = Counter(values).most_common(_MOST_VALUES)
        if sum(count for _, count in often) >= _COVERED * len(values):
            return cls("value", [], {digest_of_text(value): place for place, (value, _) in enumerate(often, start=2)})
        shapes = Counter(map(runs, values)).most_common(_MOST_VALUES)
        return cls("pattern", [], {digest_of_text(run): place for place, (run, _) in enumerate(shapes, start=2)})


class Spread(NamedTuple):
    """A sorter, and the share of records in each of its categories."""

    sorter: Sorter
    counts: list[int]


class Baseline:
    """What passed when a version was made."""

    def __init__(self, threshold: float | None, d: Spread, fields: dict[str, Spread]) -> None:
        """Take the p_chosen from which a record counts (None: that of the gate), the spread of raw d, and that of every field by path."""
        self.threshold = threshold
        self.d = d
        self.fields = fields

    @classmethod
    def of(cls, records: Sequence[Rendered], d: Sequence[float], threshold: float) -> "Baseline | None":
        """Count records of at least `threshold`, each with its raw d; None where they are too few to compare with."""
        if len(records) < FEWEST_RECORDS:
            return None
        rows = [values_of(record) for record in records]
        fields = {}
        for path in frequent_paths(rows):
            sorter = Sorter.for_values([row[path] for row in rows if path in row])
            fields[path] = Spread(sorter, _counts(sorter, [row.get(path) for row in rows]))
        of_d = Sorter("number", sorted({float(limit) for limit in np.quantile(d, _DECILES)}), {})
        return cls(threshold, Spread(of_d, _counts(of_d, [repr(float(each)) for each in d])), fields)

    @property
    def text(self) -> str:
        """What a version keeps, as JSON."""
        return kept.to_text({"threshold": self.threshold, "d": self.d, "fields": self.fields})

    @classmethod
    def from_text(cls, text: str) -> "Baseline":
        """Return what `text` was. Raises ModelRefused."""

        def make(state: dict[str, Any]) -> Baseline:
            return cls(state.get("threshold"), _spread(state["d"]), {path: _spread(each) for path, each in state["fields"].items()})

        return kept.from_text(BASELINE_FILE, text, make)


class Drifted(NamedTuple):
    """PSI of d, and of the field that has changed most, with its path; what chance gives is taken off."""

    d: float
    fields: float
    path: str | None

    @property
    def most(self) -> float:
        """The larger of the two."""
        return max(self.d, self.fields)


class Drift:
    """The last records that passed, beside a baseline."""

    def __init__(self, baseline: Baseline, window_records: int = WINDOW_RECORDS) -> None:
        """Start empty: nothing is said before the window is full."""
        self._baseline = baseline
        self._paths = list(baseline.fields)
        self._window: deque[tuple[int, ...]] = deque(maxlen=window_records)
        self._counts = [np.zeros(spread.sorter.categories, dtype=np.int64) for spread in self._spreads()]

    def add(self, record: Rendered, d: float) -> None:
        """Add one record that passed, with its raw d; the oldest one leaves a full window."""
        values = values_of(record)
        row = (self._baseline.d.sorter.of(repr(d)), *(self._baseline.fields[path].sorter.of(values.get(path)) for path in self._paths))
        if len(self._window) == self._window.maxlen:
            for counts, category in zip(self._counts, self._window[0], strict=True):
                counts[category] -= 1
        self._window.append(row)
        for counts, category in zip(self._counts, row, strict=True):
            counts[category] += 1

    def found(self) -> Drifted | None:
        """Return how far the window is from the baseline; None until it is full."""
        if len(self._window) < (self._window.maxlen or 0):
            return None
        both = zip(self._spreads(), self._counts, strict=True)
        of_d, *of_fields = (max(0.0, psi(spread.counts, counts) - by_chance(spread.counts, counts)) for spread, counts in both)
        worst = int(np.argmax(of_fields)) if of_fields else None
        return Drifted(of_d, 0.0 if worst is None else of_fields[worst], None if worst is None else self._paths[worst])

    def _spreads(self) -> list[Spread]:
        return [self._baseline.d, *(self._baseline.fields[path] for path in self._paths)]


def psi(then: Sequence[int], now: Sequence[int] | np.ndarray) -> float:
    """Return the population stability index of two counts over the same categories, in nats; half a record is added to each."""
    p, q = (np.asarray(counts, dtype=np.float64) + _SMOOTH for counts in (then, now))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def by_chance(then: Sequence[int], now: Sequence[int] | np.ndarray) -> float:
    """Return what the index of two samples of one population comes to on the average, in nats: half a chi-square's, both ways."""
    categories = int(((np.asarray(then) + np.asarray(now)) > 0).sum())
    return (categories - 1) * (1 / max(1, int(np.sum(then))) + 1 / max(1, int(np.sum(now))))


def load_baseline(directory: Path) -> Baseline | None:
    """Return the baseline of a version; None where it has none, as an imported checkpoint. Raises ModelRefused."""
    return kept.load(directory, BASELINE_FILE, Baseline.from_text)


def _counts(sorter: Sorter, values: Sequence[str | None]) -> list[int]:
    return [int(count) for count in np.bincount([sorter.of(value) for value in values], minlength=sorter.categories)]


def _spread(given: Any) -> Spread:
    (kind, limits, known), counts = given
    spread = Spread(Sorter(kind, limits, known), counts)
    if len(counts) != spread.sorter.categories:
        raise ValueError(f"{len(counts)} counts for {spread.sorter.categories} categories")
    return spread
