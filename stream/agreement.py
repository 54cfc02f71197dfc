"""Which value usually stands beside which: that a postcode belongs to a city is said by many records and by none alone.

Enters: the aspects of a stream's records, and of those that people called right. Leaves: rules from one aspect to another, how well a
record agrees with each, and whether people vouch for what it says. Soft functional dependencies: CORDS (Ilyas et al. 2004).
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream.unusual import MOST_LEVEL, level_of
from stream.values import FORM, LAST, WHOLE, Aspect

SAMPLE = 2_000
MOST_PREDICTORS = 4
FEWEST, LEAST_SHARE = 20, 0.05
LEAST_SUPPORT = 2  # records that agree on what is usual
# in nats a record: what says less is left out, and nothing may say more of the few records that it speaks of
LEAST_GAIN, MOST_GAIN, SMOOTH = 0.2, 2.0, 1.0
USUAL_RATIOS = (0.02, 0.2, 0.5, 0.999)

VOUCHED, UNSAID, DENIED = 1, 0, -1
_Levels = tuple[int, int, int]  # agreement, how unusual that is, and whether it is vouched for
_Quick = tuple[Aspect, str, dict[str, tuple[dict[str, _Levels], _Levels]]]  # by key: of values seen with it, and of all others


class Rule(NamedTuple):
    """One aspect says something of another: of records with `given`, how often each value stood at `told`.

    unusual: for each level of agreement, from never seen to the usual value, how unusual it is in this stream.
    by_form: values of another form are not asked, so that an area code is compared with those of telephones, not of mobiles, and how
    unusual a value is among the others is asked for each key by itself; a key of `counts` ends in the form's digest then.
    vouched: for keys of `counts`, the values that stood there in records that people called right.
    """

    given: Aspect
    told: Aspect
    counts: dict[str, dict[str, int]]
    unusual: list[int]
    by_form: bool = False
    vouched: Mapping[str, Sequence[str]] = {}  # noqa: RUF012

    def key_of(self, aspects: Mapping[Aspect, str]) -> str | None:
        """Return what a record's counts are found under, None where it says nothing."""
        key = aspects.get(self.given)
        if key is None or not self.by_form:
            return key
        own_form = aspects.get((self.told[0], FORM))
        return None if own_form is None else key + own_form

    def agreement(self, aspects: Mapping[Aspect, str], own: Mapping[Aspect, str]) -> int | None:
        """Return how a record's value compares with the usual one, 0 (never seen) to 4 (the usual); None where nothing is known.

        own: the aspects of the record as the memory counted it, which is left out; empty for a record to come.
        """
        key = self.key_of(aspects)
        seen = self.counts.get(key) if key is not None else None
        mine = aspects.get(self.told)
        if not seen or mine is None:
            return None
        its = own.get(self.told) if own and self.key_of(own) == key else None
        most = max(count - (its == name) for name, count in seen.items()) if its is not None else max(seen.values())
        if most < LEAST_SUPPORT:
            return None
        return bisect_left(USUAL_RATIOS, (seen.get(mine, 0) - (its == mine)) / most)

    def strangeness(self, aspects: Mapping[Aspect, str], own: Mapping[Aspect, str]) -> int:
        """Return how unusual a record's value is among those with the same key, as `agreement` compares it."""
        key = self.key_of(aspects)
        seen = self.counts.get(key) if key is not None else None
        if not seen:
            return 0
        its = own.get(self.told) if own and self.key_of(own) == key else None
        others = [count - (name == its) for name, count in seen.items()]
        mine = aspects.get(self.told)
        return _strange(others, 0 if mine is None else seen.get(mine, 0) - (mine == its))

    def vouching(self, aspects: Mapping[Aspect, str]) -> int:
        """Return whether people vouch for a record's value: VOUCHED, UNSAID, or DENIED where they do for another one, and for one alone."""
        key, mine = self.key_of(aspects), aspects.get(self.told)
        return UNSAID if key is None or mine is None else self._vouching(key, mine)

    def _vouching(self, key: str, mine: str | None) -> int:
        known = self.vouched.get(key, ())
        return VOUCHED if mine in known else DENIED if len(known) == 1 else UNSAID

    def vouched_by(self, rows: Sequence[Mapping[Aspect, str]]) -> "Rule":
        """Return this rule as records that people called right vouch for it."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for row in rows:
            key = self.key_of(row)
            if key in self.counts and self.told in row:
                found[key][row[self.told]] = None
        return self._replace(vouched={key: list(values) for key, values in found.items()})

    def quick(self) -> _Quick:
        """Return the same for records to come: for each key the agreement of every value of `told` that it was seen with."""
        usual = {}
        for key, seen in self.counts.items():
            most = max(seen.values())
            if most >= LEAST_SUPPORT:
                levels = {count: self._levels(list(seen.values()), count, most) for count in {0, *seen.values()}}
                known = [*seen, *(value for value in self.vouched.get(key, ()) if value not in seen)]
                found = {value: (*levels[seen.get(value, 0)], self._vouching(key, value)) for value in known}
                usual[key] = (found, (*levels[0], self._vouching(key, None)))
        return self.given, self.told[1], usual

    def _levels(self, others: Sequence[int], count: int, most: int) -> tuple[int, int]:
        agreement = bisect_left(USUAL_RATIOS, count / most)
        return agreement, _strange(others, count) if self.by_form else self.unusual[agreement]


def _strange(others: Sequence[int], count: int) -> int:
    """Return how unusual it is to come no oftener than `count` among values that came so often, 0 to 4.

    What never came is as probable as what came once was (Good 1953).
    """
    total = sum(others)
    if not total:
        return 0
    no_oftener = sum(each for each in others if each <= max(1, count))
    return level_of(min(1.0, max(0.5, no_oftener) / total))


def rule_of(rows: Sequence[dict[Aspect, str]], given: Aspect, told: Aspect) -> Rule:
    """Count what stands at `told` beside each value of `given`."""
    pairs: dict[str, Counter[str]] = defaultdict(Counter)
    rule = Rule(given, told, {}, [], by_form=told[1] != WHOLE)
    for row in rows:
        key = rule.key_of(row)
        if key is not None and told in row:
            pairs[key][row[told]] += 1
    rule.counts.update({key: dict(counts) for key, counts in pairs.items() if max(counts.values()) >= LEAST_SUPPORT})
    levels = Counter(level for row in _sample(rows) if (level := rule.agreement(row, row)) is not None)
    total = max(1, levels.total())
    seen = 0.5  # a level that the stream never shows is as unusual as half a record
    for level in range(MOST_LEVEL + 1):
        seen += levels[level]
        rule.unusual.append(level_of(min(1.0, seen / total)))
    return rule


def dependencies(rows: Sequence[dict[Aspect, str]], paths: set[str]) -> dict[str, list[tuple[Aspect, Aspect]]]:
    """Return for each path which aspects of others say most about its whole value, and then which about a part of it.

    From an even sample, each record left out in turn. One says whether a twin is as it was, the other holds for newcomers, too.
    """
    sample = _sample(rows)
    often = Counter(aspect for row in sample for aspect in row)
    codes: dict[Aspect, np.ndarray] = {}
    for aspect, count in often.items():
        if aspect[0] not in paths or aspect[1] in (LAST, FORM) or count < max(FEWEST, LEAST_SHARE * len(sample)):
            continue
        numbers: dict[str, int] = {}
        codes_R = np.array([numbers.setdefault(row[aspect], len(numbers)) if aspect in row else -1 for row in sample])
        whole_R = codes.get((aspect[0], WHOLE))
        if whole_R is None or len(numbers) < whole_R.max() + 1:  # else it tells records apart as the whole value does
            codes[aspect] = codes_R
    best: dict[tuple[str, bool], dict[str, tuple[float, Aspect, Aspect]]] = defaultdict(dict)
    for told, told_R in codes.items():
        of_kind = best[told[0], told[1] == WHOLE]
        for given, given_R in codes.items():
            if told[0] != given[0]:
                gain = _gain(given_R, told_R)
                if gain > of_kind.get(given[0], (0.0,))[0]:
                    of_kind[given[0]] = (gain, given, told)
    return {
        path: [
            (given, told)
            for is_whole in (True, False)
            for _, given, told in sorted(best[path, is_whole].values(), key=lambda each: -each[0])[:MOST_PREDICTORS]
        ]
        for path in {path: None for path, _ in list(best)}
    }


def _gain(given_R: np.ndarray, told_R: np.ndarray) -> float:
    """Return by how many nats a record `given` makes `told` more probable, each record left out in turn; 0 for little.

    What `given` was not seen with is as probable beside it as anywhere, as far as SMOOTH records outweigh those that it was seen with.
    """
    both = (given_R >= 0) & (told_R >= 0)
    given, told = given_R[both], told_R[both]
    if len(given) < FEWEST:
        return 0.0
    of_given, of_told = np.bincount(given)[given], np.bincount(told)[told]
    _, which, of_pair = np.unique(given * (told.max() + 1) + told, return_inverse=True, return_counts=True)
    alone = (of_told - 1 + SMOOTH) / len(told)
    beside = (of_pair[which] - 1 + SMOOTH * alone) / (of_given - 1 + SMOOTH)
    # what comes once says nothing: of it, anything would look more probable than of thousands of others
    gain = float(np.where(of_told > 1, np.minimum(np.log(beside / alone), MOST_GAIN), 0.0).mean())
    return gain if gain >= LEAST_GAIN else 0.0


def _sample(rows: Sequence[dict[Aspect, str]]) -> Sequence[dict[Aspect, str]]:
    return rows[:: max(1, len(rows) // SAMPLE)]
