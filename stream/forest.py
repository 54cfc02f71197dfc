"""Trees over what a memory sees of a record: what its signs say together (Geurts, Ernst and Wehenkel 2006, Machine Learning 63).

Enters: fields as a memory sees them. Leaves: nats; > 0 speaks for right. A sum of signs (stream/evidence.py) cannot know that one is a
fault only beside another; trees can. Verdicts alone grow them (trainer/grow.py). K records, F figures, T trees, M nodes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stream.memory import Seen

VALUE, FORM = "is", "form"
OF_A_FIELD = ("there", "empty", "rare", "odd", "apart", "unusual", "amid", "parted", "strange", "vouched", "denied")
LEAST_SHARE = 0.02
"""What no tree has seen is not impossible."""
PARTS = 1_000
"""Shares of leaves are whole numbers of so many parts: their sum is the same in whatever order they are added."""
_MOST_UNKNOWN = 255
_OF_NODES = ("roots_T", "figure_M", "most_M", "next_M2", "share_M")

Looked = tuple[list[Seen], int]
"""What a memory sees of a record: its fields, and how unusual it is to have these."""


class Figures:
    """A record as F whole numbers.

    OF_A_FIELD for each path, whether it has each common value or form, how unusual its fields are, how many fields the memory does not
    know, then the most and the sum over the known ones of each of OF_A_FIELD.
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
        own_K = np.frombuffer(buffer, dtype=np.uint8).reshape(len(looked), own).astype(np.int32)
        fields_KPL = own_K[:, : self._of_fields].reshape(len(looked), len(self.paths), len(OF_A_FIELD))
        return np.concatenate([own_K, fields_KPL.max(axis=1, initial=0), fields_KPL.sum(axis=1, dtype=np.int32)], axis=1)

    def _fill(self, buffer: bytearray, begin: int, seen: Sequence[Seen], shape: int) -> None:
        unknown, width = 0, len(OF_A_FIELD)
        for path, rare, odd, apart, unusual, is_empty, amid, common, parted, strange, vouched, denied in seen:
            place = self._of_path.get(path)
            if place is None:
                unknown += 1
                continue
            # a path that comes twice is the same twice: a producer must not make a field count more by repeating it
            at = begin + place
            buffer[at : at + width] = bytes((1, is_empty, rare, odd, apart or 0, unusual, amid, parted, strange, vouched, denied))
            value, form = common
            if value is not None and (place := self._of_common.get((path, VALUE, value))) is not None:
                buffer[begin + place] = 1
            if form is not None and (place := self._of_common.get((path, FORM, form))) is not None:
                buffer[begin + place] = 1
        buffer[begin + self._shape], buffer[begin + self._shape + 1] = shape, min(unknown, _MOST_UNKNOWN)


class Nodes(NamedTuple):
    """T trees as M nodes: where each begins; which figure a node asks for; where to go with up to `most` of it and with more; leaves.

    A leaf leads to itself, and has the share of right records in PARTS; other nodes have 0.
    """

    roots_T: np.ndarray
    figure_M: np.ndarray
    most_M: np.ndarray
    next_M2: np.ndarray
    share_M: np.ndarray
    depth: int

    def shares(self, figures_KF: np.ndarray) -> np.ndarray:
        """Return the share of right records in the leaves that records reach, 0 to 1, mean over trees."""
        records, width = figures_KF.shape
        flat, begins_K1 = figures_KF.ravel(), np.arange(0, records * width, width)[:, None]
        follows = self.next_M2.ravel()
        node_KT = np.broadcast_to(self.roots_T, (records, len(self.roots_T)))
        for _ in range(self.depth):
            is_more_KT = flat.take(self.figure_M.take(node_KT) + begins_K1) > self.most_M.take(node_KT)
            node_KT = follows.take(2 * node_KT + is_more_KT)
        found: np.ndarray = self.share_M.take(node_KT).sum(axis=1) / (PARTS * len(self.roots_T))
        return found


class Forest:
    """Trees, and how loud they are beside the sum of signs."""

    def __init__(self, figures: Figures, nodes: Nodes, loudness: float, middle: float) -> None:
        """Take trees that ask for `figures`; middle: nats that they say of the verdicts' records on the average, taken off."""
        self._figures, self._nodes = figures, nodes
        self._loudness, self._middle = loudness, middle

    def of(self, looked: Sequence[Looked]) -> np.ndarray:
        """Return what the trees say of K records, in nats; > 0 speaks for right."""
        said: np.ndarray = self._loudness * (nats_of(self._nodes.shares(self._figures.of(looked))) - self._middle)
        return said

    def scaled(self, by: float) -> "Forest":
        """Return trees that say the same so much louder."""
        return Forest(self._figures, self._nodes, round(self._loudness * by, 6), self._middle)

    def as_state(self) -> dict[str, Any]:
        """Return what JSON can keep."""
        return {
            "paths": self._figures.paths, "common": self._figures.common, "loudness": self._loudness, "middle": self._middle,
            "depth": self._nodes.depth, **{name: getattr(self._nodes, name).tolist() for name in _OF_NODES},
        }  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Forest":
        """Take what `as_state` gave. Raises ValueError, KeyError or TypeError."""
        figures = Figures(state["paths"], [(path, which, digest) for path, which, digest in state["common"]])
        roots_T, figure_M, most_M, next_M2, share_M = (np.array(state[name], dtype=np.int64) for name in _OF_NODES)
        nodes = Nodes(roots_T, figure_M, most_M, next_M2, share_M, int(state["depth"]))
        count = len(figure_M)
        has_all = most_M.shape == share_M.shape == (count,) and next_M2.shape == (count, 2) and len(roots_T) > 0
        limits = ((roots_T, count), (next_M2, count), (figure_M, figures.width), (share_M, PARTS + 1))
        if not has_all or any(part.min(initial=0) < 0 or part.max(initial=0) >= limit for part, limit in limits):
            raise ValueError(f"{count} nodes of trees lead out of themselves")
        return cls(figures, nodes, float(state["loudness"]), float(state["middle"]))


def nats_of(shares: np.ndarray) -> np.ndarray:
    """Return the log-odds of shares of right records."""
    found: np.ndarray = np.log((shares + LEAST_SHARE) / (1 - shares + LEAST_SHARE))
    return found
