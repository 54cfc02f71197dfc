"""Stages 1 to 3b over one batch: bytes -> what can be judged, as token ids, and what cannot, with the reason.

Enters: values. Leaves: Readings, in their order. Knows no reward and no threshold.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from stream.decode import Format, decode, decode_value
from stream.evidence import Evidence
from stream.records import Content, Reason, Unread, Violation
from stream.render import Rendering, render, text_of
from stream.rules import Rules
from stream.tokenise import Encoded

Encode = Callable[[Sequence[str]], Encoded]
_NONE = np.zeros(0, dtype=np.float32)


class Readings(NamedTuple):
    """What came of a batch of values.

    unread: why a value cannot be read, None where it can. asked: the places of the K records that a model must judge;
    encoded: their token ids, left out where a record is longer than the model's maximum; evidence_K: what the version's
    memory says for them, in nats, 0 without one.
    """

    unread: list[Unread | None]
    violations: list[tuple[Violation, ...]]
    asked: list[int]
    encoded: Encoded
    evidence_K: NDArray[np.float32]


class Read(NamedTuple):
    """A batch with what the host half knows of it; values are opened, where they were framed."""

    values: Sequence[bytes | None]
    form: Format
    decision_ids: list[str]
    readings: Readings

    def content(self, place: int) -> Content | None:
        """Read one record again: few are asked for, and sending all of them between processes costs more."""
        reading = decode_value(self.values[place], self.form) if self.readings.unread[place] is None else None
        return reading if isinstance(reading, Content) else None


class Reader:
    """Stages 1 to 3b with their settings; without `encode` nothing is asked of a model."""

    def __init__(
        self,
        form: Format,
        rules: Rules,
        rendering: Rendering = "fields@1",
        encode: Encode | None = None,
        evidence: Evidence | None = None,
    ) -> None:
        """Take what does not change from batch to batch."""
        self._evidence = evidence
        self._form = form
        self._rules = rules
        self._rendering = rendering
        self._encode = encode

    def read(self, values: Sequence[bytes | None]) -> Readings:
        """1 decode, 2 rules, 3a render, 3b encode. A record that breaks an error rule costs no tokens.

        A record on which a stage fails as nobody foresaw is found by bisecting and leaves as scorer-failed.
        """
        try:
            return self._read(values)
        except Exception as error:
            if len(values) > 1:
                middle = len(values) // 2
                return _joined(self.read(values[:middle]), self.read(values[middle:]))
            return Readings([Unread(Reason.SCORER_FAILED, f"{type(error).__name__}: {error}"[:500])], [()], [], Encoded.of([]), _NONE)

    def _read(self, values: Sequence[bytes | None]) -> Readings:
        readings = decode(values, self._form)
        unread = [reading if type(reading) is Unread else None for reading in readings]
        violations = self._rules.check(readings)
        if self._encode is None:
            return Readings(unread, violations, [], Encoded.of([]), _NONE)
        asked = [
            place
            for place, broken in enumerate(violations)
            if unread[place] is None and not (broken and any(violation.is_error for violation in broken))
        ]
        contents = [cast(Content, readings[place]) for place in asked]
        if self._evidence is None:
            texts = [text_of(content, self._rendering) for content in contents]
            return Readings(unread, violations, asked, self._encode(texts), np.zeros(len(asked), dtype=np.float32))
        shown = [render(content, self._rendering) for content in contents]
        evidence_K = self._evidence.of_all(shown).astype(np.float32)
        return Readings(unread, violations, asked, self._encode([record.text for record in shown]), evidence_K)


def _joined(first: Readings, second: Readings) -> Readings:
    count = len(first.unread)
    return Readings(
        first.unread + second.unread,
        first.violations + second.violations,
        first.asked + [place + count for place in second.asked],
        Encoded(*(np.concatenate(both) for both in zip(first.encoded, second.encoded, strict=True))),
        np.concatenate([first.evidence_K, second.evidence_K]),
    )
