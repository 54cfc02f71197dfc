"""What the stream itself says of a record: how often a value comes, and what comes beside the others.

Enters: the unlabelled records that a model learned from, once, as counts. Leaves: for each field of a record how unusual
its value is among those of other records (Seen). The same record and memory give the same answer wherever and whenever:
the gate stays stateless, a version carries its memory. That a postcode belongs to a city is said by many records and by
none alone (docs/experiments/judgement.md). Soft functional dependencies: CORDS (Ilyas et al. 2004).

A record that the memory was made of is looked at without itself, so that what was learned holds for records to come.
Values and records are kept as digests; in plain text only the paths of fields that many records have.
"""

import hashlib
import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from stream.render import Rendered

SAMPLE = 2_000
MOST_PATHS, PATH_SHARE = 64, 0.01
MOST_PREDICTORS = 4
MOST_COMMON, COMMON_SHARE = 40, 0.01
FEWEST, LEAST_SHARE = 20, 0.05
LEAST_SUPPORT = 2  # records that agree on what is usual
# in nats a record: what says less is left out, and nothing may say more of the few records that it speaks of
LEAST_GAIN, MOST_GAIN, SMOOTH, PREFER_WHOLE = 0.2, 2.0, 0.5, 1.3
_BEGINNINGS = tuple((f"first {length}", length) for length in (2, 3, 4, 6, 9))
UNUSUAL_NATS = (1.0, 2.0, 3.5, 5.0)
USUAL_RATIOS = (0.02, 0.2, 0.5, 0.999)
MOST_LEVEL = 4
WHOLE, LAST, FLOOR = "value", "last 2", "whole part"
_DIGEST_BYTES = 6
_CACHED, _LONGEST_REMEMBERED = 1 << 17, 200

Aspect = tuple[str, str]  # (path, which part of the value)
_Quick = tuple[Aspect, str, dict[str, dict[str, int]], list[int]]
_Told = tuple[tuple[int, int] | None, dict[str, str], str | None]
Tails = tuple[list[int], list[int]]  # counts in other records, rising, and how unusual it is to come no oftener


class Seen(NamedTuple):
    """How unusual a field is, in levels from 0 to 4 (rare, odd and unusual: 1, 2, 3.5 and 5 nats).

    rare: the value, its beginning, end or whole part comes so seldom. odd: its pattern does. apart: how far it is from the
    value that usually comes beside the others, at worst, 0 the usual one and 4 never seen; None where nothing is known.
    unusual: how unusual it is to be so far apart. amid: how far apart it is on the average of all that are known, not at worst.
    value: its digest, if many records have it.
    """

    path: str
    rare: int
    odd: int
    apart: int | None
    unusual: int
    is_empty: bool
    amid: int
    value: str | None


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

    def quick(self) -> "_Quick":
        """Return the same for records to come: for each value of `given` the agreement of every value of `told` that it was seen with."""
        usual = {}
        for key, seen in self.counts.items():
            most = max(seen.values())
            if most >= LEAST_SUPPORT:
                usual[key] = {value: bisect_left(USUAL_RATIOS, count / most) for value, count in seen.items()}
        return self.given, self.told[1], usual, self.unusual


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
            levels.append(_level(seen / total))
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


