"""The best policy of a training, by its score on what is set aside: PPO's by the greedy reward of
prompts, DPO's by the loss of pairs."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from jobs.policy.data import Prompt
from jobs.policy.model import Policy

LARGEST_SHARE = 5
"""At most every fifth prompt is set aside."""


def by_hash(texts: Iterable[str]) -> list[str]:
    """Each text once, in an order of chance that is the same every night."""
    return sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())


def split(prompts: Sequence[Prompt], count: int) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to train on, up to `count` prompts to validate with): no prompt is in both.

    By the hash of their text, so that no night trains on what another one validated with. With
    fewer than LARGEST_SHARE prompts both are all of them.
    """
    texts = by_hash(p.text for p in prompts)
    chosen = set(texts[: min(count, len(texts) // LARGEST_SHARE)])
    if not chosen:
        return list(prompts), list(prompts)[:count]
    apart = [prompt for prompt in prompts if prompt.text in chosen][:count]
    return [prompt for prompt in prompts if prompt.text not in chosen], apart


@dataclass
class Best:
    """The weights with the highest validation reward so far, the latest of equals: where greedy
    answers gain no more, sampled ones may still. Of pairs the reward is the loss below 0.

    They are those of `iteration`; the last one that raised the reward is `raised`.
    """

    patience: int
    reward: float = -math.inf
    iteration: int = 0
    raised: int = 0
    latest: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def see(self, iteration: int, reward: float, policy: Policy) -> None:
        """Keep the policy's weights where its reward after `iteration` is the highest yet."""
        self.latest = iteration
        if reward > self.reward:
            self.raised = iteration
        if reward >= self.reward:
            self.reward, self.iteration = reward, iteration
            self.weights = {name: t.detach().clone() for name, t in _trained(policy).items()}

    @property
    def exhausted(self) -> bool:
        """Whether nothing has improved for `patience` iterations."""
        return self.latest - self.raised >= self.patience

    def put_back(self, policy: Policy) -> None:
        """Give the policy its best weights, where there are any."""
        for name, tensor in _trained(policy).items():
            if name in self.weights:
                tensor.data.copy_(self.weights[name])

    @property
    def metrics(self) -> dict[str, float]:
        """What the result tells; nothing without training."""
        if not self.weights:
            return {}
        return {"reward_after_rerolls": self.reward, "best_iteration": float(self.iteration)}

    def state(self) -> dict[str, Any]:
        """For a checkpoint: the arguments of a new one."""
        return dict(vars(self))


def _trained(policy: Policy) -> dict[str, Tensor]:
    """The adapter and the value head, by name."""
    adapter: dict[str, Tensor] = {
        name: p for name, p in policy.model.named_parameters() if p.requires_grad
    }
    return adapter | {f"value_head.{n}": p for n, p in policy.value_head.named_parameters()}
