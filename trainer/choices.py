"""How much the stream counts beside the verdicts: several choices are heard, each as far as left-out verdicts speak for it.

Enters: signs of drawn records, of their corrupted copies, of what people judged and of copies that this has taught. Leaves: what each
sign weighs. Most choices pool stream and verdicts and give every sign a little; the sparse ones take what the stream alone says as one more
sign and give weight to few (lasso, Tibshirani 1996), which is how one fault of one column looks. All are linear in the signs, so what is
heard of them is, too.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array, csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

ENOUGH = 100
"""Fewer verdicts than these cannot tell one choice from another."""
FOLDS, FEWEST_TO_CHOOSE = 3, 12
STREAM_PRIOR, STREAM_PRIOR_A_VERDICT = 0.2, 0.005
"""By how many nats each next one of CHOICES is less probable, and at most by how many for each verdict."""
HALF_TAUGHT = 5
"""Copies that verdicts have taught are as loud as the stream's other ones when many have, and half as loud when so many have."""
LEAST_SHARE = 0.02  # of a choice that is heard at all
INTERCEPT_SCALING = 10.0  # so much less is the bias of a sparse choice drawn to 0 than a weight
LEAST_SPREAD = 1e-9
LEAST_LOUD = 0.1  # of the loudest: a choice that says next to nothing is not made to shout


class Choice(NamedTuple):
    """How much the stream's right ones and the copies count, each together, in verdicts for each verdict; and C of the regression.

    is_sparse: few signs have a weight, beside what the stream alone says.
    """

    stream_share: float
    softness: float = 0.03
    is_sparse: bool = False


CHOICES = (
    *(Choice(3.0), Choice(1.0), Choice(0.3), Choice(0.1), Choice(0.02), Choice(0.02, 0.12)),
    *(Choice(0.02, softness, is_sparse=True) for softness in (0.1, 0.3, 1.0)),
)
"""From the stream to the verdicts: whoever hears people alone forgets what they have not been asked about."""
FEW = Choice(20.0)
"""Where fewer than FEWEST_TO_CHOOSE verdicts can be left out."""


class Linear(NamedTuple):
    """What scaled signs weigh, weights_S, and what a record without any sign has, in nats."""

    weights_S: np.ndarray
    bias: float

    def of(self, features_NS: csr_array) -> np.ndarray:
        """Return what is said of records, in nats."""
        said: np.ndarray = features_NS @ self.weights_S + self.bias
        return said


class Mixed(NamedTuple):
    """What is heard in the end, and what was said of each verdict's record while that was left out, in nats."""

    heard: Linear
    left_out: np.ndarray


class Given:
    """Features of drawn records, of their copies, of what people judged and how much each of that counts, then of taught copies.

    A verdict teaches copies: drawn records to which the same happened as to the one that it calls wrong. They are heard where it is.
    """

    def __init__(
        self, features_NS: csr_array, is_right: np.ndarray, drawn: int, copies: int, people: np.ndarray, taught_by: Sequence[int] = ()
    ) -> None:
        """Take scaled signs and what is known of each record, in that order; `taught_by`: the verdict that taught each of the last."""
        self.features_NS = features_NS
        self.is_right = is_right
        self.drawn = drawn
        self.copies = copies
        self.people = people
        self.taught_by = np.array(taught_by, dtype=int)

    @property
    def first(self) -> int:
        """The place of the first record that people judged."""
        return self.drawn + self.copies

    @property
    def last(self) -> int:
        """The place behind the last record that people judged, where taught copies begin."""
        return self.first + len(self.people)

    @property
    def judged_NS(self) -> csr_array:
        """Features of what people judged."""
        return self.features_NS[self.first : self.last]

    @property
    def verdicts(self) -> np.ndarray:
        """Whether people called each right."""
        found: np.ndarray = self.is_right[self.first : self.last] == 1
        return found

    @cached_property
    def stream_alone(self) -> Linear:
        """What the stream says by itself."""
        return self.fit(FEW, np.arange(0))

    def fit(self, choice: Choice, kept: np.ndarray) -> Linear:
        """Fit on the stream and on the verdicts `kept`."""
        taught = np.flatnonzero(np.isin(self.taught_by, kept))
        rows = np.concatenate([np.arange(self.first), self.first + kept, self.last + taught])
        stream_weight = choice.stream_share * max(1, len(kept))
        of_stream = [np.full(count, stream_weight / count) for count in (self.drawn, self.copies)]
        weight = np.concatenate([*of_stream, self.people[kept], stream_weight * self._shares_of(taught)])
        if choice.is_sparse:
            return self._sparse(choice.softness, rows, weight)
        model = LogisticRegression(C=choice.softness, max_iter=2_000).fit(self.features_NS[rows], self.is_right[rows], sample_weight=weight)
        return Linear(model.coef_[0], float(model.intercept_[0]))

    def _shares_of(self, taught: np.ndarray) -> np.ndarray:
        """Return how much each taught copy counts, beside 1 for all of the stream's: each verdict's together as the verdict does."""
        by, share = self.taught_by[taught], np.zeros(len(taught))
        if len(taught):
            share = self.people[by] / np.bincount(by)[by]
            verdicts = len(np.unique(by))
            share *= verdicts / (verdicts + HALF_TAUGHT) / share.sum()
        return share

    def _sparse(self, softness: float, rows: np.ndarray, weight: np.ndarray) -> Linear:
        """Fit few signs beside what the stream alone says, which is one more feature."""
        begun = self.stream_alone
        # liblinear takes indices of 32 bits, which an array of scipy's does not promise
        features = csr_matrix(hstack([self.features_NS[rows], csr_array(begun.of(self.features_NS)[rows, None])]))
        model = LogisticRegression(
            C=softness, l1_ratio=1.0, solver="liblinear", intercept_scaling=INTERCEPT_SCALING, max_iter=2_000, random_state=0
        )
        model.fit(features, self.is_right[rows], sample_weight=weight)
        of_stream = model.coef_[0, -1]
        return Linear(model.coef_[0, :-1] + of_stream * begun.weights_S, float(model.intercept_[0]) + of_stream * begun.bias)