class Memory:
    """Counts of values, of patterns, of shapes, and of values beside values."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        """Take what `as_state` gave."""
        self._known = set(state["known"])
        self._shapes = Counts(*state["shapes"])
        self._patterns = {path: Counts(*counts) for path, counts in state["patterns"].items()}
        self._parts = {path: {which: Counts(*counts) for which, counts in parts.items()} for path, parts in state["parts"].items()}
        self._rules = {
            path: [Rule((given[0], given[1]), (told[0], told[1]), counts, unusual) for given, told, counts, unusual in rules]
            for path, rules in state["rules"].items()
        }
        self._common = {path: set(values) for path, values in state.get("common", {}).items()}
        self._quick = {path: [rule.quick() for rule in rules] for path, rules in self._rules.items()}
        self._asked: dict[str, set[str]] = defaultdict(set)
        for rule in chain.from_iterable(self._rules.values()):
            for path, which in (rule.given, rule.told):
                self._asked[path].add(which)
        self._remembered: dict[tuple[str, str], _Told] = {}

    def as_state(self) -> dict[str, Any]:
        """Return what JSON can keep."""
        return {
            "known": sorted(self._known), "shapes": self._shapes, "patterns": self._patterns, "parts": self._parts, "rules": self._rules,
            "common": {path: sorted(values) for path, values in self._common.items()},
        }  # fmt: skip

    @classmethod
    def of(cls, records: Sequence[Rendered]) -> "Memory":
        """Count a stream's records, each different one once."""
        different = list({record.text: record for record in records}.values())
        values = [values_of(record) for record in different]
        paths = frequent_paths(values)
        rows = [dict(_aspects(row)) for row in values]
        parts: dict[str, dict[str, Counter[str]]] = {path: defaultdict(Counter) for path in paths}
        for row in rows:
            for (path, which), part in row.items():
                if path in parts:
                    parts[path][which][part] += 1
        patterns = {path: Counter(digest_of_text(pattern(row[path])) for row in values if path in row) for path in paths}
        state = {
            "known": {digest_of_text(record.text) for record in different},
            "shapes": Counts.of(Counter(_shape(row) for row in values)),
            "patterns": {path: Counts.of(counts) for path, counts in patterns.items()},
            "parts": {path: {which: Counts.of(counts) for which, counts in found.items()} for path, found in parts.items()},
            "common": {path: _common(row[path] for row in values if path in row) for path in paths},
            "rules": {path: [_rule(rows, *each) for each in found] for path, found in _dependencies(rows, set(paths)).items()},
        }
        return cls(state)

    def look(self, record: Rendered, source: Rendered | None = None) -> tuple[list[Seen], int]:
        """Return what other records say of each field, in order, and how unusual it is to have these fields (0 to 4).

        `source` is the record of the stream that this one was made of, if it is a corrupted copy.
        """
        values = values_of(record)
        own = source if source is not None else record if digest_of_text(record.text) in self._known else None
        if own is None:
            return self._look_at_new(record, values)
        own_values = values if own is record else values_of(own)
        aspects, own_aspects = dict(_aspects(values)), dict(_aspects(own_values))
        seen = {}
        for path, value in values.items():
            alone = self._alone(path, value, own_values.get(path))
            levels = [
                (level, rule.unusual[level])
                for rule in self._rules.get(path, ())
                if (level := rule.agreement(aspects, own_aspects)) is not None
            ]
            seen[path] = _seen(path, value, alone, levels, self._common_one(path, value))
        return [seen[field.path] for field in record.fields], self._shapes.level(_shape(values), _shape(own_values))

    def _look_at_new(self, record: Rendered, values: Mapping[str, str]) -> tuple[list[Seen], int]:
        """Look at a record that is not of the stream, which is what a gate does all day: nothing is left out, values come again."""
        told = {path: self._told(path, value) for path, value in values.items()}
        seen = {}
        for path, value in values.items():
            alone, mine, common = told[path]
            levels = []
            for (other, given), which, usual, unusual in self._quick.get(path, ()):
                its = told.get(other)
                ratios = usual.get(its[1].get(given, "")) if its is not None else None
                key = mine.get(which)
                if ratios is not None and key is not None:
                    level = ratios.get(key, 0)
                    levels.append((level, unusual[level]))
            seen[path] = _seen(path, value, alone, levels, common)
        return [seen[field.path] for field in record.fields], self._shapes.level(_shape(values), None)

    def _told(self, path: str, value: str) -> "_Told":
        """Return how rare and odd a value is, and the digests of its parts that rules ask for; remembered for values that come again."""
        found = self._remembered.get((path, value))
        if found is None:
            found = self._look_up(path, value)
            if path in self._parts and len(value) <= _LONGEST_REMEMBERED:
                if len(self._remembered) >= _CACHED:
                    self._remembered.clear()
                self._remembered[path, value] = found
        return found

    def _look_up(self, path: str, value: str) -> "_Told":
        """Return what `_told` remembers; a part is digested only where some value of it is known, or a rule asks for it."""
        parts, asked = self._parts.get(path), self._asked.get(path, ())
        if parts is None:
            return None, {}, None
        rare, keys = 0, {}
        for which, part in _texts_of(value):
            counts = parts.get(which)
            is_known = counts is not None and counts.counts
            key = digest_of_text(part) if is_known or which in asked else ""
            if which in asked:
                keys[which] = key
            if counts is not None:
                rare = max(rare, counts.of_count(counts.counts.get(key, 0)))
        return (rare, self._patterns[path].level(digest_of_text(pattern(value)), None)), keys, self._common_one(path, value)

    def _common_one(self, path: str, value: str) -> str | None:
        """Return the digest of a value that many records have at this path, else None."""
        common = self._common.get(path)
        if not common:
            return None
        digest = digest_of_text(value)
        return digest if digest in common else None

    def _alone(self, path: str, value: str, own: str | None) -> tuple[int, int] | None:
        """Return how rare and how odd a value is, its record's own left out; None of a path that few records have."""
        parts = self._parts.get(path)
        if parts is None:
            return None
        its = {} if own is None else dict(_parts_of(own))
        rare = max((parts[which].level(key, its.get(which)) for which, key in _parts_of(value) if which in parts), default=0)
        own_pattern = None if own is None else digest_of_text(pattern(own))
        return rare, self._patterns[path].level(digest_of_text(pattern(value)), own_pattern)


