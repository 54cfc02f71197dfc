"""What the stream itself says of a record: how often a value comes, and what comes beside the others.

Enters: the unlabelled records that a model learned from, once, as counts. Leaves: for each field of a record how unusual
its value is among those of other records (Seen). The same record and memory give the same answer wherever and whenever:
the gate stays stateless, a version carries its memory (docs/experiments/judgement.md).

A record that the memory was made of is looked at without itself, so that what was learned holds for records to come.
Values and records are kept as digests; in plain text only the paths of fields that many records have.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

from stream.agreement import DENIED, VOUCHED, Rule, dependencies, rule_of
from stream.render import Rendered
from stream.unusual import MOST_LEVEL, Counts
from stream.values import FORM, WHOLE, aspects_of, digest_of_text, form, frequent_paths, parts_of, pattern, texts_of, values_of

MOST_COMMON, FEWEST_COMMON, COMMON_SHARE = 40, 20, 0.01
NEARLY_ALL = 0.9
VALUE, THERE, EMPTY = "is", "there", "empty"
VOUCHING = ("vouched", "denied")
LEVELS = ("rare", "odd", "apart", "unusual", "amid", "parted", "strange", *VOUCHING)
MOST_VOUCHING = 2
_CACHED, _LONGEST_REMEMBERED = 1 << 17, 200


class Common(NamedTuple):
    """What many records have at a path: the digest of the value, and of its form, each None where few have it."""

    value: str | None = None
    form: str | None = None

    def named(self) -> list[tuple[str, str]]:
        """Return those that there are, as VALUE or FORM and the digest."""
        return [(which, digest) for which, digest in ((VALUE, self.value), (FORM, self.form)) if digest is not None]


_Told = tuple[tuple[int, int] | None, dict[str, str], Common]


class Seen(NamedTuple):
    """How unusual a field is, in levels from 0 to 4 (rare, odd and unusual: 1, 2, 3.5 and 5 nats).

    rare: the value, its beginning, end or whole part comes so seldom. odd: its pattern does. apart: how far it is from the
    value that usually comes beside the others, at worst, 0 the usual one and 4 never seen; None where nothing is known.
    unusual: how unusual it is to be so far apart. amid: how far apart it is on the average of all that are known, not at worst.
    common: the digests of its value and of its form, if many records have it. parted, strange: how far at worst a part of it is from the
    part that usually comes beside the others, and how unusual that is, 0 where nothing is known. vouched, denied: by how many rules (up
    to MOST_VOUCHING) the value stood beside the others in a record that people called right, or another value did.
    """

    path: str
    rare: int
    odd: int
    apart: int | None
    unusual: int
    is_empty: bool
    amid: int
    common: Common
    parted: int = 0
    strange: int = 0
    vouched: int = 0
    denied: int = 0


class Memory:
    """Counts of values, of patterns, of shapes, and of values beside values."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        """Take what `as_state` gave."""
        self._known = set(state["known"])
        self._shapes = Counts(*state["shapes"])
        self._patterns = {path: Counts(*counts) for path, counts in state["patterns"].items()}
        self._parts = {path: {which: Counts(*counts) for which, counts in parts.items()} for path, parts in state["parts"].items()}
        self._rules = {
            path: [Rule((given[0], given[1]), (told[0], told[1]), counts, unusual, *more) for given, told, counts, unusual, *more in rules]
            for path, rules in state["rules"].items()
        }
        self._common = {path: set(values) for path, values in state.get("common", {}).items()}
        # versions made before do not say so: there, every value that many have stays
        self._told_apart = set(state.get("told_apart", self._common))
        self._forms = {path: set(forms) for path, forms in state.get("forms", {}).items()}
        self._has_parts_apart = bool(state.get("parts_apart"))  # versions made before heard what is said of parts and of wholes as one
        self._givers = {rule.given[0] for rules in self._rules.values() for rule in rules}
        self._asked: dict[str, set[str]] = defaultdict(set)
        for rule in chain.from_iterable(self._rules.values()):
            for path, which in (rule.given, rule.told):
                self._asked[path].add(which)
            if rule.by_form:
                self._asked[rule.told[0]].add(FORM)
        self._remembered: dict[tuple[str, str], _Told] = {}

    def as_state(self) -> dict[str, Any]:
        """Return what JSON can keep."""
        return {
            "known": sorted(self._known), "shapes": self._shapes, "patterns": self._patterns, "parts": self._parts, "rules": self._rules,
            "common": {path: sorted(values) for path, values in self._common.items()},
            "forms": {path: sorted(forms) for path, forms in self._forms.items()},
            "told_apart": sorted(self._told_apart), "parts_apart": self._has_parts_apart,
        }  # fmt: skip

    @classmethod
    def of(cls, records: Sequence[Rendered]) -> "Memory":
        """Count a stream's records, each different one once."""
        different = list({record.text: record for record in records}.values())
        values = [values_of(record) for record in different]
        paths = frequent_paths(values)
        rows = [dict(aspects_of(row)) for row in values]
        parts: dict[str, dict[str, Counter[str]]] = {path: defaultdict(Counter) for path in paths}
        for row in rows:
            for (path, which), part in row.items():
                if path in parts and which != FORM:
                    parts[path][which][part] += 1
        patterns = {path: Counter(digest_of_text(pattern(row[path])) for row in values if path in row) for path in paths}
        often = {path: _common(row[path] for row in values if path in row) for path in paths}
        state = {
            "known": {digest_of_text(record.text) for record in different},
            "shapes": Counts.of(Counter(_shape(row) for row in values)),
            "patterns": {path: Counts.of(counts) for path, counts in patterns.items()},
            "parts": {path: {which: Counts.of(counts) for which, counts in found.items()} for path, found in parts.items()},
            "common": {path: set(map(digest_of_text, often[path])) for path in paths},
            "forms": {path: set(map(digest_of_text, _common(form(row[path]) for row in values if path in row))) for path in paths},
            "told_apart": [path for path in paths if sum(often[path].values()) >= NEARLY_ALL * sum(path in row for row in values)],
            "rules": {path: [rule_of(rows, *each) for each in found] for path, found in dependencies(rows, set(paths)).items()},
            "parts_apart": True,
        }
        return cls(state)

    def vouched_by(self, right: Sequence[Rendered]) -> "Memory":
        """Return this memory with what records that people called right vouch for: which values stand beside which."""
        rows = [dict(aspects_of(values_of(record))) for record in right]
        rules = {path: [rule if self._is_of_part(rule) else rule.vouched_by(rows) for rule in told] for path, told in self._rules.items()}
        return Memory({**self.as_state(), "rules": rules})

    def ready(self) -> "Memory":
        """Prepare what a gate looks up all day now, and not beside its first batch."""
        _ = self._quick
        return self

    @cached_property
    def _quick(self) -> dict[str, list[tuple[bool, bool, Any]]]:
        return {path: [(self._is_of_part(rule), rule.by_form, rule.quick()) for rule in rules] for path, rules in self._rules.items()}

    def _is_of_part(self, rule: Rule) -> bool:
        return self._has_parts_apart and rule.told[1] != WHOLE

    @property
    def paths(self) -> list[str]:
        """The paths of fields that many records have."""
        return list(self._parts)

    def tells_apart(self, path: str) -> bool:
        """Return whether nearly all records have one of a few values at a path: where they come from, say, or of what kind they are."""
        return path in self._told_apart

    def tells_of_others(self, path: str) -> bool:
        """Return whether the value at a path says anything of other fields."""
        return path in self._givers

    def look(self, record: Rendered, source: Rendered | None = None, without: str | None = None) -> tuple[list[Seen], int]:
        """Return what other records say of each field, in order, and how unusual it is to have these fields (0 to 4).

        `source` is the record of the stream that this one was made of, if it is a corrupted copy. What the value at the path `without`
        says of other fields is not heard.
        """
        values = values_of(record)
        own = source if source is not None else record if digest_of_text(record.text) in self._known else None
        if own is None:
            return self._look_at_new(record, values, without)
        own_values = values if own is record else values_of(own)
        aspects, own_aspects = dict(aspects_of(values)), dict(aspects_of(own_values))
        seen = {}
        for path, value in values.items():
            alone = self._alone(path, value, own_values.get(path))
            levels = [
                (
                    self._is_of_part(rule),
                    level,
                    rule.strangeness(aspects, own_aspects) if rule.by_form else rule.unusual[level],
                    rule.vouching(aspects),
                )
                for rule in self._rules.get(path, ())
                if rule.given[0] != without and (level := rule.agreement(aspects, own_aspects)) is not None
            ]
            seen[path] = _seen(path, value, alone, levels, self._common_one(path, value))
        return [seen[field.path] for field in record.fields], self._shapes.level(_shape(values), _shape(own_values))

    def _look_at_new(self, record: Rendered, values: Mapping[str, str], without: str | None) -> tuple[list[Seen], int]:
        """Look at a record that is not of the stream, which is what a gate does all day: nothing is left out, values come again."""
        told = {path: self._told(path, value) for path, value in values.items()}
        seen = {}
        for path, value in values.items():
            alone, mine, common = told[path]
            levels = []
            for is_of_part, by_form, ((other, given), which, usual) in self._quick.get(path, ()):
                its = told.get(other) if other != without else None
                found = usual.get(its[1].get(given, "") + (mine.get(FORM, "") if by_form else "")) if its is not None else None
                key = mine.get(which)
                if found is not None and key is not None:
                    seen_with, of_others = found
                    levels.append((is_of_part, *seen_with.get(key, of_others)))
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
            return None, {}, Common()
        rare, keys = 0, {}
        for which, part in texts_of(value):
            counts = parts.get(which)
            is_known = counts is not None and counts.counts
            key = digest_of_text(part) if is_known or which in asked else ""
            if which in asked:
                keys[which] = key
            if counts is not None:
                rare = max(rare, counts.of_count(counts.counts.get(key, 0)))
        if FORM in asked:
            keys[FORM] = digest_of_text(form(value))
        return (rare, self._patterns[path].level(digest_of_text(pattern(value)), None)), keys, self._common_one(path, value)

    def _common_one(self, path: str, value: str) -> Common:
        """Return what many records have in common with this value."""
        forms = self._forms.get(path)
        return Common(_among(self._common.get(path), value), _among(forms, form(value)) if forms else None)

    def _alone(self, path: str, value: str, own: str | None) -> tuple[int, int] | None:
        """Return how rare and how odd a value is, its record's own left out; None of a path that few records have."""
        parts = self._parts.get(path)
        if parts is None:
            return None
        its = {} if own is None else dict(parts_of(own))
        rare = max((parts[which].level(key, its.get(which)) for which, key in parts_of(value) if which in parts), default=0)
        own_pattern = None if own is None else digest_of_text(pattern(own))
        return rare, self._patterns[path].level(digest_of_text(pattern(value)), own_pattern)


