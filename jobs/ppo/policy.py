"""The policy that a night trains: an adapter and a value head on the base."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jobs.policy.data import Prompt
from jobs.policy.model import (
    LEARNING_RATE_TIMES_WIDTH,
    Policy,
    ValueHead,
    add_adapter,
    load_base,
    load_candidate,
    new_adapter,
)
from jobs.policy.reward import Reward
from jobs.policy.rollout import roll_out
from jobs.ppo.config import PPOConfig

VALUE_LEARNING_RATE_TIMES_WIDTH = 0.384


def load_policy(config: PPOConfig, base: Path | None, champion: Path | None = None) -> Policy:
    """The base with the champion's adapter and value head, or with new ones.

    Set torch's seed before: a new adapter is drawn from it. Raises InputError.
    """
    policy = load_base(config, base)
    if champion:
        load_candidate(policy, champion, trainable=True)
    else:
        add_adapter(policy, new_adapter(config, policy))
    if not isinstance(policy.value_head, ValueHead):
        policy.value_head = ValueHead(policy.width).to(policy.device)
    return policy


def learning_rates(config: PPOConfig, policy: Policy) -> tuple[float, float]:
    """Of the adapter and the value head: wider models need smaller steps (arXiv:2203.03466)."""
    return (
        config.learning_rate or LEARNING_RATE_TIMES_WIDTH / policy.width,
        config.value_learning_rate or VALUE_LEARNING_RATE_TIMES_WIDTH / policy.width,
    )


def greedy_reward(
    policy: Policy,
    prompts: Sequence[Prompt],
    reward: Reward,
    config: PPOConfig,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Mean reward of greedy answers to the prompts."""
    answered, _ = roll_out(
        policy,
        prompts,
        reward,
        model_version="",
        max_new_tokens=config.max_new_tokens,
        temperature=0,
        seed=0,
        batch=config.rollout_batch,
        check=check,
    )
    return sum(t.reward for t in answered) / len(answered)