def _seen(path: str, value: str, alone: tuple[int, int] | None, levels: Sequence[tuple[int, int]], common: str | None) -> Seen:
    """Put together what is said of a value alone and beside the others: (agreement, how unusual) of every rule that says anything."""
    if alone is None:
        return Seen(path, MOST_LEVEL, MOST_LEVEL, None, 0, not value, 0, None)
    if not levels:
        return Seen(path, *alone, None, 0, not value, 0, common)
    agreements = [level for level, _ in levels]
    apart, amid = MOST_LEVEL - min(agreements), MOST_LEVEL - round(sum(agreements) / len(agreements))
    return Seen(path, *alone, apart, max(unusual for _, unusual in levels), not value, amid, common)


def _common(values: Iterable[str]) -> set[str]:
    """Return the digests of the values that many records have."""
    counts = Counter(values)
    least = max(FEWEST, COMMON_SHARE * counts.total())
    return {digest_of_text(value) for value, count in counts.most_common(MOST_COMMON) if count >= least}


def values_of(record: Rendered) -> dict[str, str]:
    """Return the values of a record by path; the last counts where a path comes twice."""
    return {field.path: record.text[field.start : field.end] for field in record.fields}


def frequent_paths(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the paths that many records have, the most frequent first: what few have may be somebody's data."""
    often = Counter(path for row in rows for path in row)
    return [path for path, count in often.most_common(MOST_PATHS) if count >= max(2, PATH_SHARE * len(rows))]


@lru_cache(_CACHED)
def pattern(value: str) -> str:
    """Return the classes of a value's characters: digits 9, ASCII letters a, other letters w, the rest as it is."""
    return "".join("9" if c.isdecimal() else ("a" if c.isascii() else "w") if c.isalpha() else c for c in value)


def _aspects(values: Mapping[str, str]) -> Iterator[tuple[Aspect, str]]:
    """Yield digests of the whole value of every path, its beginnings, its end, and the whole part of a number."""
    for path, value in values.items():
        for which, key in _parts_of(value):
            yield (path, which), key


@lru_cache(_CACHED)
def _parts_of(value: str) -> tuple[tuple[str, str], ...]:
    return tuple((which, digest_of_text(part)) for which, part in _texts_of(value))


def _texts_of(value: str) -> list[tuple[str, str]]:
    found = [(WHOLE, value), *((name, value[:length]) for name, length in _BEGINNINGS), (LAST, value[-2:])]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        found.append((FLOOR, str(math.floor(number))))
    return found


def _shape(values: Mapping[str, str]) -> str:
    return digest_of_text("\n".join(values))


def _rule(rows: Sequence[dict[Aspect, str]], given: Aspect, told: Aspect) -> Rule:
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
        rule.unusual.append(_level(min(1.0, seen / total)))
    return rule


def _dependencies(rows: Sequence[dict[Aspect, str]], paths: set[str]) -> dict[str, list[tuple[Aspect, Aspect]]]:
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


def _level(share: float) -> int:
    """Return how unusual it is to be among so small a share, in levels."""
    return sum(-math.log(share) >= limit for limit in UNUSUAL_NATS)


def digest_of_text(text: str) -> str:
    """Return the 48 bits that stand for a text, as hexadecimal digits."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=_DIGEST_BYTES).hexdigest()
