"""The model against scikit-learn and finite differences."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from jobs.federated import model

RNG = np.random.default_rng(3)
X = RNG.normal(size=(80, 4))
Y = (X @ [1.0, -2.0, 0.5, 0.0] + RNG.normal(size=80) > 0).astype(float)


def test_logistic_regression_is_that_of_scikit_learn() -> None:
    decay = 0.05
    ours = model.fit(model.initial(4, 0, 0), X, Y, steps=3000, rate=0.5, decay=decay)
    theirs = LogisticRegression(C=1 / (decay * len(Y)), tol=1e-9, max_iter=1000).fit(X, Y)
    assert ours["w0"][:, 0] == pytest.approx(theirs.coef_[0], abs=1e-4)
    assert ours["b0"] == pytest.approx(theirs.intercept_, abs=1e-4)


@pytest.mark.parametrize("hidden", [0, 3])
def test_the_gradient_is_the_slope_of_the_loss(hidden: int) -> None:
    weights = {n: v + 0.1 for n, v in model.initial(4, hidden, 1).items()}
    found = model.gradient(weights, X, Y, 0.02)
    for name, value in weights.items():

        def loss(flat: np.ndarray, name: str = name, shape: tuple = value.shape) -> float:
            changed = weights | {name: flat.reshape(shape)}
            penalty = sum((v**2).sum() for n, v in changed.items() if n[0] == "w")
            return log_loss(Y, model.probabilities(changed, X)) + 0.01 * penalty

        slope = approx_fprime(value.ravel(), loss, 1e-7)
        assert found[name].ravel() == pytest.approx(slope, abs=1e-5)


def test_the_own_intercept_is_the_best_of_its_rows() -> None:
    """Where the slope of the log loss and of the prior is zero."""
    weights = {"w0": np.array([[1.0], [-1.0], [0.0], [0.5]]), "b0": np.array([7.0])}
    found = model.with_own_bias(weights, X, Y)
    bias = found["b0"][0]
    assert np.sum(model.probabilities(found, X) - Y) + bias == pytest.approx(0, abs=1e-9)
    assert np.array_equal(found["w0"], weights["w0"]) and weights["b0"][0] == 7.0


def test_scores_are_those_of_scikit_learn() -> None:
    weights = model.fit(model.initial(4, 0, 0), X, Y, 50, 0.3, 0.0)
    p = model.probabilities(weights, X)
    right, scores = model.judge(weights, X, Y)
    assert right.sum() == ((p >= 0.5) == Y).sum()
    assert scores["auc"] == pytest.approx(roc_auc_score(Y, p))
    assert scores["balanced"] == pytest.approx(balanced_accuracy_score(Y, p >= 0.5))
    assert scores["loss"] == pytest.approx(log_loss(Y, p))


def test_the_proximal_term_holds_back() -> None:
    begun = model.initial(4, 0, 0)
    free, held = (model.fit(begun, X, Y, 50, 0.3, 0.0, mu) for mu in (0.0, 5.0))
    assert np.linalg.norm(held["w0"]) < 0.5 * np.linalg.norm(free["w0"])
