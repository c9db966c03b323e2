"""What a night collects, and what it pays for."""

from types import SimpleNamespace
from typing import Any

import pytest

from infra.contract import Artifact
from jobs.ppo.config import Hyperparameters
from tasks.policy.inputs import Inputs
from tasks.ppo import steps
from tasks.ppo.parameters import NightlyPPOParameters


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_what_samples_afresh_only_collects_nothing(algorithm: Any) -> None:
    parameters = NightlyPPOParameters(
        max_cost=1, ppo=Hyperparameters.model_validate({"algorithm": algorithm})
    )
    assert not steps.COLLECT.planned(parameters)
    assert steps.COLLECT.planned(NightlyPPOParameters(max_cost=1))
    prompts = Artifact(uri="file:///prompts", sha256="1", bytes=1)
    work: Any = SimpleNamespace(parameters=parameters)
    champion: Any = None
    assert steps.collect_trajectories.fn(work, Inputs(prompts=prompts), champion) == prompts


def test_rewards_are_told_apart_by_function_and_file() -> None:
    def by(reward: str, sha256: str) -> str:
        given = Inputs(reward=Artifact(uri="file:///f", sha256=sha256, bytes=1))
        return steps._rewarded_by(NightlyPPOParameters(max_cost=1, reward=reward), given)

    first = by("rewards.py:f", "1")
    assert first == by("rewards.py:f", "1")
    assert len({first, by("rewards.py:f", "2"), by("rewards.py:g", "1")}) == 3
