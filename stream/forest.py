"""Trees over what a memory sees of a record: what its signs say together (Geurts, Ernst and Wehenkel 2006, Machine Learning 63).

Enters: fields as a memory sees them. Leaves: nats; > 0 speaks for right. A sum of signs (stream/evidence.py) cannot know that one is a
fault only beside another; trees can. Verdicts alone grow them (trainer/grow.py). K records, F figures, T trees, M nodes;
of figures, P fields with L each.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stream.memory import EMPTY, LEVELS, THERE, VALUE, Seen
from stream.values import FORM

OF_A_FIELD = (THERE, EMPTY, *LEVELS)
LEAST_SHARE = 0.02
"""What no tree has seen is not impossible."""
PARTS = 1_000
"""Shares of leaves are whole numbers of so many parts: their sum is the same in whatever order they are added."""
_MOST_UNKNOWN = 255  # fits a byte
_MOST_TREES, _MOST_DEPTH = 1_024, 64

Looked = tuple[list[Seen], int]
"""What a memory sees of a record: its fields, and how unusual it is to have these."""


class Figures:
    """A record as F whole numbers.

    OF_A_FIELD for each path, all 0 where it has none (of what stands beside nothing known, apart is 0, too); whether it has each common
    value or form; how unusual its fields are; how many fields the memory does not know, 255 at most; then the most and the sum over the
    known ones of each of OF_A_FIELD.
    """

    def __init__(self, paths: Sequence[str], common: Sequence[tuple[str, str, str]]) -> None:
        """Take the fields to tell of, and of each common value or form its path, VALUE or FORM, and its digest."""
        self.paths, self.common = tuple(paths), tuple(common)
        self._of_fields = len(OF_A_FIELD) * len(self.paths)
        self._of_path = {path: len(OF_A_FIELD) * place for place, path in enumerate(self.paths)}
        self._of_common = {each: self._of_fields + place for place, each in enumerate(self.common)}
        self._shape = self._of_fields + len(self.common)
        self.width = self._shape + 2 + 2 * len(OF_A_FIELD)

    def of(self, looked: Sequence[Looked]) -> np.ndarray:
        """Return figures_KF of records."""
        own = self._shape + 2
        buffer = bytearray(own * len(looked))
        for number, (seen, shape) in enumerate(looked):
            self._fill(buffer, own * number, seen, shape)
        own_KF = np.frombuffer(buffer, dtype=np.uint8).reshape(len(looked), own).astype(np.int32)
        fields_KPL = own_KF[:, : self._of_fields].reshape(len(looked), len(self.paths), len(OF_A_FIELD))
        return np.concatenate([own_KF, fields_KPL.max(axis=1, initial=0), fields_KPL.sum(axis=1, dtype=np.int32)], axis=1)

    def _fill(self, buffer: bytearray, begin: int, seen: Sequence[Seen], shape: int) -> None:
        unknown, width = set[str](), len(OF_A_FIELD)
        for path, rare, odd, apart, unusual, is_empty, amid, common, parted, strange, vouched, denied in seen:
            place = self._of_path.get(path)
            if place is None:
                unknown.add(path)
                continue
            # a path that comes twice is the same twice: a producer must not make a field count more by repeating it
            at = begin + place
            # in the order of OF_A_FIELD
            buffer[at : at + width] = bytes((1, is_empty, rare, odd, apart or 0, unusual, amid, parted, strange, vouched, denied))
            value, form = common
            if value is not None and (place := self._of_common.get((path, VALUE, value))) is not None:
                buffer[begin + place] = 1
            if form is not None and (place := self._of_common.get((path, FORM, form))) is not None:
                buffer[begin + place] = 1
        buffer[begin + self._shape], buffer[begin + self._shape + 1] = shape, min(len(unknown), _MOST_UNKNOWN)


class Nodes(NamedTuple):
    """T trees as M nodes: where each begins; which figure a node asks for; where to go with up to `most` of it and with more; leaves.

    A leaf leads to itself, and has the share of right records in PARTS; other nodes have 0.
    """

    roots_T: np.ndarray
    figure_M: np.ndarray
    most_M: np.ndarray
    next_M2: np.ndarray
    share_M: np.ndarray

    def depth(self) -> int:
        """Return after how many steps every record is in a leaf. Raises ValueError where that takes more than _MOST_DEPTH."""
        here = np.unique(self.roots_T)
        for steps in range(_MOST_DEPTH):
            here = here[self.next_M2[here, 0] != here]
            if not len(here):
                return steps
            here = np.unique(self.next_M2[here])
        raise ValueError(f"trees have no leaf within {_MOST_DEPTH} steps")

    def shares(self, figures_KF: np.ndarray, depth: int | None = None) -> np.ndarray:
        """Return the share of right records in the leaves that records reach, 0 to 1, mean over trees; depth: where it is known."""
        records, width = figures_KF.shape
        flat_KF, begins_K1 = figures_KF.ravel(), np.arange(0, records * width, width)[:, None]
        next_M2 = self.next_M2.ravel()
        node_KT = np.broadcast_to(self.roots_T, (records, len(self.roots_T)))
        for _ in range(self.depth() if depth is None else depth):
            is_more_KT = flat_KF.take(self.figure_M.take(node_KT) + begins_K1) > self.most_M.take(node_KT)
            node_KT = next_M2.take(2 * node_KT + is_more_KT)
        share_K: np.ndarray = self.share_M.take(node_KT).sum(axis=1) / (PARTS * len(self.roots_T))
        return share_K


class Forest:
    """Trees, and how loud they are beside the sum of signs."""

    def __init__(self, figures: Figures, nodes: Nodes, loudness: float, middle_nats: float) -> None:
        """Take trees that ask for `figures`, and how loud they are around what they say of the verdicts' records on the average."""
        self._figures, self._nodes, self._depth = figures, nodes, nodes.depth()
        self._loudness, self._middle_nats = loudness, middle_nats

    def of(self, looked: Sequence[Looked]) -> np.ndarray:
        """Return what the trees say of K records, in nats; > 0 speaks for right."""
        nats_K = nats_of(self._nodes.shares(self._figures.of(looked), self._depth))
        said_K: np.ndarray = self._loudness * (nats_K - self._middle_nats)
        return said_K

    def scaled(self, by: float) -> "Forest":
        """Return trees that say the same so much louder."""
        return Forest(self._figures, self._nodes, round(self._loudness * by, 6), self._middle_nats)

    def as_state(self) -> dict[str, Any]:
        """Return what JSON can keep."""
        return {
            "of_a_field": OF_A_FIELD, "paths": self._figures.paths, "common": self._figures.common,
            "loudness": self._loudness, "middle_nats": self._middle_nats,
            **{name: part.tolist() for name, part in self._nodes._asdict().items()},
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Forest":
        """Take what `as_state` gave. Raises ValueError, KeyError or TypeError."""
        if tuple(state["of_a_field"]) != OF_A_FIELD:
            raise ValueError(f"trees ask for other figures of a field than {', '.join(OF_A_FIELD)}")
        figures = Figures(state["paths"], [(path, which, digest) for path, which, digest in state["common"]])
        nodes = Nodes(*(np.array(state[name], dtype=np.int64) for name in Nodes._fields))
        count, trees = len(nodes.figure_M), len(nodes.roots_T)
        shapes = tuple(part.shape for part in nodes)
        limits = (count, figures.width, None, count, PARTS + 1)
        is_within = all(
            part.min(initial=0) >= 0 and part.max(initial=0) < limit for part, limit in zip(nodes, limits, strict=True) if limit is not None
        )
        if shapes != ((trees,), (count,), (count,), (count, 2), (count,)) or not 0 < trees <= _MOST_TREES or not is_within:
            raise ValueError(f"{trees} trees of {count} nodes lead out of themselves, or are more than {_MOST_TREES}")
        loudness, middle_nats = float(state["loudness"]), float(state["middle_nats"])
        if not (math.isfinite(loudness) and math.isfinite(middle_nats)):
            raise ValueError(f"trees of loudness {loudness} around {middle_nats}")
        return cls(figures, nodes, loudness, middle_nats)


def nats_of(shares: np.ndarray) -> np.ndarray:
    """Return the log-odds of shares of right records."""
    nats: np.ndarray = np.log((shares + LEAST_SHARE) / (1 - shares + LEAST_SHARE))
    return nats
