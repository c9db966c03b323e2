"""Central differential privacy: what is drawn, and what the accountant is told of it."""

from pathlib import Path

import numpy as np
import pytest

from jobs.federated import accountant, strategies
from jobs.federated.client import record_of
from jobs.federated.config import FederatedConfig, Spent
from jobs.federated.model import Weights
from jobs.federated.state import State
from tests.jobs.federated.test_screening import SENT, UPDATE, make_config, reply

pytestmark = pytest.mark.usefixtures("as_node")
HARDLY = 1e-9
"""A noise multiplier that leaves all else alone."""


def drawn(config: FederatedConfig, seed: int) -> Weights:
    """The model after one round of five tenants."""
    replies = [reply(node) for node in range(1, 6)]
    random = np.random.default_rng(seed)
    return strategies.aggregate(strategies.make(config), config, 1, SENT, replies, random)


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi", "fedadagrad"])
def test_a_strategy_sees_nothing_but_the_noisy_mean(strategy: str) -> None:
    """Noise after it would be too small: it divides the mean by its own size."""
    mean = record_of(drawn(make_config("fedavg", noise=2.0), seed=3))
    plain = make_config(strategy)
    of_mean = strategies.aggregate(strategies.make(plain), plain, 1, SENT, [reply(1, arrays=mean)])
    found = drawn(make_config(strategy, noise=2.0), seed=3)
    assert all(found[name] == pytest.approx(of_mean[name]) for name in SENT)


def test_no_noise_is_drawn_twice() -> None:
    """Two servers that were forked from one process have the same state of numpy's own numbers."""
    config, found = make_config("fedavg", noise=2.0), []
    for _ in range(2):
        np.random.seed(1)
        replies = [reply(node) for node in range(1, 6)]
        found.append(strategies.aggregate(strategies.make(config), config, 1, SENT, replies))
    assert not np.allclose(found[0]["w0"], found[1]["w0"])


def test_a_tenant_that_does_not_move_is_borne() -> None:
    config = make_config("fedavg", noise=HARDLY, clipping_norm=10)
    replies = [reply(1, arrays=record_of(SENT)), reply(2)]
    found = strategies.aggregate(strategies.make(config), config, 1, SENT, replies)
    assert all(found[n] == pytest.approx((SENT[n] + UPDATE[n]) / 2, abs=1e-6) for n in SENT)


def test_the_clipping_norm_follows_the_median(tmp_path: Path) -> None:
    """From below and from above; the checkpoint remembers it."""
    norm = np.sqrt(sum(((UPDATE[n] - SENT[n]) ** 2).sum() for n in SENT))
    for begun in (norm / 3, norm * 3):
        config = make_config("fedavg", HARDLY, clipping_norm=begun, adaptive_clipping=True)
        chosen, norms = strategies.make(config), [begun]
        for number in range(1, 31):
            replies = [reply(node) for node in range(1, 6)]
            strategies.aggregate(chosen, config, number, SENT, replies)
            norms.append(strategies.clipping_norm(chosen, config))
        assert abs(np.log(norms[1] / norm)) < abs(np.log(begun / norm))
        assert norms[-1] == pytest.approx(norm, rel=0.15)
        state = State(SENT)
        state.remember(chosen)
        state.write(tmp_path)
        again = strategies.make(config)
        State.read(tmp_path).remind(again)
        assert strategies.clipping_norm(again, config) == norms[-1]


def test_both_noises_of_adaptive_clipping_cost_what_the_accountant_is_told() -> None:
    """The count's sensitivity is 1/2. An update was clipped to the norm that the noise has."""
    parts = [strategies.MORE_NOISE * 3, 2 * strategies.COUNT_NOISE * 3]
    both = [Spent(noise_multiplier=each, rounds=1) for each in parts]
    one = accountant.epsilon([Spent(noise_multiplier=3, rounds=1)], 1e-5)
    assert accountant.epsilon(both, 1e-5) == pytest.approx(one, rel=1e-3)
    config, found = make_config("fedavg", noise=2.0, adaptive_clipping=True), []
    replies = [reply(node) for node in range(1, 6)]
    for seed in range(300):
        chosen, random = strategies.make(config), np.random.default_rng(seed)
        mean = strategies.private_mean(chosen, config, SENT, replies, random)
        found.append(np.concatenate([mean[name].ravel() for name in SENT]))
    assert np.std(found, axis=0).mean() == pytest.approx(1.05 * 2.0 * 0.05 / 5, rel=0.05)


def test_the_noise_of_the_clipping_norm_has_the_deviation_that_is_accounted() -> None:
    """All are clipped, so that half of the draws lie below 0, which is no share."""
    config, shares = (
        make_config("fedavg", noise=0.5, adaptive_clipping=True, clipping_norm=0.01),
        [],
    )
    replies = [reply(node) for node in range(1, 6)]
    for seed in range(400):
        chosen, random = strategies.make(config), np.random.default_rng(seed)
        strategies.private_mean(chosen, config, SENT, replies, random)
        step = np.log(strategies.clipping_norm(chosen, config) / 0.01)
        shares.append(0.5 - step / strategies.CLIPPING_RATE)
    inner = np.array([share for share in shares if 1e-9 < share < 1])
    assert 0.4 < len(inner) / len(shares) < 0.6
    assert np.mean(inner**2) == pytest.approx((0.5 * 1.639 / 5) ** 2, rel=0.3)
