"""Memory, stream and verdicts -> Evidence: what each sign of the memory weighs, by logistic regression.

Records that came in stand for right and their corrupted copies for wrong, as in the contrastive pairs; verdicts count
one each, and the stream a share of them, whatever its size, so that few of them already move what they know better. What a verdict says
has happened to its record is made to happen to others, which count with the copies. What stands beside what in a record that people called
right is vouched for from then on; what that weighs is learned from verdicts whose own share of it is left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack
from sklearn.feature_extraction import DictVectorizer
from sklearn.utils.sparsefuncs import mean_variance_axis

from stream.evidence import Evidence, common_sign, is_vouching, signs_of
from stream.forest import Looked
from stream.memory import VALUE, Memory
from stream.render import Rendered, reread
from trainer.choices import CHOICES, ENOUGH, FEW, FEWEST_TO_CHOOSE, Given, as_one, mixed
from trainer.corrupt import Corrupter
from trainer.edits import Edit, edited
from trainer.grow import grown
from trainer.pairs import Encoded

MOST_RECORDS, COPIES, TAUGHT = 2_000, 2, 20
LEAST_SCALE = 0.05
VALUES_SHARE = 0.6
"""How much of the room of other signs a value by itself has, from ENOUGH verdicts on: few would learn which cities they came from."""
FORMS_ENOUGH = 30
"""Verdicts from which on a form has as much room as other signs."""
VOUCHING_ENOUGH = 300
"""Verdicts from which on what people vouch for has as much room as other signs: few say nothing of what that is worth."""
LEAST_ROOM = 0.01
FEWEST_WITH_SIGN = 5
FEWEST_RECORDS = 50
SURE_BELOW = 0.45  # a verdict that is as probably mistaken as not says nothing
VOUCHES_BELOW = 0.25  # a doubt
VOUCHED_FOLDS = 10


class Said(NamedTuple):
    """What people said of a record, how much it counts, and how probably it is mistaken, from 0 to 1."""

    record: Rendered
    is_right: bool
    weight: float = 1.0
    doubt: float = 0.0


def said_of(encoded: Encoded) -> list[Said]:
    """Return what people said of labelled records; the more a verdict is doubted, the less it counts."""
    both = zip(encoded.shown, encoded.records, strict=True)
    return [Said(shown, each.is_right, each.weight * (1 - 2 * each.doubt), each.doubt) for shown, each in both if each.doubt < SURE_BELOW]


class Weighed(NamedTuple):
    """Evidence, and what it said of each verdict's record while that verdict was left out, in nats."""

    evidence: Evidence
    left_out: np.ndarray


