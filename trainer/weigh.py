"""Memory, stream and verdicts -> Evidence: what each sign of the memory weighs, by logistic regression.

Records that came in stand for right and their corrupted copies for wrong, as in the contrastive pairs; verdicts count
one each, and the stream a share of them, whatever its size, so that few of them already move what they know better.
"""

import math
from collections.abc import Sequence
from random import Random
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, diags_array
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.utils.sparsefuncs import mean_variance_axis

from stream.evidence import VALUE, Evidence, signs_of
from stream.memory import Memory
from stream.render import Rendered, reread
from trainer.corrupt import Corrupter
from trainer.pairs import Encoded

MOST_RECORDS, COPIES = 2_000, 2
LEAST_SCALE = 0.05
ENOUGH = 100
"""Fewer verdicts than these would learn which cities they came from, and cannot tell one choice from another."""
VALUES_SHARE = 0.6
"""How much of the room of other signs a value by itself has, from ENOUGH verdicts on."""
FOLDS, FEWEST_TO_CHOOSE = 3, 12
STREAM_PRIOR = 0.5
"""By how many nats each next one of CHOICES is less probable, from ENOUGH verdicts on."""
LEAST_SHARE = 0.02  # of a choice that is heard at all
LEAST_LOUD = 0.1  # of the loudest: a choice that says next to nothing is not made to shout
FEWEST_WITH_SIGN = 5
FEWEST_RECORDS = 50
SURE_BELOW = 0.45  # a verdict that is as probably mistaken as not says nothing


class Choice(NamedTuple):
    """How much the stream's right ones and the copies count, each together, in verdicts for each verdict; and C of the regression."""

    stream_share: float
    softness: float = 0.03


CHOICES = (Choice(3.0), Choice(1.0), Choice(0.3), Choice(0.1), Choice(0.02), Choice(0.02, 0.12))
"""From the stream to the verdicts: whoever hears people alone forgets what they have not been asked about."""
FEW = Choice(20.0)
"""Where fewer than FEWEST_TO_CHOOSE verdicts can be left out."""


class Said(NamedTuple):
    """What people said of a record, and how much it counts."""

    record: Rendered
    is_right: bool
    weight: float = 1.0


def said_of(encoded: Encoded) -> list[Said]:
    """Return what people said of labelled records; the more a verdict is doubted, the less it counts."""
    both = zip(encoded.shown, encoded.records, strict=True)
    return [Said(shown, each.is_right, each.weight * (1 - 2 * each.doubt)) for shown, each in both if each.doubt < SURE_BELOW]


class Weighed(NamedTuple):
    """Evidence, and what it said of each verdict's record while that verdict was left out, in nats."""

    evidence: Evidence
    left_out: np.ndarray


def weigh(stream: Sequence[Rendered], free: Sequence[Rendered], said: Sequence[Said], seed: int) -> Weighed | None:
    """Remember `stream` and weigh its signs; None where there is too little to remember.

    free: records of the stream that may be drawn as right: no held-out ones, none that people called wrong.
    """
    if len(stream) < FEWEST_RECORDS or len(free) < FEWEST_RECORDS:
        return None
    memory = Memory.of(stream)
    random = Random(seed)
    drawn = random.sample(list(free), min(MOST_RECORDS, len(free)))
    corrupter = Corrupter(drawn, seed)
    signs = [signs_of(*memory.look(record)) for record in drawn]
    copies = [(reread(corrupter.corrupt(source), source), source) for source in drawn for _ in range(COPIES)]
    signs += [signs_of(*memory.look(copy, source)) for copy, source in copies]
    signs += [signs_of(*memory.look(each.record)) for each in said]
    is_right = np.array([1] * len(drawn) + [0] * len(copies) + [int(each.is_right) for each in said])
    vectorizer = DictVectorizer()
    signs_NS = vectorizer.fit_transform(signs)
    often = np.flatnonzero((signs_NS != 0).sum(axis=0).A1 >= FEWEST_WITH_SIGN)
    names = vectorizer.get_feature_names_out()[often]
    features_NS = signs_NS[:, often]  # six in seven are 0: sparse, the fits take a fifth of the time
    scale_S = np.maximum(np.sqrt(mean_variance_axis(features_NS, axis=0)[1]), LEAST_SCALE)
    values_share = max(0.01, VALUES_SHARE * min(1.0, len(said) / ENOUGH))
    scale_S /= np.array([values_share if f"|{VALUE}|" in name else 1.0 for name in names])
    people = np.array([each.weight for each in said])
    people = people / people.mean() if len(said) else people
    given = Given(csr_array(features_NS @ diags_array(1 / scale_S)), is_right, len(drawn), len(copies), people)
    if len(said) < FEWEST_TO_CHOOSE:
        mixed = _as_one(given, FEW)
    elif len({each.is_right for each in said}) == 1:
        mixed = _as_one(given, CHOICES[0])
    else:
        mixed = _mixed(given, seed)
    weights = {str(name): round(float(each), 6) for name, each in zip(names, mixed.weights_S / scale_S, strict=True)}
    return Weighed(Evidence(memory, weights, round(mixed.bias, 6)), mixed.left_out)


