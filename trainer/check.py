"""Looks at labelled records before anybody trains on them; each finding is one sentence with its figures.

Enters: the texts that the model reads, and what people said of them, one at a time. Leaves: findings; an error refuses
the training. Of a text only a digest is kept, so a file larger than memory can be looked at (about 200 bytes a record).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

FEW_DISTINCT_SHARE = 0.1
FEW_DISTINCT = 50
RARE_CLASS_SHARE = 0.02
ALIKE_SHARE = 0.1
_MANY = 20
_RIGHT, _WRONG = 1, 2


class Finding(NamedTuple):
    """What was found: `error` refuses the training unless it is asked for all the same, `warn` is said and no more."""

    name: str
    is_error: bool
    sentence: str


class Checker:
    """Takes records one by one, then says what is odd about all of them."""

    def __init__(self) -> None:
        """Begin with none."""
        self.records = self.wrong = self.unreadable = self.too_long = 0
        self._counts: Counter[bytes] = Counter()
        self._said: dict[bytes, int] = {}
        self._learned: set[bytes] = set()
        self._held_out: Counter[bytes] = Counter()
        self._alike: Counter[bytes] = Counter()
        self._unreadable_first = ""

    @property
    def distinct(self) -> int:
        """How many different things the records say."""
        return len(self._counts)

    def add(self, text: str, is_right: bool, *, held_out: bool) -> None:
        """Take one record as the model reads it."""
        digest = _digest(text)
        self.records += 1
        self.wrong += not is_right
        self._counts[digest] += 1
        if self._counts[digest] == 1:
            self._alike[_digest(_bare(text))] += 1
        self._said[digest] = self._said.get(digest, 0) | (_RIGHT if is_right else _WRONG)
        if held_out:
            self._held_out[digest] += 1
        else:
            self._learned.add(digest)

    def add_unreadable(self, why: str) -> None:
        """Count an entry that cannot be read; the first one's reason is said."""
        self.unreadable += 1
        self._unreadable_first = self._unreadable_first or why

    def add_too_long(self) -> None:
        """Count a record that is longer than the model's maximum; it is one of those added."""
        self.too_long += 1

    def findings(self) -> list[Finding]:
        """Return what is odd, the findings about single records before those about all."""
        return [finding for finding in (*self._of_rows(), *self._of_all()) if finding is not None]

    def _of_rows(self) -> list[Finding | None]:
        repeated = self.records - self.distinct
        worst = self._counts.most_common(1)[0][1] if repeated else 0
        both = sum(said == _RIGHT | _WRONG for said in self._said.values())
        alike = self.distinct - len(self._alike)
        return [
            _if(self.unreadable, "unreadable", f"{self.unreadable} entries cannot be read, the first: {self._unreadable_first}"),
            _if(
                self.too_long, "too-long",
                f"{self.too_long} of {self.records} records are longer than the model's maximum: not trained on, and held by the gate",
            ),
            _if(repeated, "duplicates", f"{repeated} of {self.records} records repeat another one; the most frequent comes {worst} times"),
            _if(
                alike > ALIKE_SHARE * self.distinct and self.distinct >= _MANY, "near-duplicates",
                f"{alike} of {self.distinct} different records differ from another one in case, spaces and punctuation alone",
            ),
            _if(both, "contradictions", f"{both} records are called right by one verdict and wrong by another"),
        ]  # fmt: skip

    def _of_all(self) -> list[Finding | None]:
        rare = min(self.wrong, self.records - self.wrong)
        kind = "wrong" if self.wrong == rare else "right"
        is_poor = self.records >= _MANY and (self.distinct <= FEW_DISTINCT_SHARE * self.records or self.distinct == 1)
        leaked = sum(count for digest, count in self._held_out.items() if digest in self._learned)
        return [
            _if(
                is_poor, "diversity",
                f"{self.records} records say only {self.distinct} different things: a model would learn these by heart and nothing about "
                "others",
                is_error=self.distinct < FEW_DISTINCT,
            ),
            _if(rare < RARE_CLASS_SHARE * self.records, "balance", f"only {rare} of {self.records} verdicts say {kind}"),
            _if(leaked, "leakage", f"{leaked} held-out records are among those to learn from", is_error=True),
        ]  # fmt: skip


def check(texts: Sequence[str], is_right: Sequence[bool], held_out: Sequence[bool]) -> list[Finding]:
    """Return the findings over a data set in memory; the three sequences belong together."""
    checker = Checker()
    for text, right, held in zip(texts, is_right, held_out, strict=True):
        checker.add(text, right, held_out=held)
    return checker.findings()


def _if(is_so: float, name: str, sentence: str, *, is_error: bool = False) -> Finding | None:
    return Finding(name, is_error, sentence) if is_so else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _bare(text: str) -> str:
    """Return the letters and digits of a text, without case."""
    return "".join(c for c in text.casefold() if c.isalnum())
