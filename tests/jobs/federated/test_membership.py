"""The attack on membership that a benchmark makes, on losses whose answer is known."""

import numpy as np
import pytest

from benchmarks.federated_lira import attack as lira
from benchmarks.federated_membership import Attacked, area, attack, losses
from jobs.federated.model import initial


def test_the_attack_knows_members_by_their_loss() -> None:
    members, others = np.array([0.1, 0.1, 0.1]), np.array([2.0, 3.0])
    assert attack(members, others) == 1.0 and attack(others, members) == 0.25
    alike = np.linspace(0, 1, 101)
    assert attack(alike, alike) == 0.5
    assert area(Attacked(members, others, (1.0, 1.0))) == 1.0


def test_a_loss_is_the_log_loss_of_one_row() -> None:
    found = losses(initial(2, 0, 0), np.ones((2, 2)), np.array([0.0, 1.0]))
    assert found == pytest.approx(np.log(2))


def test_the_likelihood_ratio_knows_who_is_remembered() -> None:
    """Models are sure of whom they were trained on, or say the same of everybody."""
    rng = np.random.default_rng(0)
    members = rng.random((12, 200)) < 0.66
    hard = rng.normal(0, 1, 200)
    noise = rng.normal(0, 0.3, members.shape)
    sure, alike = hard + 2 * members + noise, hard + noise
    assert all(right > 0.95 and area > 0.95 for right, area in lira(sure, members))
    assert np.mean([right for right, _ in lira(alike, members)]) == pytest.approx(0.5, abs=0.04)