class Mixed(NamedTuple):
    """What scaled signs weigh, weights_S and bias, and what they said of each verdict's record while that was left out, in nats."""

    weights_S: np.ndarray
    bias: float
    left_out: np.ndarray


class Given(NamedTuple):
    """Features of drawn records, of their copies, then of what people judged, and how much each of the last counts."""

    features_NS: csr_array
    is_right: np.ndarray
    drawn: int
    copies: int
    people: np.ndarray

    @property
    def first(self) -> int:
        """The place of the first record that people judged."""
        return self.drawn + self.copies

    def fit(self, choice: Choice, kept: np.ndarray) -> LogisticRegression:
        """Fit on the stream and on the verdicts `kept`."""
        rows = np.concatenate([np.arange(self.first), self.first + kept])
        stream_weight = choice.stream_share * max(1, len(kept))
        of_stream = [np.full(count, stream_weight / count) for count in (self.drawn, self.copies)]
        weight = np.concatenate([*of_stream, self.people[kept]])
        return LogisticRegression(C=choice.softness, max_iter=2_000).fit(self.features_NS[rows], self.is_right[rows], sample_weight=weight)


def _as_one(given: Given, choice: Choice) -> Mixed:
    """Hear stream and verdicts as one choice says: too few verdicts, or all of one kind, cannot choose.

    What was said of a verdict's record is what the stream alone says.
    """
    everybody = np.arange(len(given.people))
    model = given.fit(choice, everybody)
    left_out = np.zeros(0)
    if len(everybody):
        left_out = given.fit(choice, everybody[:0]).decision_function(given.features_NS[given.first :])
    return Mixed(model.coef_[0], float(model.intercept_[0]), left_out)


def _mixed(given: Given, seed: int) -> Mixed:
    """Hear all CHOICES, each by as much as left-out verdicts speak for it: few verdicts cannot tell which is best.

    All are equally loud around what each says of the stream on the average.

    How much they speak for it: by how improbable it makes them at most one standard error beyond the best choice, or a part of it,
    and by a prior for the stream. How improbable: at the temperature and bias that suit the choice, fitted anew behind it.
    """
    fold = np.random.default_rng(seed).permutation(len(given.people)) % FOLDS
    losses, told = [], []
    for choice in CHOICES:
        nats = np.zeros(len(fold))
        for number in range(FOLDS):
            apart = np.flatnonzero(fold == number)
            nats[apart] = given.fit(choice, np.flatnonzero(fold != number)).decision_function(given.features_NS[given.first + apart])
        losses.append(_improbable(nats, given.is_right[given.first :] == 1, given.people))
        told.append(nats)
    shares = _shares(np.array(losses))
    places, everybody = np.flatnonzero(shares), np.arange(len(fold))
    models = [given.fit(CHOICES[place], everybody) for place in places]
    weights_CS = np.array([model.coef_[0] for model in models])
    of_stream_CN = (given.features_NS[: given.first] @ weights_CS.T).T
    middle_C, spread_C = of_stream_CN.mean(axis=1), of_stream_CN.std(axis=1)
    level_C = np.array([model.intercept_[0] for model in models]) + middle_C
    scale_C = np.maximum(spread_C, LEAST_LOUD * spread_C.max() + 1e-9)
    parts_C = shares[places] / scale_C * (shares[places] @ scale_C)
    level = float(shares[places] @ level_C)
    left_out = parts_C @ (np.array([told[place] for place in places]) - level_C[:, None]) + level
    return Mixed(parts_C @ weights_CS, level - float(parts_C @ middle_C), left_out)


def _shares(losses_CN: np.ndarray) -> np.ndarray:
    """Return how much each choice is heard, 1 in all, by how improbable it makes each of N verdicts, in nats."""
    count = losses_CN.shape[1]
    part = min(1.0, count / ENOUGH)
    beyond_CN = losses_CN - losses_CN[losses_CN.sum(axis=1).argmin()]
    error_C = beyond_CN.std(axis=1) * math.sqrt(count)
    nats_C = np.maximum(0.0, beyond_CN.sum(axis=1) - part * error_C) + part * STREAM_PRIOR * np.arange(len(losses_CN))
    shares_C = np.exp(nats_C.min() - nats_C)
    shares_C[shares_C < LEAST_SHARE * shares_C.sum()] = 0.0
    heard: np.ndarray = shares_C / shares_C.sum()
    return heard


def _improbable(nats: np.ndarray, is_right: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Return how improbable each verdict is, in nats, at the scale and bias that suit them all; what points the wrong way says nothing.

    Both kinds of verdict must be there.
    """
    column = (nats / (float(nats.std()) or 1.0))[:, None]
    model = LogisticRegression(C=10.0).fit(column, is_right, sample_weight=people)
    if model.coef_[0, 0] <= 0:
        column = np.zeros_like(column)
        model.fit(column, is_right, sample_weight=people)
    found: np.ndarray = people * np.logaddexp(0, np.where(is_right, -1.0, 1.0) * model.decision_function(column))
    return found
