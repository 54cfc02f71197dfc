"""How loud each of a few voices should be: a logistic regression that stays where it begins as long as few records say otherwise.

Enters: what V voices say of N records, in nats or in spreads, and which of the records are right. Leaves: V weights, a bias, and how
improbable they make what was heard. W is the voices and the bias.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


class Loud(NamedTuple):
    """Weight of each voice, the bias beside their sum, and what both cost in nats, the prior's part with it."""

    weight_V: np.ndarray
    bias: float
    loss: float


def loud(said_NV: np.ndarray, is_right_N: np.ndarray, counts_N: np.ndarray, first_V: np.ndarray, prior: float, least_V: np.ndarray) -> Loud:
    """Return the most probable weights.

    counts_N: how much each record counts. first_V, prior: where the weights begin, and how strongly they are drawn there (1 / variance).
    least_V: below these they do not go.
    """
    features_NW = np.append(said_NV, np.ones((len(said_NV), 1)), axis=1)
    sign_N = np.where(is_right_N, 1.0, -1.0)

    def loss(weights_W: np.ndarray) -> tuple[float, np.ndarray]:
        margin_N = sign_N * (features_NW @ weights_W)
        moved_W = np.append(weights_W[:-1] - first_V, 0.0)
        value = float((counts_N * np.logaddexp(0, -margin_N)).sum() + prior * (moved_W**2).sum() / 2)
        return value, features_NW.T @ (-counts_N * sign_N * expit(-margin_N)) + prior * moved_W

    bounds = [*((float(least), None) for least in least_V), (None, None)]
    found = minimize(loss, np.append(first_V, 0.0), jac=True, method="L-BFGS-B", bounds=bounds)
    return Loud(found.x[:-1], float(found.x[-1]), float(found.fun))
