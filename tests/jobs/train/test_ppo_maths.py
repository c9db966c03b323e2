"""The formulas of jobs.ppo.ppo against slow transcriptions of the papers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jobs.ppo.config import Hyperparameters
from jobs.ppo.ppo import explained_variance, gae, kl_k3, policy_loss, token_rewards, value_loss

numbers = st.integers(-300, 300).map(lambda n: n / 100)  # no denormals
episodes = st.lists(
    st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=4
)
share = st.floats(0, 1)


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([list(row) + [7.0] * (width - len(row)) for row in rows])


@given(episodes, share, share)
def test_gae_is_the_discounted_sum_of_residuals(rows, gamma, lam):
    rewards, values = ([[step[k] for step in row] for row in rows] for k in (0, 1))
    mask = (padded([[1.0] * len(row) for row in rows]) == 1).float()
    advantages, returns = gae(padded(rewards) * mask, padded(values), mask, gamma, lam)
    for b, row in enumerate(rows):
        after = values[b] + [0.0]
        delta = [rewards[b][t] + gamma * after[t + 1] - after[t] for t in range(len(row))]
        for t in range(len(row)):
            expected = sum((gamma * lam) ** k * delta[t + k] for k in range(len(row) - t))
            assert advantages[b, t].item() == pytest.approx(expected, abs=1e-4)
            assert returns[b, t].item() == pytest.approx(expected + values[b][t], abs=1e-4)
        assert (advantages[b, len(row) :] == 0).all()
        assert (returns[b, len(row) :] == 0).all()


def test_a_value_head_that_knows_nothing_blames_no_token_for_its_place():
    """By default the better of two answers is better from its first token to its last."""
    defaults = Hyperparameters()
    rewards, mask = torch.zeros(2, 48), torch.ones(2, 48)
    rewards[:, -1] = torch.tensor([0.9, 0.7])
    advantages, _ = gae(rewards, torch.zeros(2, 48), mask, defaults.gamma, defaults.lam)
    better, worse = advantages - advantages.mean()
    assert worse.max() < 0 < better.min()


@given(numbers, numbers, numbers, st.floats(0.05, 0.5), st.floats(0.05, 3))
def test_the_clipped_objective(new, old, advantage, low, high):
    """PPO eq. 7; and where the clip binds, the gradient is zero."""
    logprob = torch.tensor([new], requires_grad=True)
    loss, ratio, clipped = policy_loss(
        logprob, torch.tensor([old]), torch.tensor([advantage]), low, high
    )
    rho = math.exp(new - old)
    bounded = min(max(rho, 1 - low), 1 + high)
    assert ratio.item() == pytest.approx(rho, rel=1e-4)
    expected = -min(rho * advantage, bounded * advantage)
    assert loss.item() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    loss.sum().backward()
    assert (clipped.item() == 1) == (logprob.grad.item() == 0 and advantage * rho != 0)


@given(numbers, numbers, numbers, st.floats(0.05, 1))
def test_the_clipped_value_loss(value, before, target, clip):
    bounded = min(max(value, before - clip), before + clip)
    expected = 0.5 * max((value - target) ** 2, (bounded - target) ** 2)
    found = value_loss(torch.tensor([value]), torch.tensor([before]), torch.tensor([target]), clip)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_penalty_is_per_token_and_the_reward_at_the_end():
    mask = torch.tensor([[1.0, 1, 1], [1, 0, 0]])
    policy = torch.tensor([[-1.0, -2, -3], [-1, 9, 9]])
    reference = torch.tensor([[-1.5, -2, -1], [-3, -9, -9]])
    found = token_rewards(torch.tensor([1.0, 2.0]), policy, reference, mask, 0.1)
    assert found == pytest.approx(torch.tensor([[-0.05, 0.0, 1.2], [1.8, 0.0, 0.0]]))


def test_k3_estimates_the_divergence_without_bias():
    torch.manual_seed(0)
    ours, other = torch.randn(2, 20).log_softmax(-1)
    exact = (ours.exp() * (ours - other)).sum()
    sampled = torch.multinomial(ours.exp(), 200_000, replacement=True)
    estimates = kl_k3(ours[sampled], other[sampled])
    assert (estimates >= 0).all()
    assert estimates.mean().item() == pytest.approx(exact.item(), rel=0.02)


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 4.0])
    assert explained_variance(returns, returns) == 1
    assert explained_variance(torch.zeros(3), returns) == 0
    assert explained_variance(-returns, returns) < 0
    assert explained_variance(returns, torch.ones(3)) == 0
