"""Contrastive pairs: a record that came in -> the same record with something wrong in it.

Enters: rendered records, any domain, and edits that verdicts have taught. Leaves: corrupted texts. Knows no field name, no language
and no demo error: what it breaks is what any record has (values, characters, order, agreement between fields), and what it puts in
comes from other records of the same stream, or is what was seen to happen to one. Contrastive pairs against one's own corruption:
word2vec's negative sampling, ELECTRA's replaced tokens (arXiv 2003.10555).
"""

import string
from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random

from stream.render import Field, Rendered
from trainer.edits import Edit, edited

_SYMBOLS = string.punctuation + "，。；：？！（）【】…�"
_MAX_POOL = 4_000
_CROSS_SHARE, _SWAP_SHARE, _DROP_SHARE = 0.15, 0.15, 0.05
MOST_EDITED, HALF_OF_MOST = 0.7, 5
"""So many of the corrupted records have a learned edit at most, and half as many when the edits of so many records are known."""

Breaker = Callable[["Corrupter", str, Field], str]


class Corrupter:
    """Makes wrong records out of a stream's own records; one seed gives one sequence of corruptions."""

    def __init__(self, records: Sequence[Rendered], seed: int, edits: Sequence[Sequence[Edit]] = ()) -> None:
        """Remember values by path, and characters by class, from up to a few thousand of `records`; and edits, by record called wrong."""
        self.random = Random(seed)
        self._edits = edits
        self._edited_share = MOST_EDITED * len(edits) / (len(edits) + HALF_OF_MOST)
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_shape: dict[tuple[str, ...], list[Rendered]] = defaultdict(list)
        self._alphabet: dict[str, list[str]] = defaultdict(list)
        for record in records[:_MAX_POOL]:
            text, fields = record
            self._by_shape[_shape_of(record)].append(record)
            for field in fields:
                self._by_path[field.path].append(text[field.start : field.end])
            for character in dict.fromkeys(text):
                self._alphabet[_class_of(character)].append(character)
        self._paths = list(self._by_path)

    def corrupt(self, record: Rendered) -> str:
        """Return the record's text with a learned edit or one to three things wrong; never the text that came in."""
        if self._edits and self.random.random() < self._edited_share:
            text_or_none = edited(record, self.random.choice(self.random.choice(self._edits)), self.random)
            if text_or_none is not None:
                return text_or_none
        fields = [field for field in record.fields if field.end > field.start]
        rounds = self.random.choices((1, 2, 3), weights=(8, 2, 1))[0]
        text = record.text
        for _ in range(rounds if fields else 1):
            text = self._break_once(record, text, fields) if text == record.text else self._typo_anywhere(text)
        return text if text != record.text else text + self.unlike(text[-1:])

    def _break_once(self, record: Rendered, text: str, fields: list[Field]) -> str:
        if not fields:
            return self._typo_anywhere(text)
        if len(fields) > 1:
            draw = self.random.random()
            if draw < _CROSS_SHARE:
                return self._cross(record)
            if draw < _CROSS_SHARE + _SWAP_SHARE:
                return self._swap_fields(text, *self._two_of(fields))
            if draw < _CROSS_SHARE + _SWAP_SHARE + _DROP_SHARE:
                return self._drop_field(record, self.random.choice(fields))
        field = self.random.choices(fields, weights=[(f.end - f.start) ** 0.5 for f in fields])[0]
        breaker = self.random.choices(_BREAKERS, weights=_WEIGHTS)[0]
        value = breaker(self, text[field.start : field.end], field)
        return text[: field.start] + value + text[field.end :]

    def _typo_anywhere(self, text: str) -> str:
        return typo(self, text, Field("", 0, len(text))) if text else self.random.choice(string.ascii_letters)

    def _cross(self, record: Rendered) -> str:
        """Go on as another record of the same shape from some field on: each half right, together wrong."""
        other = self.random.choice(self._by_shape.get(_shape_of(record)) or [record])
        first = self.random.randrange(1, len(record.fields))
        last = self.random.randrange(first, len(record.fields))
        pieces, at = [], 0
        for place, (mine, theirs) in enumerate(zip(record.fields, other.fields, strict=True)):
            chosen = other.text[theirs.start : theirs.end] if first <= place <= last else record.text[mine.start : mine.end]
            pieces += [record.text[at : mine.start], chosen]
            at = mine.end
        return "".join([*pieces, record.text[at:]])

    def _two_of(self, fields: list[Field]) -> list[Field]:
        """Return two fields: neighbours half of the time, since columns slip by one."""
        if self.random.random() < 0.5:
            first = self.random.randrange(len(fields) - 1)
            return fields[first : first + 2]
        return self.random.sample(fields, 2)

    def _swap_fields(self, text: str, one: Field, other: Field) -> str:
        first, second = sorted((one, other), key=lambda field: field.start)
        return (
            text[: first.start]
            + text[second.start : second.end]
            + text[first.end : second.start]
            + text[first.start : first.end]
            + text[second.end :]
        )

    def _drop_field(self, record: Rendered, field: Field) -> str:
        """Take the whole field out, its label too, as far as the previous and next fields reach."""
        place = record.fields.index(field)
        start = record.fields[place - 1].end if place else 0
        return record.text[:start] + record.text[field.end :]

    def same_path(self, field: Field) -> str:
        """Return the value of another record under the same path, if any was seen."""
        return self.random.choice(self._by_path.get(field.path) or [""])

    def any_value(self) -> str:
        """Return some value of some path of some record."""
        return self.random.choice(self._by_path[self.random.choice(self._paths)]) if self._paths else ""

    def like(self, character: str) -> str:
        """Return another character of the same class as seen in the stream."""
        return self.random.choice(self._alphabet.get(_class_of(character)) or string.ascii_letters)  # type: ignore[arg-type]

    def unlike(self, character: str) -> str:
        """Return a character of another class."""
        others = [name for name in ("digit", "letter", "wide", "symbol") if name != _class_of(character)]
        pool = {"digit": string.digits, "letter": string.ascii_letters, "symbol": _SYMBOLS, "wide": "".join(self._alphabet["wide"][:500])}
        return self.random.choice(pool[self.random.choice(others)] or string.ascii_letters)

    def span(self, value: str, longest: int = 8) -> tuple[int, int]:
        """Return a random non-empty half-open range of `value`."""
        length = self.random.randint(1, max(1, min(longest, len(value))))
        start = self.random.randint(0, max(0, len(value) - length))
        return start, start + length


