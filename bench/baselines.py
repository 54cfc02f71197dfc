"""What an operator could put in the place of a model: figures of columns, characters, an isolation forest, flag everything.

Column figures (`column_features`) are those of the published error detectors (Raha, ED2): how often a value and its
pattern come, its length, whether it is empty, how probable it is given each other cell. Past: of the records that came
before, each at its time; whole: of the whole table. R records, C columns, N verdicts.
"""

from collections import Counter
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bench.table import Table

PAST, WHOLE = "past", "whole"
_SMALLEST_LEAF = 5


def column_features(table: Table, *, past_only: bool) -> np.ndarray:
    """Return features_RF of every record; with `past_only` of the records before it and itself."""
    columns = len(table.columns)
    values = [Counter[str]() for _ in range(columns)]
    patterns = [Counter[str]() for _ in range(columns)]
    pairs: list[list[Counter[tuple[str, str]]]] = [[Counter() for _ in range(columns)] for _ in range(columns)]

    def add(row: tuple[str, ...]) -> None:
        for one, value in enumerate(row):
            values[one][value] += 1
            patterns[one][_pattern(value)] += 1
            for other, beside in enumerate(row):
                pairs[one][other][value, beside] += 1

    def features(row: tuple[str, ...], seen: int) -> list[float]:
        found: list[float] = []
        for one, value in enumerate(row):
            given = [pairs[other][one][beside, value] / values[other][beside] for other, beside in enumerate(row) if other != one]
            found += [values[one][value] / seen, patterns[one][_pattern(value)] / seen, len(value), float(not value)]
            found += [min(given, default=1.0), float(np.mean(given)) if given else 1.0]
        return found

    if not past_only:
        for row in table.cells:
            add(row)
        return np.array([features(row, len(table.cells)) for row in table.cells])
    rows = []
    for seen, row in enumerate(table.cells, start=1):
        add(row)
        rows.append(features(row, seen))
    return np.array(rows)


def baselines(table: Table, asked: np.ndarray, held: np.ndarray) -> dict[str, Any]:
    """Return the AUROC of each baseline on the records `held`, after the verdicts on `asked`; None where none can be had."""
    found: dict[str, Any] = {}
    for name in (PAST, WHOLE):
        features_RF = column_features(table, past_only=name == PAST)
        forest = IsolationForest(random_state=0).fit(features_RF)
        found[f"gradient_boosting_{name}"] = auroc_of_wrong(table.is_wrong[held], boosted(features_RF, table, asked, held))
        found[f"isolation_forest_{name}"] = auroc_of_wrong(table.is_wrong[held], -forest.score_samples(features_RF[held]))
    texts = ["\n".join(row) for row in table.cells]
    found["characters"] = auroc_of_wrong(table.is_wrong[held], _characters(texts, table, asked, held))
    found["flag_everything"] = auroc_of_wrong(table.is_wrong[held], np.zeros(int(held.sum())))
    return found


def boosted(features_RF: np.ndarray, table: Table, asked: np.ndarray, held: np.ndarray) -> np.ndarray | None:
    """Return how wrong gradient boosting on column features holds each record of `held`; None after verdicts of one kind."""
    if len(set(table.is_wrong[asked])) < 2:  # noqa: PLR2004
        return None
    leaf = min(20, max(_SMALLEST_LEAF, len(asked) // 10))
    model = HistGradientBoostingClassifier(min_samples_leaf=leaf, random_state=0).fit(features_RF[asked], table.is_wrong[asked])
    scores: np.ndarray = model.predict_proba(features_RF[held])[:, 1]
    return scores


def _characters(texts: list[str], table: Table, asked: np.ndarray, held: np.ndarray) -> np.ndarray | None:
    if len(set(table.is_wrong[asked])) < 2:  # noqa: PLR2004
        return None
    seen = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True).fit_transform(texts)
    model = LogisticRegression(C=10.0, max_iter=2_000, class_weight="balanced").fit(seen[asked], table.is_wrong[asked])
    scores: np.ndarray = model.decision_function(seen[held])
    return scores


def auroc_of_wrong(is_wrong: np.ndarray, says_wrong: np.ndarray | None) -> float | None:
    """Return the AUROC of what speaks against records; None where nothing is said, or where all are of one kind."""
    if says_wrong is None or is_wrong.all() or not is_wrong.any():
        return None
    return round(float(roc_auc_score(is_wrong, says_wrong)), 4)


def _pattern(value: str) -> str:
    return "".join("9" if c.isdecimal() else "a" if c.isalpha() else c for c in value)
