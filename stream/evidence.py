"""Stage 3d, second voice: what other records of the stream say for or against a record, in nats, added to d.

Enters: rendered records. Leaves: evidence_N; > 0 speaks for right. The transformer reads a record by itself; a version's
memory (stream/memory.py) knows the others. Both are log-odds of the same question from different sources, so they add up:
r(正确) + e/2 and r(错误) - e/2 are the rewards of the version, and P(chosen) is still the softmax of two rewards. The
weights are a logistic regression (trainer/weigh.py), as training on pairs is one on d; beside their sum stand trees, for what
only several signs say together (stream/forest.py).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stream import kept
from stream.forest import Forest, Looked
from stream.memory import EMPTY, LEVELS, THERE, VALUE, VOUCHING, Common, Memory, Seen
from stream.render import Rendered
from stream.unusual import MOST_LEVEL
from stream.values import FORM

EVIDENCE_FILE = "evidence.json"
ANY = "*"
_MOST_PATHS_KEPT = 4_096
_FORMAT = 4
"""1 had no forms, 2 no parts and no vouching, 3 no trees: a gate that knows less must not take up weights that it would leave out."""


class _Tables(NamedTuple):
    """What a field weighs at each level, in nats, when it is there, when it is empty, and when it has a value or form that many have."""

    rare: tuple[float, ...]
    odd: tuple[float, ...]
    apart: tuple[float, ...]
    unusual: tuple[float, ...]
    amid: tuple[float, ...]
    parted: tuple[float, ...]
    strange: tuple[float, ...]
    vouched: tuple[float, ...]
    denied: tuple[float, ...]
    there: float
    empty: float
    values: dict[str, float]
    forms: dict[str, float]


class Evidence:
    """A memory, what each of its signs weighs, and trees over them where enough people have answered."""

    def __init__(
        self, memory: Memory, weights: Mapping[str, float], bias: float, most_text: float = math.inf, forest: Forest | None = None
    ) -> None:
        """weights: nats by sign (see `signs_of`); bias: nats of a record without any sign; most_text: what the text's d counts at most.

        forest: what signs say together, beside their sum.
        """
        self.most_text = most_text
        self._memory = memory.ready()
        self._weights = dict(weights)
        self._bias = bias
        self._forest = forest
        self._any = {name: self._steps(f"{ANY}|{name}") for name in LEVELS}
        self._shape = self._steps(f"{ANY}|shape")
        self._of_common: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
        for sign, weight in weights.items():
            common = common_sign(sign)
            if common is not None:
                path, which, digest = common
                self._of_common[path, which][digest] = weight
        self._of_path: dict[str, _Tables] = {}
        self._again = self._tables_of(())

    def scaled(self, by: float, most_text: float = math.inf) -> "Evidence":
        """Return evidence that says the same so much louder, beside a text that counts at most so much, in nats."""
        forest = None if self._forest is None else self._forest.scaled(by)
        return Evidence(self._memory, self._scaled_weights(by), round(by * self._bias, 6), most_text, forest)

    def beside(self, forest: Forest, of_sum: float) -> "Evidence":
        """Return evidence whose sum of signs says the same at `of_sum` of its loudness, with trees beside it."""
        return Evidence(self._memory, self._scaled_weights(of_sum), round(of_sum * self._bias, 6), self.most_text, forest)

    def _scaled_weights(self, by: float) -> dict[str, float]:
        return {sign: round(by * weight, 6) for sign, weight in self._weights.items()}

    def of_copy(self, copy: Rendered, source: Rendered) -> float:
        """Return the evidence of a corrupted copy, in nats; the record of the stream that it was made of is left out of the memory."""
        return float(self._told([self._memory.look(copy, source)])[0])

    @cached_property
    def text(self) -> str:
        """What a version keeps, as JSON."""
        most_text = None if math.isinf(self.most_text) else self.most_text
        state = {"weights": self._weights, "bias": self._bias, "most_text": most_text, "memory": self._memory.as_state()}
        if self._forest is None:  # nothing that an older gate would leave out
            return kept.to_text(state, _FORMAT - 1)
        return kept.to_text({**state, "forest": self._forest.as_state()}, _FORMAT)

    def of(self, record: Rendered) -> float:
        """Return the evidence of one record, in nats; > 0 speaks for right."""
        return float(self._told([self._memory.look(record)])[0])

    def of_all(self, records: Sequence[Rendered]) -> np.ndarray:
        """Return evidence_N of records, in nats: the same as of each, in less time."""
        return self._told([self._memory.look(record) for record in records])

    def _told(self, looked: Sequence[Looked]) -> np.ndarray:
        of_sums = np.array([self._bias + self._sum(*each) for each in looked])
        return of_sums if self._forest is None or not looked else of_sums + self._forest.of(looked)

    def by_field(self, record: Rendered) -> dict[str, float]:
        """Return how much more would speak for a record if a field were like those of others and agreed with the rest, by path, in nats.

        The sum of signs alone is asked: what trees say belongs to no field. Of two fields that disagree the one is to blame with which
        others disagree, too. Where another value is vouched for, it may be that of the neighbour that is wrong: that is not heard.
        """
        as_it_is = self._look_for_blame(record)
        whole = self._sum(*as_it_is)
        rises = {}
        for path in {field.path: None for field in record.fields}:
            seen, shape = self._look_for_blame(record, path) if self._memory.tells_of_others(path) else as_it_is
            rises[path] = self._sum([self._usual(each) if each.path == path else each for each in seen], shape) - whole
        return rises

    def _look_for_blame(self, record: Rendered, without: str | None = None) -> tuple[list[Seen], int]:
        seen, shape = self._memory.look(record, without=without)
        return [each._replace(denied=0) for each in seen], shape

    def _usual(self, seen: Seen) -> Seen:
        """Return a field as others have it, in the form that speaks most for a record."""
        # whom a record comes from may tell much, and is no wrong field; what some software writes by default is one
        common = seen.common
        if seen.is_empty or not self._memory.tells_apart(seen.path):
            forms = self._of_common.get((seen.path, FORM), {})
            own = common.form
            if own is None or forms.get(own, 0.0) < 0:  # else a usual form would be to blame for not being the best one
                best = max(forms, key=lambda form: forms[form], default=None)
                own = best if best is not None and forms[best] > 0 else None
            common = Common(None, own)
        return Seen(seen.path, 0, 0, None if seen.apart is None else 0, 0, is_empty=False, amid=0, common=common)

    def _sum(self, seen: Sequence[Seen], shape: int) -> float:
        """Add up what `signs_of` would name: a field's own signs and its part of the counts over fields, then those of the worst field."""
        total = self._shape[shape]
        worst_rare = worst_odd = worst_apart = worst_unusual = worst_amid = worst_parted = worst_strange = worst_vouched = worst_denied = 0
        done: set[str] = set()
        for path, rare, odd, apart, unusual, is_empty, amid, common, parted, strange, vouched, denied in seen:
            # a path that comes twice says its own signs once: a producer must not make a usual field count by repeating it
            own = self._again if path in done else self._of_path.get(path) or self._tables(path)
            done.add(path)
            far = apart or 0
            total += own.rare[rare] + own.odd[odd] + own.apart[far] + own.unusual[unusual] + own.amid[amid] + own.there
            total += own.parted[parted] + own.strange[strange] + own.vouched[vouched] + own.denied[denied]
            if is_empty:
                total += own.empty
            if common.value is not None:
                total += own.values.get(common.value, 0.0)
            if common.form is not None:
                total += own.forms.get(common.form, 0.0)
            worst_rare, worst_odd = (rare if rare > worst_rare else worst_rare), (odd if odd > worst_odd else worst_odd)
            worst_apart, worst_amid = (far if far > worst_apart else worst_apart), (amid if amid > worst_amid else worst_amid)
            worst_unusual = unusual if unusual > worst_unusual else worst_unusual
            worst_parted = parted if parted > worst_parted else worst_parted
            worst_strange = strange if strange > worst_strange else worst_strange
            worst_vouched = vouched if vouched > worst_vouched else worst_vouched
            worst_denied = denied if denied > worst_denied else worst_denied
        any_ = self._any
        total += any_["rare"][worst_rare] + any_["odd"][worst_odd] + any_["apart"][worst_apart]
        total += any_["parted"][worst_parted] + any_["strange"][worst_strange]
        total += any_["vouched"][worst_vouched] + any_["denied"][worst_denied]
        return total + any_["unusual"][worst_unusual] + any_["amid"][worst_amid]

    def _tables(self, path: str) -> "_Tables":
        """Return what each level of a field weighs, its part of the counts over fields in it."""
        found = self._tables_of((path,))
        if len(self._of_path) < _MOST_PATHS_KEPT:  # who makes up paths must not fill the memory
            self._of_path[path] = found
        return found

    def _tables_of(self, own: tuple[str, ...]) -> "_Tables":
        """Return the part of the counts over fields, and the signs of the paths `own` with it."""
        names = [*own, f"{ANY}fields"]
        rare, odd, apart, unusual, amid, parted, strange, vouched, denied = (
            tuple(sum(steps) for steps in zip(*(self._steps(f"{name}|{sign}") for name in names), strict=True)) for sign in LEVELS
        )
        there = sum(self._weights.get(f"{path}|{THERE}", 0.0) for path in own)
        empty = sum(self._weights.get(f"{name}|{EMPTY}", 0.0) for name in names)
        values, forms = (dict(self._of_common.get((own[0], which), {})) if own else {} for which in (VALUE, FORM))
        return _Tables(rare, odd, apart, unusual, amid, parted, strange, vouched, denied, there, empty, values, forms)

    def _steps(self, sign: str) -> tuple[float, ...]:
        """Return the weight of each level: a level counts as all below it, too."""
        return tuple(accumulate((self._weights.get(f"{sign}|{level}", 0.0) for level in range(1, MOST_LEVEL + 1)), initial=0.0))

    @classmethod
    def from_text(cls, text: str) -> "Evidence":
        """Return what `text` was. Raises ModelRefused."""

        def make(state: dict[str, Any]) -> Evidence:
            most_text = state.get("most_text")
            weights, bias = state["weights"], float(state["bias"])
            forest = Forest.from_state(state["forest"]) if "forest" in state else None
            return cls(Memory(state["memory"]), weights, bias, math.inf if most_text is None else float(most_text), forest)

        return kept.from_text(EVIDENCE_FILE, text, make, _FORMAT)