def _shape_of(record: Rendered) -> tuple[str, ...]:
    return tuple(field.path for field in record.fields)


def typo(by: Corrupter, value: str, _field: Field) -> str:
    """Replace, insert, drop or transpose one to three characters."""
    characters = list(value)
    for _ in range(by.random.choices((1, 2, 3), weights=(4, 2, 1))[0]):
        place = by.random.randrange(len(characters)) if characters else 0
        here = characters[place] if characters else "a"
        draw = by.random.randrange(5)
        if draw == 0 and len(characters) > 1:
            del characters[place]
        elif draw == 1:
            characters.insert(place, by.like(here))
        elif draw == 2 and place + 1 < len(characters):
            characters[place], characters[place + 1] = characters[place + 1], characters[place]
        else:
            # another digit for a digit is mostly as good as the first: nothing could be learned from it
            is_like = draw == 3 and not here.isdecimal()
            characters[place : place + 1] = [by.like(here) if is_like else by.unlike(here)]
    return "".join(characters)


def wrong_class(by: Corrupter, value: str, _field: Field) -> str:
    """Replace some characters by characters of another class."""
    places = set(by.random.sample(range(len(value)), min(len(value), by.random.randint(1, 4))))
    return "".join(by.unlike(c) if place in places else c for place, c in enumerate(value))


def cut(by: Corrupter, value: str, _field: Field) -> str:
    """Drop a piece: the end, the beginning, or something between."""
    start, end = by.span(value, max(1, len(value)))
    return by.random.choice((value[:start], value[end:], value[:start] + value[end:]))


def repeat(by: Corrupter, value: str, _field: Field) -> str:
    """Write a piece twice or three times, in its place or somewhere else."""
    start, end = by.span(value)
    piece = value[start:end] * by.random.randint(1, 2)
    place = end if by.random.random() < 0.7 else by.random.randint(0, len(value))
    return value[:place] + piece + value[place:]


def shuffle(by: Corrupter, value: str, _field: Field) -> str:
    """Cut the value in two to four pieces and write them in another order."""
    cuts = sorted(by.random.sample(range(1, len(value)), min(len(value) - 1, by.random.randint(1, 3)))) if len(value) > 1 else []
    pieces = [value[a:b] for a, b in zip([0, *cuts], [*cuts, len(value)], strict=True)]
    by.random.shuffle(pieces)
    return "".join(pieces)


def digits(by: Corrupter, value: str, field: Field) -> str:
    """Make a run of digits longer, shorter or different."""
    runs = _digit_runs(value)
    if not runs:
        return typo(by, value, field)
    start, end = by.random.choice(runs)
    length = max(0, end - start + by.random.choice((-3, -2, -1, 0, 1, 2, 3)))
    kept = by.random.randint(0, min(length, end - start)) if length != end - start else 0
    drawn = "".join(by.random.choices(string.digits, k=length - kept))
    return value[:start] + value[start : start + kept] + drawn + value[end:]


