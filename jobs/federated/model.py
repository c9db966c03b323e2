"""The model: logistic regression, or a network with one hidden layer of tanh.

Weights are arrays by name: w0 (inputs × units), b0 (units), and with a hidden layer w1, b1.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit, logit, xlogy
from scipy.stats import rankdata

Matrix = np.ndarray
Weights = dict[str, Matrix]
NEWTON_STEPS = 30


def initial(inputs: int, hidden: int, seed: int) -> Weights:
    """Zeros for logistic regression; Glorot's small numbers for a hidden layer."""
    if not hidden:
        return {"w0": np.zeros((inputs, 1)), "b0": np.zeros(1)}
    rng = np.random.default_rng(seed)
    return {
        "w0": rng.normal(0, np.sqrt(2 / (inputs + hidden)), (inputs, hidden)),
        "b0": np.zeros(hidden),
        "w1": rng.normal(0, np.sqrt(2 / (hidden + 1)), (hidden, 1)),
        "b1": np.zeros(1),
    }


def probabilities(weights: Weights, x: Matrix) -> Matrix:
    """Of label 1, for each row."""
    units = np.tanh(x @ weights["w0"] + weights["b0"]) if "w1" in weights else x
    last = "1" if "w1" in weights else "0"
    return expit(units @ weights[f"w{last}"] + weights[f"b{last}"])[:, 0]


def slopes(weights: Weights, x: Matrix, y: Matrix) -> list[tuple[str, Matrix, Matrix]]:
    """(number, its inputs, slope of each row's log loss by its outputs) of each layer, rows ×
    units: a row's gradient is the outer product of the two."""
    last = "1" if "w1" in weights else "0"
    units = np.tanh(x @ weights["w0"] + weights["b0"]) if "w1" in weights else x
    error = (probabilities(weights, x) - y)[:, None]
    found = [(last, units, error)]
    if "w1" in weights:
        found.append(("0", x, (error @ weights["w1"].T) * (1 - units**2)))
    return found


def gradient(weights: Weights, x: Matrix, y: Matrix, decay: float) -> Weights:
    """Of the mean log loss with an L2 penalty of `decay` / 2 on the weights without biases."""
    found = {}
    for layer, inputs, slope in slopes(weights, x, y):
        found[f"w{layer}"] = inputs.T @ slope / len(y) + decay * weights[f"w{layer}"]
        found[f"b{layer}"] = slope.mean(0)
    return found


def fit(
    weights: Weights,
    x: Matrix,
    y: Matrix,
    steps: int,
    rate: float,
    decay: float,
    proximal: float = 0.0,
) -> Weights:
    """After so many steps of gradient descent on all rows."""
    return descend(weights, lambda found: gradient(found, x, y, decay), steps, rate, proximal)


def descend(
    weights: Weights,
    gradient: Callable[[Weights], Weights],
    steps: int,
    rate: float,
    proximal: float = 0.0,
) -> Weights:
    """After so many steps down `gradient`, a function of the weights.

    `proximal` pulls to the weights that it began with (FedProx, Li 2020).
    """
    found = dict(weights)
    for _ in range(steps):
        slope = gradient(found)
        found = {
            name: value - rate * (slope[name] + proximal * (value - weights[name]))
            for name, value in found.items()
        }
    return found


def with_own_bias(weights: Weights, x: Matrix, y: Matrix) -> Weights:
    """The same weights with the output's intercept fitted to these rows: how frequent label 1 is
    differs most between tenants. Newton's method on the log loss, with a standard normal prior."""
    last = "b1" if "w1" in weights else "b0"
    rest = logit(probabilities(weights | {last: np.zeros(1)}, x).clip(1e-9, 1 - 1e-9))
    bias = 0.0
    for _ in range(NEWTON_STEPS):
        p = expit(rest + bias)
        bias -= (float(np.sum(p - y)) + bias) / (float(np.sum(p * (1 - p))) + 1)
    return weights | {last: np.array([bias])}


def judge(weights: Weights, x: Matrix, y: Matrix) -> tuple[Matrix, dict[str, float]]:
    """Which rows are right at 0.5, and the mean log loss; with rows of both classes the AUC and the
    balanced accuracy, too."""
    p = probabilities(weights, x)
    right = (p >= 0.5) == (y == 1)
    loss = -float(np.mean(xlogy(y, p.clip(1e-12)) + xlogy(1 - y, (1 - p).clip(1e-12))))
    positive, negative = (y == 1).sum(), (y == 0).sum()
    if not positive or not negative:
        return right, {"loss": loss}
    above = rankdata(p)[y == 1].sum() - positive * (positive + 1) / 2  # Mann and Whitney 1947
    balanced = float(right[y == 1].mean() + right[y == 0].mean()) / 2
    scores = {"loss": loss, "auc": float(above / (positive * negative)), "balanced": balanced}
    return right, scores
