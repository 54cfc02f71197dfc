"""Which value usually stands beside which: that a postcode belongs to a city is said by many records and by none alone.

Enters: the aspects of a stream's records. Leaves: rules from one aspect to another, and how well a record agrees with each. Soft
functional dependencies: CORDS (Ilyas et al. 2004).
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream.unusual import MOST_LEVEL, level_of
from stream.values import LAST, WHOLE, Aspect

SAMPLE = 2_000
MOST_PREDICTORS = 4
FEWEST, LEAST_SHARE = 20, 0.05
LEAST_SUPPORT = 2  # records that agree on what is usual
# in nats a record: what says less is left out, and nothing may say more of the few records that it speaks of
LEAST_GAIN, MOST_GAIN, SMOOTH, PREFER_WHOLE = 0.2, 2.0, 0.5, 1.3
USUAL_RATIOS = (0.02, 0.2, 0.5, 0.999)

_Quick = tuple[Aspect, str, dict[str, dict[str, int]], list[int]]


class Rule(NamedTuple):
    """One aspect says something of another: of records with `given`, how often each value stood at `told`.

    unusual: for each level of agreement, from never seen to the usual value, how unusual it is in this stream.
    """

    given: Aspect
    told: Aspect
    counts: dict[str, dict[str, int]]
    unusual: list[int]

    def agreement(self, aspects: Mapping[Aspect, str], own: Mapping[Aspect, str]) -> int | None:
        """Return how a record's value compares with the usual one, 0 (never seen) to 4 (the usual); None where nothing is known.

        own: the aspects of the record as the memory counted it, which is left out; empty for a record to come.
        """
        key = aspects.get(self.given)
        seen = self.counts.get(key) if key is not None else None
        mine = aspects.get(self.told)
        if not seen or mine is None:
            return None
        its = own.get(self.told) if own and own.get(self.given) == key else None
        most = max(count - (its == name) for name, count in seen.items()) if its is not None else max(seen.values())
        if most < LEAST_SUPPORT:
            return None
        return bisect_left(USUAL_RATIOS, (seen.get(mine, 0) - (its == mine)) / most)

    def quick(self) -> _Quick:
        """Return the same for records to come: for each value of `given` the agreement of every value of `told` that it was seen with."""
        usual = {}
        for key, seen in self.counts.items():
            most = max(seen.values())
            if most >= LEAST_SUPPORT:
                usual[key] = {value: bisect_left(USUAL_RATIOS, count / most) for value, count in seen.items()}
        return self.given, self.told[1], usual, self.unusual


def rule_of(rows: Sequence[dict[Aspect, str]], given: Aspect, told: Aspect) -> Rule:
    """Count what stands at `told` beside each value of `given`."""
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if given in row and told in row:
            pairs[row[given]][row[told]] += 1
    rule = Rule(given, told, {key: dict(counts) for key, counts in pairs.items() if max(counts.values()) >= LEAST_SUPPORT}, [])
    levels = Counter(level for row in _sample(rows) if (level := rule.agreement(row, row)) is not None)
    total = max(1, levels.total())
    seen = 0.5  # a level that the stream never shows is as unusual as half a record
    for level in range(MOST_LEVEL + 1):
        seen += levels[level]
        rule.unusual.append(level_of(min(1.0, seen / total)))
    return rule


def dependencies(rows: Sequence[dict[Aspect, str]], paths: set[str]) -> dict[str, list[tuple[Aspect, Aspect]]]:
    """Return for each path which aspects of others say most about it, from an even sample, each record left out in turn."""
    sample = _sample(rows)
    often = Counter(aspect for row in sample for aspect in row)
    codes: dict[Aspect, np.ndarray] = {}
    for aspect, count in often.items():
        if aspect[0] not in paths or aspect[1] == LAST or count < max(FEWEST, LEAST_SHARE * len(sample)):
            continue
        numbers: dict[str, int] = {}
        codes_R = np.array([numbers.setdefault(row[aspect], len(numbers)) if aspect in row else -1 for row in sample])
        whole_R = codes.get((aspect[0], WHOLE))
        if whole_R is None or len(numbers) < whole_R.max() + 1:  # else it tells records apart as the whole value does
            codes[aspect] = codes_R
    best: dict[str, dict[str, tuple[float, Aspect, Aspect]]] = defaultdict(dict)
    for told, told_R in codes.items():
        for given, given_R in codes.items():
            if told[0] != given[0]:
                gain = _gain(given_R, told_R) * (PREFER_WHOLE if told[1] == WHOLE else 1)
                if gain > best[told[0]].get(given[0], (0.0,))[0]:
                    best[told[0]][given[0]] = (gain, given, told)
    return {
        path: [(given, told) for _, given, told in sorted(found.values(), key=lambda each: -each[0])[:MOST_PREDICTORS]]
        for path, found in best.items()
    }


def _gain(given_R: np.ndarray, told_R: np.ndarray) -> float:
    """Return by how many nats a record `given` makes `told` more probable, each record left out in turn; 0 for little."""
    both = (given_R >= 0) & (told_R >= 0)
    given, told = given_R[both], told_R[both]
    if len(given) < FEWEST:
        return 0.0
    of_given, of_told = np.bincount(given)[given], np.bincount(told)[told]
    _, which, of_pair = np.unique(given * (told.max() + 1) + told, return_inverse=True, return_counts=True)
    alone = (of_told - 1 + SMOOTH) / len(told)
    beside = (of_pair[which] - 1 + SMOOTH) / of_given
    # what comes once says nothing: of it, anything would look more probable than of thousands of others
    gain = float(np.where((of_given > 1) & (of_told > 1), np.minimum(np.log(beside / alone), MOST_GAIN), 0.0).mean())
    return gain if gain >= LEAST_GAIN else 0.0


def _sample(rows: Sequence[dict[Aspect, str]]) -> Sequence[dict[Aspect, str]]:
    return rows[:: max(1, len(rows) // SAMPLE)]
