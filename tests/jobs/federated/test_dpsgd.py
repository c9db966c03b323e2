"""Gradient descent that protects single records, against torch and against that without noise."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from jobs.federated import dpsgd, model
from jobs.federated.config import FederatedConfig, Privacy
from jobs.federated.data import Table
from jobs.federated.tables import TableLearner

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 4))
Y = (X @ [1.0, -2.0, 0.5, 0.0] + RNG.normal(size=60) > 0).astype(float)
HARDLY = 1e-12
"""A noise multiplier that leaves all else alone."""
FAR = 1e9
"""A norm that clips nothing."""


def private(noise: float = HARDLY, norm: float = FAR, rate: float = 1.0) -> Privacy:
    return Privacy(
        privacy_unit="record", noise_multiplier=noise, clipping_norm=norm, sampling_rate=rate
    )


def near(weights: model.Weights) -> model.Weights:
    return {name: value + 0.1 for name, value in weights.items()}


def by_torch(weights: model.Weights, norm: float) -> model.Weights:
    """The clipped gradients' sum, each of them by automatic differentiation of one row's loss."""
    layers = [torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)]
    network = torch.nn.Sequential(*layers) if "w1" in weights else torch.nn.Linear(4, 1)
    places = {"w0": "0.weight", "b0": "0.bias", "w1": "2.weight", "b1": "2.bias"}
    names = {n: places[n] if "w1" in weights else places[n][2:] for n in weights}
    parameters = {names[n]: torch.tensor(v.T) for n, v in weights.items()}

    def loss(parameters: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        found = functional_call(network, parameters, (x,))
        return torch.nn.functional.binary_cross_entropy_with_logits(found[0], y)

    rows = vmap(grad(loss), (None, 0, 0))(parameters, torch.tensor(X), torch.tensor(Y))
    norms = sum(g.flatten(1).square().sum(1) for g in rows.values()).sqrt()
    scale = (norm / norms).clamp(max=1)
    return {n: torch.einsum("r,r...->...", scale, rows[names[n]]).numpy().T for n in weights}


@pytest.mark.parametrize("hidden", [0, 3])
@pytest.mark.parametrize("norm", [FAR, 0.7])
def test_rows_are_clipped_as_torch_does_it(hidden: int, norm: float) -> None:
    weights = near(model.initial(4, hidden, 1))
    found = dpsgd.noisy_gradient(
        weights, X, Y, private(norm=norm, noise=HARDLY / norm), np.random.default_rng(0)
    )
    theirs = by_torch(weights, norm)
    for name in weights:
        assert found[name] * len(Y) == pytest.approx(
            theirs[name], abs=1e-2 if norm == FAR else 1e-9
        )


@pytest.mark.parametrize("hidden", [0, 3])
def test_no_row_moves_the_sum_by_more_than_the_norm(hidden: int) -> None:
    weights = near(model.initial(4, hidden, 1))
    wild = X.copy()
    wild[7] *= 1e6
    for x in (X, wild):
        whole, without = (
            dpsgd.noisy_gradient(weights, each, labels, private(norm=0.5), np.random.default_rng(0))
            for each, labels in ((x, Y), (np.delete(x, 7, 0), np.delete(Y, 7)))
        )
        moved = [whole[n] * 60 - without[n] * 59 for n in weights]
        assert np.sqrt(sum((each**2).sum() for each in moved)) <= 0.5 + 1e-6


def test_without_noise_it_is_gradient_descent() -> None:
    begun = near(model.initial(4, 0, 0))
    told = (begun, X, Y, 20, 0.3, 0.05, 0.2)
    found, usual = dpsgd.fit(*told, private(noise=1e-15)), model.fit(*told)
    assert all(found[name] == pytest.approx(usual[name], abs=1e-4) for name in begun)


def test_the_noise_is_as_large_as_it_says() -> None:
    """Its deviation is multiplier × norm on the sum, over the rows that are expected."""
    weights, random = model.initial(4, 0, 0), np.random.default_rng(1)
    asked = private(noise=50.0, norm=0.5, rate=0.3)
    drawn = [dpsgd.noisy_gradient(weights, X, Y, asked, random)["w0"] for _ in range(500)]
    assert np.std(drawn) == pytest.approx(50 * 0.5 / (0.3 * 60), rel=0.05)


def test_rows_are_drawn_independently() -> None:
    """Their number varies as that of coins, and its mean is right."""
    random, weights = np.random.default_rng(2), model.initial(4, 0, 0)
    ones = np.ones(60)
    sums = [
        dpsgd.noisy_gradient(weights, 0 * X, ones, private(noise=1e-15, rate=0.3), random)["b0"][0]
        for _ in range(500)
    ]
    counts = np.array(sums) * 0.3 * 60 / -0.5
    assert counts.mean() == pytest.approx(18, abs=0.6)
    assert counts.std() == pytest.approx((60 * 0.3 * 0.7) ** 0.5, rel=0.15)


def learner(table: Table, **rounds: Any) -> TableLearner:
    told = {"tenants": "", "names": [], "features": list("abcd"), "label": "y", "seed": 0}
    told |= {"spent": {}, "centralised": False, "rounds": rounds}
    private = {"noise_multiplier": 1.0, "privacy_unit": "record"}
    config = FederatedConfig.model_validate(told | {"privacy": private})
    return TableLearner(config, table, np.random.default_rng(3))


@pytest.mark.parametrize("own_bias", [True, False])
def test_a_tenant_sends_nothing_that_its_own_intercept_has_touched(own_bias: bool) -> None:
    """It is fitted without noise: another class balance of one row would show in the update."""
    begun = model.initial(4, 0, 0)
    rare = Y * (X[:, 3] > 0)
    table = Table(X, rare, X, rare)
    found = learner(table, own_bias=own_bias).improve(begun, 1)
    expected = dpsgd.fit(
        begun, X, rare, 10, 0.5, 0.01, 0.0, private(noise=1.0, norm=1.0), np.random.default_rng(3)
    )
    assert np.array_equal(found["w0"], expected["w0"])
    assert np.array_equal(found["b0"], begun["b0"] if own_bias else expected["b0"])
    again = learner(table, own_bias=own_bias)
    assert not np.array_equal(again.improve(begun, 1)["w0"], again.improve(begun, 1)["w0"])
