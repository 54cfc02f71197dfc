"""Verdicts -> trees beside the sum of signs, as loud as left-out verdicts speak for them.

Enters: what a memory without each verdict's own word saw of its record, what people said, and what the sum of signs said of it while that
was left out. Leaves: a Forest, how loud the sum is beside it, and what both say of each verdict's record while it was left out. Trees learn
from verdicts alone: what the corrupted copies of a stream have together is not what a table's faults have (docs/experiments/judgement.md).
N verdicts, F figures, M nodes, V voices: the sum and the trees.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedGroupKFold

from stream.forest import PARTS, Figures, Forest, Looked, Nodes, nats_of
from trainer.voices import loud

TREES, DEPTH, FOLDS = 64, 8, 3
"""Of 200 trees without a limit of depth a gate has nothing more, and takes three times as long for them."""
FEWEST_OF_EACH = 10
"""Different records of each kind below which nothing is grown: what a few wrong ones have together, they have by chance."""
FEWEST_WITH_COMMON = 5
"""Records that have a value or a form below which no tree may ask for it: of fewer, it would know them by heart."""
PRIOR = 3.0
"""How strongly the sum of signs is held for right alone, before verdicts are heard."""
LEAST_OF_SUM, LEAST_OF_TREES = 0.05, 0.05
"""Trees that are hardly heard cost a gate as much as loud ones, and left out they change nothing."""
LEAST_SPREAD_NATS = 1e-6


class Grown(NamedTuple):
    """Trees, by what the sum of signs is scaled beside them, and what both say of each verdict's record while it was left out, in nats."""

    forest: Forest
    of_sum: float
    left_out_N: np.ndarray


def grown(
    paths: Iterable[str],
    looked: Sequence[Looked],
    texts: Sequence[str],
    is_right_N: np.ndarray,
    counts_N: np.ndarray,
    sum_left_out_N: np.ndarray,
    seed: int,
) -> Grown | None:
    """Grow trees of verdicts; None where there are too few of a kind, or left-out verdicts do not speak for trees.

    paths: fields that a memory knows. texts: records that read alike are left out together, else a tree would know one by the other.
    counts_N: how much each verdict counts.
    """
    different = dict(zip(texts, is_right_N.tolist(), strict=True))
    of_right = sum(different.values())
    if min(of_right, len(different) - of_right) < FEWEST_OF_EACH:
        return None
    figures = Figures(sorted(paths), _common_of(looked))
    figures_NF = figures.of(looked)
    left_out_N = np.zeros(len(looked))
    for kept, apart in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(figures_NF, is_right_N, texts):
        if is_right_N[kept].all() or not is_right_N[kept].any():  # of a text about which people disagree
            return None
        nodes = _nodes_of(_fit(figures_NF[kept], is_right_N[kept], counts_N[kept], seed))
        left_out_N[apart] = nats_of(nodes.shares(figures_NF[apart]))
    said_NV = np.stack([sum_left_out_N, left_out_N], axis=1)
    spread_V = np.maximum(said_NV.std(axis=0), LEAST_SPREAD_NATS)
    middle_V = said_NV.mean(axis=0)
    least_V = np.array([LEAST_OF_SUM, 0.0])
    heard = loud((said_NV - middle_V) / spread_V, is_right_N, counts_N, np.array([1.0, 0.0]), PRIOR, least_V)
    of_sum, of_trees = (heard.weight_V / heard.weight_V.sum()).tolist()
    if of_trees < LEAST_OF_TREES:
        return None
    # together as loud as the sum was: how loud evidence is beside the text is not said here
    loudness, middle_nats = round(of_trees * float(spread_V[0] / spread_V[1]), 6), round(float(middle_V[1]), 6)
    forest = Forest(figures, _nodes_of(_fit(figures_NF, is_right_N, counts_N, seed)), loudness, middle_nats)
    return Grown(forest, of_sum, of_sum * sum_left_out_N + loudness * (left_out_N - middle_nats))


def _common_of(looked: Sequence[Looked]) -> list[tuple[str, str, str]]:
    """Return the values and forms that many of the records have."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for seen, _ in looked:
        counts.update({(each.path, *named) for each in seen for named in each.common.named()})
    return sorted(each for each, count in counts.items() if count >= FEWEST_WITH_COMMON)


def _fit(figures_NF: np.ndarray, is_right_N: np.ndarray, counts_N: np.ndarray, seed: int) -> ExtraTreesClassifier:
    trees = ExtraTreesClassifier(TREES, max_depth=DEPTH, max_features="sqrt", random_state=seed)
    return trees.fit(figures_NF, is_right_N, sample_weight=counts_N)


def _nodes_of(trees: ExtraTreesClassifier) -> Nodes:
    """Return trees of scikit-learn as nodes; figures are whole numbers, so what they are compared with can be, too."""
    parts, roots, begin = [], [], 0
    for tree in (each.tree_ for each in trees.estimators_):
        itself_M = np.arange(tree.node_count)
        is_leaf_M = tree.children_left == tree.children_right
        next_M2 = np.stack([np.where(is_leaf_M, itself_M, each) for each in (tree.children_left, tree.children_right)], axis=1)
        right_M = np.round(PARTS * tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1))
        figure_M, most_M = np.where(is_leaf_M, 0, tree.feature), np.where(is_leaf_M, 0, np.floor(tree.threshold))
        parts.append((figure_M, most_M, begin + next_M2, np.where(is_leaf_M, right_M, 0)))
        roots.append(begin)
        begin += tree.node_count
    figure_M, most_M, next_M2, share_M = (np.concatenate(each).astype(np.int64) for each in zip(*parts, strict=True))
    return Nodes(np.array(roots), figure_M, most_M, next_M2, share_M)
