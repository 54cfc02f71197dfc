"""What an operator could put in the place of a model: figures of columns, characters, an isolation forest, flag everything.

Column figures (`column_features`) are those of the published error detectors (Raha, ED2): how often a value and its
pattern come, its length, whether it is empty, how probable it is given each other cell. Past: of the records that came
before, each at its time; seen: of all that anybody may be asked about, which is what winnow learns from when the last one has come;
whole: of the whole table. R records, C columns, N verdicts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bench.table import Table, evenly

PAST, SEEN, WHOLE = "past", "seen", "whole"
MOST_TEXTS = 20_000
_SMALLEST_LEAF = 5

Counting = Callable[[np.ndarray], np.ndarray]


def column_features(table: Table, of: str, held: np.ndarray | None = None) -> np.ndarray:
    """Return features_RF of every record, counted over the past, what is seen (all but `held_R`), or the whole; each with itself."""
    records = len(table.cells)
    count, total = _counting(of, records, held)
    columns = [_codes(column) for column in zip(*table.cells, strict=True)]
    values = [count(codes) for codes in columns]
    found: list[np.ndarray] = []
    for one, cells in enumerate(zip(*table.cells, strict=True)):
        patterns = _codes([_pattern(value) for value in cells])
        lengths = np.array([len(value) for value in cells], dtype=float)
        least, mean = np.full(records, 1.0 if len(columns) == 1 else np.inf), np.zeros(records)
        for other, beside in enumerate(columns):
            if other != one:
                given = count(_joint(columns[one], beside)) / values[other]
                least = np.minimum(least, given)
                mean += given / (len(columns) - 1)
        found += [values[one] / total, count(patterns) / total, lengths, (lengths == 0).astype(float)]
        found += [least, mean if len(columns) > 1 else np.ones(records)]
    return np.stack(found, axis=1)


def _counting(of: str, records: int, held: np.ndarray | None) -> tuple[Counting, np.ndarray]:
    """Return what counts how often each record's code has come, and how many records there are to it."""
    if of == PAST:
        return _so_far, np.arange(1.0, records + 1)
    if of == WHOLE:
        return lambda codes: np.bincount(codes)[codes].astype(float), np.full(records, float(records))
    assert held is not None, "what is seen is all but what is held back"
    return lambda codes: (np.bincount(codes[~held], minlength=int(codes.max()) + 1)[codes] + held).astype(float), (~held).sum() + held * 1.0


def _so_far(codes: np.ndarray) -> np.ndarray:
    """Return how often the code of each place has come up to it."""
    order = np.argsort(codes, kind="stable")
    begins = np.flatnonzero(np.diff(codes[order], prepend=-1))
    found = np.empty(len(codes))
    found[order] = np.arange(1.0, len(codes) + 1) - np.repeat(begins, np.diff(begins, append=len(codes)))
    return found


def _codes(values: Sequence[str]) -> np.ndarray:
    """Return a number for each value, the same for the same value."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def _joint(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the codes of two columns together."""
    joint: np.ndarray = np.unique(one * (int(other.max()) + 1) + other, return_inverse=True)[1]
    return joint


def baselines(table: Table, asked: np.ndarray, held: np.ndarray, judged: np.ndarray | None = None) -> dict[str, Any]:
    """Return the AUROC of each baseline after the verdicts on `asked`; None where none can be had.

    On the records `judged_R`, else on all of `held_R`, those that nobody is asked about.
    """
    found: dict[str, Any] = {}
    judged = held if judged is None else judged
    for name in (PAST, SEEN, WHOLE):
        features_RF = column_features(table, name, held)
        forest = IsolationForest(random_state=0).fit(features_RF)
        found[f"gradient_boosting_{name}"] = auroc_of_wrong(table.is_wrong[judged], boosted(features_RF, table, asked, judged))
        found[f"isolation_forest_{name}"] = auroc_of_wrong(table.is_wrong[judged], -forest.score_samples(features_RF[judged]))
    for name, read in ((SEEN, ~held), (WHOLE, np.ones(len(held), dtype=bool))):
        found[f"characters_{name}"] = auroc_of_wrong(table.is_wrong[judged], _characters(table, np.flatnonzero(read), asked, judged))
    found["flag_everything"] = auroc_of_wrong(table.is_wrong[judged], np.zeros(int(judged.sum())))
    return found


def boosted(features_RF: np.ndarray, table: Table, asked: np.ndarray, judged: np.ndarray) -> np.ndarray | None:
    """Return how wrong gradient boosting on column features holds each record of `judged`; None after verdicts of one kind."""
    if len(set(table.is_wrong[asked])) < 2:  # noqa: PLR2004
        return None
    leaf = min(20, max(_SMALLEST_LEAF, len(asked) // 10))
    model = HistGradientBoostingClassifier(min_samples_leaf=leaf, random_state=0).fit(features_RF[asked], table.is_wrong[asked])
    scores: np.ndarray = model.predict_proba(features_RF[judged])[:, 1]
    return scores


def _characters(table: Table, read: np.ndarray, asked: np.ndarray, judged: np.ndarray) -> np.ndarray | None:
    """Return how wrong a regression on characters holds each record of `judged`; an even sample of `read` names the characters."""
    if len(set(table.is_wrong[asked])) < 2:  # noqa: PLR2004
        return None
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    grams.fit(_texts(table, evenly(read, MOST_TEXTS)))
    model = LogisticRegression(C=10.0, max_iter=2_000, class_weight="balanced")
    model.fit(grams.transform(_texts(table, asked)), table.is_wrong[asked])
    scores: np.ndarray = model.decision_function(grams.transform(_texts(table, np.flatnonzero(judged))))
    return scores


def _texts(table: Table, places: np.ndarray) -> list[str]:
    return ["\n".join(table.cells[place]) for place in places]


def auroc_of_wrong(is_wrong: np.ndarray, says_wrong: np.ndarray | None) -> float | None:
    """Return the AUROC of what speaks against records; None where nothing is said, or where all are of one kind."""
    if says_wrong is None or is_wrong.all() or not is_wrong.any():
        return None
    return round(float(roc_auc_score(is_wrong, says_wrong)), 4)


def _pattern(value: str) -> str:
    return "".join("9" if c.isdecimal() else "a" if c.isalpha() else c for c in value)
