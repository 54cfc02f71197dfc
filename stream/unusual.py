"""How unusual a value is among those of other records, by how seldom it comes.

Enters: how often each value of one aspect came. Leaves: levels from 0 to 4, by the share of records whose value comes no oftener.
"""

import math
from bisect import bisect_right
from collections import Counter
from typing import NamedTuple

UNUSUAL_NATS = (1.0, 2.0, 3.5, 5.0)
MOST_LEVEL = 4

Tails = tuple[list[int], list[int]]  # counts in other records, rising, and how unusual it is to come no oftener


class Counts(NamedTuple):
    """How often each value of one aspect came, and how unusual a low count is; values as unusual as unknown ones are left out."""

    counts: dict[str, int]
    tails: Tails

    @classmethod
    def of(cls, values: Counter[str]) -> "Counts":
        """Take all values of an aspect."""
        records: Counter[int] = Counter()
        for count in values.values():
            records[count - 1] += count
        total, seen, found, levels = records.total(), 0, [], []
        for count in sorted(records):
            seen += records[count]
            found.append(count)
            levels.append(level_of(seen / total))
        whole = cls(dict(values), (found, levels))
        never = whole.of_count(0)
        return cls(
            {key: count for key, count in values.items() if not whole.of_count(count) == whole.of_count(count - 1) == never}, whole.tails
        )

    def level(self, value: str, own: str | None) -> int:
        """Return how unusual it is that `value` comes so seldom in records other than the one that has `own`."""
        return self.of_count(max(0, self.counts.get(value, 0) - (own == value)))

    def of_count(self, count: int) -> int:
        """Return how unusual it is to come in no more than `count` other records."""
        counts, levels = self.tails
        place = bisect_right(counts, count) - 1
        return levels[place] if place >= 0 else MOST_LEVEL


def level_of(share: float) -> int:
    """Return how unusual it is to be among so small a share, in levels."""
    return sum(-math.log(share) >= limit for limit in UNUSUAL_NATS)
