"""Verdicts -> trees beside the sum of signs, as loud as left-out verdicts speak for them.

Enters: what a memory without each verdict's own word saw of its record, what people said, and what the sum of signs said of it while that
was left out. Leaves: a Forest, and what both say together of each verdict's record while it was left out. Trees learn from verdicts alone:
what the corrupted copies of a stream have together is not what a table's faults have (docs/experiments/judgement.md).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.ensemble import ExtraTreesClassifier

from stream.forest import FORM, PARTS, VALUE, Figures, Forest, Looked, Nodes, nats_of

TREES, DEPTH, FOLDS = 64, 8, 3
FEWEST_OF_EACH = 10
"""Verdicts of each kind below which nothing is grown: what a few wrong records have together, they have by chance."""
FEWEST_WITH_COMMON = 5
PRIOR = 3.0
"""How sure it is that the sum of signs is right alone, before verdicts are heard, in verdicts."""
LEAST_SUM = 0.05
LEAST_SPREAD = 1e-6


class Grown(NamedTuple):
    """Trees, and what the sum of signs and they say of each verdict's record while that verdict was left out, in nats."""

    forest: Forest
    left_out: np.ndarray


def grown(
    paths: Iterable[str], looked: Sequence[Looked], is_right: np.ndarray, people: np.ndarray, sum_left_out: np.ndarray, seed: int
) -> Grown | None:
    """Grow trees of N verdicts; None where there are too few of a kind, or left-out verdicts do not speak for trees.

    paths: fields that a memory knows. people: how much each verdict counts.
    """
    if min(is_right.sum(), (~is_right).sum()) < FEWEST_OF_EACH:
        return None
    figures = Figures(sorted(paths), _common_of(looked))
    figures_NF = figures.of(looked)
    fold = np.random.default_rng(seed).permutation(len(looked)) % FOLDS
    left_out = np.zeros(len(looked))
    for number in range(FOLDS):
        apart, kept = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if is_right[kept].all() or not is_right[kept].any():
            return None
        left_out[apart] = _said(_fit(figures_NF[kept], is_right[kept], people[kept], seed), figures_NF[apart])
    loudness = _loudness(sum_left_out, left_out, is_right, people)
    if loudness == 0:
        return None
    middle = float(np.average(left_out, weights=people))
    nodes = _nodes_of(_fit(figures_NF, is_right, people, seed))
    return Grown(Forest(figures, nodes, loudness, round(middle, 6)), sum_left_out + loudness * (left_out - middle))


def _common_of(looked: Sequence[Looked]) -> list[tuple[str, str, str]]:
    """Return the values and forms that many of the records have."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for seen, _ in looked:
        both = {
            (each.path, which, digest)
            for each in seen
            for which, digest in ((VALUE, each.common.value), (FORM, each.common.form))
            if digest
        }
        counts.update(both)
    return sorted(each for each, count in counts.items() if count >= FEWEST_WITH_COMMON)


def _fit(figures_NF: np.ndarray, is_right: np.ndarray, people: np.ndarray, seed: int) -> ExtraTreesClassifier:
    trees = ExtraTreesClassifier(TREES, max_depth=DEPTH, max_features="sqrt", random_state=seed)
    return trees.fit(figures_NF, is_right, sample_weight=people)


def _said(trees: ExtraTreesClassifier, figures_NF: np.ndarray) -> np.ndarray:
    """Return what trees say of records, in nats."""
    return nats_of(trees.predict_proba(figures_NF)[:, 1])


def _loudness(of_sum: np.ndarray, of_trees: np.ndarray, is_right: np.ndarray, people: np.ndarray) -> float:
    """Return how loud trees should be where the sum of signs has loudness 1: a logistic regression that begins at the sum alone."""
    both_N2 = np.stack([of_sum, of_trees], axis=1)
    spread_2 = np.maximum(both_N2.std(axis=0), LEAST_SPREAD)
    features_N3 = np.append((both_N2 - both_N2.mean(axis=0)) / spread_2, np.ones((len(both_N2), 1)), axis=1)
    sign = np.where(is_right, 1.0, -1.0)
    first = np.array([1.0, 0.0])

    def loss(weights_3: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (features_N3 @ weights_3)
        moved = np.append(weights_3[:2] - first, 0.0)
        value = float((people * np.logaddexp(0, -margin)).sum() + PRIOR * (moved**2).sum() / 2)
        return value, features_N3.T @ (-people * sign * expit(-margin)) + PRIOR * moved

    found = minimize(loss, np.append(first, 0.0), jac=True, method="L-BFGS-B", bounds=[(LEAST_SUM, None), (0.0, None), (None, None)])
    of_sum_alone, of_trees_alone = found.x[:2] / spread_2
    return round(float(of_trees_alone / of_sum_alone), 6)


def _nodes_of(trees: ExtraTreesClassifier) -> Nodes:
    """Return trees of scikit-learn as nodes; figures are whole numbers, so what they are compared with can be, too."""
    parts, roots, begin = [], [], 0
    for tree in (each.tree_ for each in trees.estimators_):
        itself = np.arange(tree.node_count)
        is_leaf = tree.children_left == tree.children_right
        follows = np.stack([np.where(is_leaf, itself, tree.children_left), np.where(is_leaf, itself, tree.children_right)], axis=1)
        right = np.round(PARTS * tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1))
        figure, most = np.where(is_leaf, 0, tree.feature), np.where(is_leaf, 0, np.floor(tree.threshold))
        parts.append((figure, most, begin + follows, np.where(is_leaf, right, 0)))
        roots.append(begin)
        begin += tree.node_count
    figure_M, most_M, next_M2, share_M = (np.concatenate(each).astype(np.int64) for each in zip(*parts, strict=True))
    return Nodes(np.array(roots), figure_M, most_M, next_M2, share_M, max(each.get_depth() for each in trees.estimators_))
