"""What the benchmarks of PPO, GRPO and RLOO make of their measurements."""

import pytest
import torch

from benchmarks.advantages import advantages, answers_needed, between_answers
from benchmarks.algorithms import share, until
from jobs.policy.data import Trajectory

GRPO = [(0.0, 0.5), (10.0, 0.6), (20.0, 0.8), (30.0, 0.7)]


def test_the_share_is_of_grpos_time_to_its_best():
    assert until(GRPO, 0.6) == 10
    assert until(GRPO, 0.9) is None
    assert share([(0.0, 0.5), (15.0, 0.85)], GRPO) == "0.75"
    assert share([(0.0, 0.5), (15.0, 0.79)], GRPO) == "not reached"
    assert share(GRPO, GRPO) == "1.00"


def test_the_answers_that_a_gradient_needs():
    """Of parts of 4 answers with signal 1 and noise 3 a parameter: 4 × 9 / 1."""
    torch.manual_seed(0)
    of_parts = 1 + 3 * torch.randn(64, 20_000)
    assert answers_needed(of_parts, 4) == pytest.approx(36, rel=0.05)
    assert answers_needed(torch.tensor([[1.0], [-1.0]]), 4) is None


def test_with_lambda_below_1_a_token_is_judged_by_its_place():
    """Where values are 0, λ 0.95 leaves the first of 48 tokens 0.09 of the reward."""
    rewards = torch.tensor([0.9, 0.8, 0.7, 0.8])
    answers = [
        Trajectory.model_construct(completion_token_ids=[1] * 48, reward=float(reward))
        for reward in rewards
    ]
    found = advantages(answers, rewards)
    best, worst = found["PPO, λ 0.95"][0], found["PPO, λ 0.95"][2]
    assert best[0] < 0 < worst[-1]
    assert between_answers(found["PPO, λ 0.95"]) < 0.02
    for name in ("PPO, λ 1", "PPO, λ 1, compared by prompt", "GRPO"):
        best, worst = found[name][0], found[name][2]
        assert worst.max() < 0 < best.min()
        assert between_answers(found[name]) == pytest.approx(1, abs=1e-4)