def load_evidence(directory: Path) -> Evidence | None:
    """Return the evidence of a version; None where it has none, as an imported checkpoint. Raises ModelRefused."""
    return kept.load(directory, EVIDENCE_FILE, Evidence.from_text)


def signs_of(seen: Sequence[Seen], shape: int) -> dict[str, float]:
    """Return the signs of a record: per path, in how many fields, and whether in any; a level counts as all below it, too.

    A value, or a form of values, that many records have is a sign of its path by itself.
    """
    found: dict[str, float] = {}
    for each in seen:
        for name, level in zip(LEVELS, _levels_of(each), strict=True):
            for reached in range(1, level + 1):
                found[f"{each.path}|{name}|{reached}"] = 1.0
                fields = f"{ANY}fields|{name}|{reached}"
                found[fields] = found.get(fields, 0.0) + 1.0
                found[f"{ANY}|{name}|{reached}"] = 1.0
        for which, digest in each.common.named():
            found[f"{each.path}|{which}|{digest}"] = 1.0
        if each.is_empty:
            found[f"{each.path}|{EMPTY}"] = 1.0
            found[f"{ANY}fields|{EMPTY}"] = found.get(f"{ANY}fields|{EMPTY}", 0.0) + 1.0
        found[f"{each.path}|{THERE}"] = 1.0
    for reached in range(1, shape + 1):
        found[f"{ANY}|shape|{reached}"] = 1.0
    return found


def _levels_of(each: Seen) -> tuple[int, ...]:
    """Return the levels of a field in the order of LEVELS."""
    return each.rare, each.odd, each.apart or 0, each.unusual, each.amid, each.parted, each.strange, each.vouched, each.denied


def is_vouching(sign: str) -> bool:
    """Return whether a sign is that people vouch for the value of a field, or for another one."""
    parts = sign.rsplit("|", 2)
    return len(parts) == 3 and parts[1] in VOUCHING  # noqa: PLR2004


def common_sign(sign: str) -> tuple[str, str, str] | None:
    """Return path, VALUE or FORM, and digest of a sign that a value or a form that many records have is; None of any other sign."""
    parts = sign.rsplit("|", 2)
    # of a field whose own name ends in |form, there and empty are no digests
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 and parts[1] in (VALUE, FORM) and parts[2] not in (THERE, EMPTY) else None  # noqa: PLR2004