def _among(digests: set[str] | None, text: str) -> str | None:
    """Return the digest of a text if it is one of `digests`."""
    if not digests:
        return None
    digest = digest_of_text(text)
    return digest if digest in digests else None


def _seen(path: str, value: str, alone: tuple[int, int] | None, levels: Sequence[tuple[bool, int, int, int]], common: Common) -> Seen:
    """Put together what is said of a value alone and beside the others.

    levels: whether it is said of a part, agreement, how unusual that is, and whether people vouch for it, of every rule that says anything.
    """
    if alone is None:
        return Seen(path, MOST_LEVEL, MOST_LEVEL, None, 0, not value, 0, Common())
    apart, unusual, amid, parted, strange, vouched, denied = None, 0, 0, 0, 0, 0, 0
    agreements = []
    for is_of_part, agreement, how_unusual, vouching in levels:
        if vouching == VOUCHED:
            vouched += 1
        elif vouching == DENIED:
            denied += 1
        if is_of_part:
            parted, strange = max(parted, MOST_LEVEL - agreement), max(strange, how_unusual)
        else:
            agreements.append(agreement)
            unusual = max(unusual, how_unusual)
    if agreements:
        apart, amid = MOST_LEVEL - min(agreements), MOST_LEVEL - round(sum(agreements) / len(agreements))
    if vouched:  # by one rule is worth more than that others know another value
        vouched, denied = min(vouched, MOST_VOUCHING), 0
    return Seen(path, *alone, apart, unusual, not value, amid, common, parted, strange, vouched, min(denied, MOST_VOUCHING))


def _common(values: Iterable[str]) -> dict[str, int]:
    """Return the values that many records have, and how many have each."""
    counts = Counter(values)
    least = max(FEWEST_COMMON, COMMON_SHARE * counts.total())
    return {value: count for value, count in counts.most_common(MOST_COMMON) if count >= least}


def _shape(values: Mapping[str, str]) -> str:
    return digest_of_text("\n".join(values))
