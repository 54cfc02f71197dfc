"""What people called wrong -> edits that may have made it so, to be made in other records: a noise channel.

Enters: records called wrong, each with its correction where somebody gave one, and the stream they came from. Leaves: edits. With
a correction it is where the two differ; without one the field whose value or form few have is taken, and the value of the stream that is
most like it: what HoloDetect does with pairs (Heidari et al. 2019, arXiv 1904.02285), with half of most pairs guessed. What many records
have teaches no edit: made in another one it might be right.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from random import Random
from typing import NamedTuple

from stream.render import Field, Rendered
from stream.values import form, values_of

MOST_GUESSED, MOST_USUAL, MOST_ODD, MOST_CORRECTED = 300, 200, 5, 3
"""So many records are guessed about, with so many usual values of a path and odd fields of a record; and so many fields of a record may be
corrected at once: of more, columns have moved."""
LONGEST = 200
"""Characters of a value that is compared: a long one takes the square of its length."""
LEAST_ALIKE = 0.6
FEW, FEW_SHARE = 2, 0.005
"""So many records, and this share of them, are few."""
REPEATING_SHARE = 0.5
"""Where more of a path's values than this come often, a value that few have is odd; elsewhere only a form that few have is."""
_SAME_PATH, _WHOLE_VALUE = 0.7, 0.2


class Wrong(NamedTuple):
    """A record that was called wrong, and what it should have been, where somebody said that."""

    record: Rendered
    correction: Rendered | None = None


class Edit(NamedTuple):
    """What happened at a path: `old` of a right value had become `new`; and the whole value that was called wrong."""

    path: str
    old: str
    new: str
    wrong_value: str


class _Seen(NamedTuple):
    """What the stream has under a path: how often each value and form, whether its values repeat, and some of the usual ones."""

    values: Counter[str]
    forms: Counter[str]
    repeats: bool
    few: float
    usual: list[str]

    def has_odd_form(self, value: str) -> bool:
        return self.forms[form(value)] <= self.few

    def is_odd(self, value: str) -> bool:
        return self.has_odd_form(value) or (self.repeats and self.values[value] <= self.few)


def edits_of(wrong: Sequence[Wrong], stream: Sequence[Rendered], seed: int) -> dict[str, list[Edit]]:
    """Return what may have happened to records that were called wrong, by their text: where corrections differ, else one guess at most.

    stream: records that may be right. Of many records without a correction some are drawn.
    """
    if not wrong:
        return {}
    seen = _seen_in(stream)
    found: dict[str, list[Edit]] = {}
    for record, correction in wrong:
        edits = [] if correction is None else _differences(values_of(correction), values_of(record), seen)
        if edits:
            found[record.text] = list(dict.fromkeys([*found.get(record.text, []), *edits]))
    rest = list({record.text: record for record, correction in wrong if correction is None and record.text not in found}.values())
    for record in Random(seed).sample(rest, min(MOST_GUESSED, len(rest))):
        guessed = _guessed(values_of(record), seen)
        if guessed is not None:
            found[record.text] = [guessed]
    return found


def _seen_in(stream: Sequence[Rendered]) -> dict[str, _Seen]:
    values: dict[str, Counter[str]] = defaultdict(Counter)
    for record in stream:
        for path, value in values_of(record).items():
            values[path][value] += 1
    return {path: _seen(counted) for path, counted in values.items()}


def _seen(counted: Counter[str]) -> _Seen:
    forms = Counter[str]()
    for value, count in counted.items():
        forms[form(value)] += count
    few = max(FEW, FEW_SHARE * counted.total())
    repeats = sum(count for count in counted.values() if count > few) > REPEATING_SHARE * counted.total()
    usual = [value for value, count in counted.most_common() if value and (count > few if repeats else forms[form(value)] > few)]
    comparable = [value for value in usual if len(value) <= LONGEST]
    step = 1 if repeats else -(-len(comparable) // MOST_USUAL) or 1
    return _Seen(counted, forms, repeats, few, comparable[::step][:MOST_USUAL])


def _differences(right: Mapping[str, str], wrong: Mapping[str, str], seen: Mapping[str, _Seen]) -> list[Edit]:
    if right.keys() != wrong.keys():
        return []
    changed = [path for path in right if right[path] != wrong[path]]
    if len(changed) > MOST_CORRECTED:
        return []
    comparable = [path for path in changed if path in seen and wrong[path] and max(len(right[path]), len(wrong[path])) <= LONGEST]
    edits = (_edit(path, right[path], wrong[path], seen[path]) for path in comparable if seen[path].is_odd(wrong[path]))
    return [edit for edit in edits if edit is not None]


def _guessed(values: Mapping[str, str], seen: Mapping[str, _Seen]) -> Edit | None:
    best: tuple[float, str, str, str] | None = None
    odd = [path for path, value in values.items() if path in seen and 0 < len(value) <= LONGEST and seen[path].is_odd(value)]
    for path in odd[:MOST_ODD]:
        matcher = SequenceMatcher(None, "", values[path], autojunk=False)
        for usual in seen[path].usual:
            least = LEAST_ALIKE if best is None else best[0]
            matcher.set_seq1(usual)
            if (
                usual != values[path]
                and matcher.real_quick_ratio() >= least
                and matcher.quick_ratio() >= least
                and matcher.ratio() >= least
            ):
                best = matcher.ratio(), path, usual, values[path]
    return None if best is None else _edit(*best[1:], seen[best[1]])


def _edit(path: str, right: str, wrong: str, seen: _Seen) -> Edit | None:
    """Return the first difference between two values that is not digits for digits, which are as good as others.

    Where there is no other one, that, if the value's form is odd: there are too many of them, or too few. Else None.
    """
    codes = SequenceMatcher(None, right, wrong, autojunk=False).get_opcodes()
    found = [Edit(path, right[a:b], wrong[c:d], wrong) for name, a, b, c, d in codes if name != "equal"]
    telling = [edit for edit in found if not (edit.old + edit.new).isdecimal()]
    return telling[0] if telling else found[0] if seen.has_odd_form(wrong) else None


def edited(record: Rendered, edit: Edit, random: Random) -> str | None:
    """Return a record's text with an edit made in it, mostly in the field where it was found, else in one that has what it replaces.

    None where it changes nothing.
    """
    fields = [field for field in record.fields if field.end > field.start]
    same = [field for field in fields if field.path == edit.path]
    others = [field for field in fields if edit.old and edit.old in record.text[field.start : field.end] and field.path != edit.path]
    if not same and not others:
        return None
    field = random.choice(same if same and (not others or random.random() < _SAME_PATH) else others)
    value = _changed(record.text[field.start : field.end], field, edit, random)
    text = record.text[: field.start] + value + record.text[field.end :]
    return None if text == record.text else text


def _changed(value: str, field: Field, edit: Edit, random: Random) -> str:
    if field.path == edit.path and random.random() < _WHOLE_VALUE:
        return edit.wrong_value
    places = [place for place in range(len(value)) if value.startswith(edit.old, place)] if edit.old else []
    if places:
        place = random.choice(places)
    elif edit.new.isdecimal():  # one digit is as good as another
        return value
    elif edit.new and edit.wrong_value.endswith(edit.new):
        place = len(value)
    else:
        place = random.randrange(len(value))
    return value[:place] + edit.new + value[place + len(edit.old) :]