def as_one(given: Given, choice: Choice) -> Mixed:
    """Hear stream and verdicts as one choice says: too few verdicts, or all of one kind, cannot choose.

    What was said of a verdict's record is what the stream alone says.
    """
    everybody = np.arange(len(given.people))
    told = given.fit(choice, everybody)
    left_out = given.fit(choice, everybody[:0]).of(given.judged_NS) if len(everybody) else np.zeros(0)
    return Mixed(told, left_out)


def mixed(given: Given, seed: int) -> Mixed:
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
            model = given.fit(choice, np.flatnonzero(fold != number))
            # a choice that knows nothing yet says what the other verdicts are on the average: the opposite of those left out
            nats[apart] = model.of(given.features_NS[given.first + apart]) - model.of(given.features_NS[: given.first]).mean()
        losses.append(_improbable(nats, given.verdicts, given.people))
        told.append(nats)
    shares = _shares(np.array(losses))
    places, everybody = np.flatnonzero(shares), np.arange(len(fold))
    models = [given.fit(CHOICES[place], everybody) for place in places]
    weights_CS = np.array([model.weights_S for model in models])
    of_stream_CN = (given.features_NS[: given.first] @ weights_CS.T).T
    middle_C, spread_C = of_stream_CN.mean(axis=1), of_stream_CN.std(axis=1)
    level_C = np.array([model.bias for model in models]) + middle_C
    scale_C = np.maximum(spread_C, LEAST_LOUD * spread_C.max() + 1e-9)
    parts_C = shares[places] / scale_C * (shares[places] @ scale_C)
    level = float(shares[places] @ level_C)
    left_out = parts_C @ np.array([told[place] for place in places]) + level
    return Mixed(Linear(parts_C @ weights_CS, level - float(parts_C @ middle_C)), left_out)


def _shares(losses_CN: np.ndarray) -> np.ndarray:
    """Return how much each choice is heard, 1 in all, by how improbable it makes each of N verdicts, in nats."""
    count = losses_CN.shape[1]
    part = min(1.0, count / ENOUGH)
    beyond_CN = losses_CN - losses_CN[losses_CN.sum(axis=1).argmin()]
    error_C = beyond_CN.std(axis=1) * math.sqrt(count)
    prior_C = min(STREAM_PRIOR, count * STREAM_PRIOR_A_VERDICT) * np.arange(len(losses_CN))
    nats_C = np.maximum(0.0, beyond_CN.sum(axis=1) - part * error_C) + prior_C
    shares_C = np.exp(nats_C.min() - nats_C)
    shares_C[shares_C < LEAST_SHARE * shares_C.sum()] = 0.0
    heard: np.ndarray = shares_C / shares_C.sum()
    return heard


def _improbable(nats: np.ndarray, is_right: np.ndarray, people: np.ndarray) -> np.ndarray:
    """Return how improbable each verdict is, in nats, at the scale and bias that suit them all; what points the wrong way says nothing.

    Both kinds of verdict must be there.
    """
    spread = float(nats.std())
    column = (nats / (spread if spread > LEAST_SPREAD else 1.0))[:, None]
    model = LogisticRegression(C=10.0).fit(column, is_right, sample_weight=people)
    if model.coef_[0, 0] <= 0:
        column = np.zeros_like(column)
        model.fit(column, is_right, sample_weight=people)
    found: np.ndarray = people * np.logaddexp(0, np.where(is_right, -1.0, 1.0) * model.decision_function(column))
    return found