def weigh(
    stream: Sequence[Rendered],
    free: Sequence[Rendered],
    said: Sequence[Said],
    seed: int,
    edits: Mapping[str, Sequence[Edit]] = MappingProxyType({}),
) -> Weighed | None:
    """Remember `stream` and weigh its signs; None where there is too little to remember.

    free: records of the stream that may be drawn as right: no held-out ones, none that people called wrong. edits: what may have made
    records wrong that people called so, by the record's text.
    """
    if len(stream) < FEWEST_RECORDS or len(free) < FEWEST_RECORDS:
        return None
    vouched = _Vouched(Memory.of(stream), said, seed)
    random = Random(seed)
    drawn = random.sample(list(free), min(MOST_RECORDS, len(free)))
    corrupter = Corrupter(drawn, seed)
    signs = [signs_of(*vouched.look(record)) for record in drawn]
    copies = [(reread(corrupter.corrupt(source), source), source) for source in drawn for _ in range(COPIES)]
    signs += [signs_of(*vouched.look(copy, source)) for copy, source in copies]
    looked = [vouched.look(each.record) for each in said]
    signs += [signs_of(*each) for each in looked]
    is_right = np.array([1] * len(drawn) + [0] * len(copies) + [int(each.is_right) for each in said])
    vectorizer = DictVectorizer()
    signs_NS = vectorizer.fit_transform(signs)
    often = np.flatnonzero((signs_NS != 0).sum(axis=0).A1 >= FEWEST_WITH_SIGN)
    names = vectorizer.get_feature_names_out()[often]
    features_NS = signs_NS[:, often]  # six in seven are 0: sparse, the fits take a fifth of the time
    scale_S = np.maximum(np.sqrt(mean_variance_axis(features_NS, axis=0)[1]), LEAST_SCALE)
    scale_S /= np.array([_room_of(name, len(said)) for name in names])
    people = np.array([each.weight for each in said])
    people = people / people.mean() if len(said) else people
    taught = list(_taught(said, drawn, edits, random))
    if taught:  # which signs there are, and their scale, is not theirs to say
        of_taught_TS = vectorizer.transform([signs_of(*vouched.look(copy, source)) for _, copy, source in taught])[:, often]
        features_NS = vstack([features_NS, of_taught_TS])
        is_right = np.append(is_right, np.zeros(len(taught), dtype=int))
    taught_by = [place for place, _, _ in taught]
    given = Given(csr_array(features_NS @ diags_array(1 / scale_S)), is_right, len(drawn), len(copies), people, taught_by)
    if len(said) < FEWEST_TO_CHOOSE:
        found = as_one(given, FEW)
    elif len({each.is_right for each in said}) == 1:
        found = as_one(given, CHOICES[0])
    else:
        found = mixed(given, seed)
    weights = {str(name): round(float(each), 6) for name, each in zip(names, found.heard.weights_S / scale_S, strict=True)}
    evidence = Evidence(vouched.memory, weights, round(found.heard.bias, 6))
    texts = [each.record.text for each in said]
    trees = grown(vouched.memory.paths, looked, texts, given.verdicts, people, found.left_out, seed)
    return Weighed(evidence, found.left_out) if trees is None else Weighed(evidence.beside(trees.forest, trees.of_sum), trees.left_out_N)


def _room_of(sign: str, verdicts: int) -> float:
    """Return how much room a sign has, 1 for most: those of which few verdicts know nothing have less until there are enough."""
    common = common_sign(sign)
    if common is not None:
        share, enough = (VALUES_SHARE, ENOUGH) if common[1] == VALUE else (1.0, FORMS_ENOUGH)
    elif is_vouching(sign):
        share, enough = 1.0, VOUCHING_ENOUGH
    else:
        return 1.0
    return max(LEAST_ROOM, share * min(1.0, verdicts / enough))


class _Vouched:
    """A memory with what people vouch for, and it once more for each fold of what they judged, without what they said of that fold."""

    def __init__(self, memory: Memory, said: Sequence[Said], seed: int) -> None:
        """Hear who called what right; too few cannot say what that weighs."""
        right = [each.record for each in said if each.is_right and each.doubt < VOUCHES_BELOW]
        is_enough = len(said) >= FEWEST_TO_CHOOSE
        texts = list({each.record.text: None for each in said}) if is_enough else []
        folds = np.random.default_rng(seed).permutation(len(texts)) % VOUCHED_FOLDS
        self._fold = dict(zip(texts, folds.tolist(), strict=True))
        self.memory = memory.vouched_by(right) if is_enough else memory
        numbers = range(min(VOUCHED_FOLDS, len(texts)))
        self._without = [memory.vouched_by([record for record in right if self._fold[record.text] != number]) for number in numbers]

    def look(self, record: Rendered, source: Rendered | None = None) -> Looked:
        """Return what is seen of a record, or of a copy of `source`, without what people said of it."""
        fold = self._fold.get((source or record).text)
        return (self.memory if fold is None else self._without[fold]).look(record, source)


def _taught(
    said: Sequence[Said], drawn: Sequence[Rendered], edits: Mapping[str, Sequence[Edit]], random: Random
) -> Iterator[tuple[int, Rendered, Rendered]]:
    """Yield the place of a record that was called wrong, a copy of a drawn record to which the same happened, and that record."""
    known = [(place, edits[each.record.text]) for place, each in enumerate(said) if not each.is_right and each.record.text in edits]
    for place, happened in known:
        for source in random.choices(drawn, k=min(TAUGHT, MOST_RECORDS // len(known) + 1)):
            text = edited(source, random.choice(happened), random)
            if text is not None:
                yield place, reread(text, source), source