def magnitude(by: Corrupter, value: str, field: Field) -> str:
    """Make a number too large, too small, negative or shifted; what is no number becomes a `digits` error."""
    try:
        number = float(value)
    except ValueError:
        runs = _digit_runs(value)
        if not runs:
            return digits(by, value, field)
        start, end = by.random.choice(runs)
        return value[:start] + str(int(value[start : min(end, start + 15)]) * by.random.choice((2, 5, 10, 37, 100))) + value[end:]
    decimals = len(value.partition(".")[2])
    moved = by.random.choice(
        (
            number * by.random.choice((10, 100, 0.1, 0.01)),
            -number,
            number + by.random.choice((-1, 1)) * by.random.uniform(0.5, 20) * (abs(number) + 1),
            number * by.random.uniform(1.5, 6),
            by.random.uniform(-1000, 1000),
        )
    )
    return f"{moved:.{min(decimals, 8)}f}"


def borrow(by: Corrupter, value: str, field: Field) -> str:
    """Take the value that another record has under the same path: right alone, wrong beside the rest."""
    other = by.same_path(field)
    return other if other != value else typo(by, value, field)


def splice(by: Corrupter, value: str, field: Field) -> str:
    """Begin as this record and go on as another one, cut at like places."""
    other = by.same_path(field) or by.any_value()
    place = by.random.randint(0, len(value))
    other_place = max(0, min(len(other), place + by.random.choice((-2, -1, 0, 0, 0, 1, 2))))
    joined = value[:place] + other[other_place:] if by.random.random() < 0.5 else other[:other_place] + value[place:]
    return joined if joined != value else typo(by, value, field)


def patch(by: Corrupter, value: str, field: Field) -> str:
    """Replace a piece by the piece that stands at the same place of another record's value."""
    other = by.same_path(field) or by.any_value()
    if value.replace(".", "").isdecimal():
        other = by.any_value()
    start, end = by.span(value)
    piece = other[start:end] if by.random.random() < 0.7 else other[slice(*by.span(other))] if other else ""
    patched = value[:start] + piece + value[end:]
    return patched if patched != value else typo(by, value, field)


def misplace(by: Corrupter, value: str, _field: Field) -> str:
    """Write something of another field or record where it does not belong."""
    foreign = by.any_value()
    if by.random.random() < 0.4:
        return foreign
    piece = foreign[slice(*by.span(foreign, 12))] if foreign else "0"
    place = by.random.randint(0, len(value))
    return value[:place] + piece + value[place:]


def blank(by: Corrupter, _value: str, _field: Field) -> str:
    """Leave nothing, or a word that stands for nothing."""
    return by.random.choice(("", "", "null", "-", "0", "?", "".join(by.random.choices(string.ascii_lowercase, k=by.random.randint(1, 6)))))


def garble(by: Corrupter, value: str, _field: Field) -> str:
    """Read a piece in the wrong character set, or lose it to question marks."""
    start, end = by.span(value)
    piece = value[start:end]
    how = by.random.randrange(4)
    if how == 0:
        piece = piece.encode("utf-8", "replace").decode("latin-1")
    elif how == 1:
        piece = piece.encode("utf-8", "replace").decode("gbk", "replace")
    elif how == 2:
        piece = by.random.choice("?�*#") * len(piece)
    else:
        piece = "".join(by.random.choices(_SYMBOLS + string.ascii_letters, k=by.random.randint(2, 12)))
    return value[:start] + piece + value[end:]


def markup(by: Corrupter, value: str, _field: Field) -> str:
    """Let through what software writes around text and should have taken off: a tag, a placeholder, an escape."""
    pieces = []
    for _ in range(by.random.randint(1, 3)):
        word = "".join(by.random.choices(string.ascii_lowercase + "_", k=by.random.randint(1, 12)))
        opening, closing = by.random.choice(("<>", "<>", "[]", "{}", "()", "&;", "\\ ", "%%"))
        inner = by.random.choice(("", "", *"|/!?%$#&"))
        pieces.append(f"{opening}{inner}{word}{inner}{closing}")
    text = "".join(pieces).strip()
    if by.random.random() < 0.5:
        text += by.any_value()[: by.random.randint(1, 6)]
    place = len(value) if by.random.random() < 0.7 else by.random.randint(0, len(value))
    return value[:place] + text + value[place:]


_WEIGHTED: tuple[tuple[Breaker, int], ...] = (
    (typo, 3),
    (wrong_class, 2),
    (cut, 3),
    (repeat, 3),
    (shuffle, 2),
    (digits, 6),
    (magnitude, 3),
    (borrow, 4),
    (splice, 2),
    (patch, 4),
    (misplace, 3),
    (blank, 2),
    (garble, 2),
    (markup, 3),
)
_BREAKERS = [breaker for breaker, _ in _WEIGHTED]
_WEIGHTS = [weight for _, weight in _WEIGHTED]


def _class_of(character: str) -> str:
    if character.isdecimal():
        return "digit"
    if character.isascii():
        return "letter" if character.isalpha() else "symbol"
    return "wide" if character.isalpha() else "symbol"


def _digit_runs(value: str) -> list[tuple[int, int]]:
    runs, start = [], None
    for place, character in enumerate(value + "x"):
        if character in string.digits:
            start = place if start is None else start
        elif start is not None:
            runs.append((start, place))
            start = None
    return runs
