"""Proximal policy optimisation for language models; every formula with its source.

    PPO       Schulman et al. 2017, arXiv:1707.06347
    GAE       Schulman et al. 2016, arXiv:1506.02438
    RLHF      Ziegler et al. 2019, arXiv:1909.08593: a reward at the end, a KL penalty a token
    clip-high Yu et al. 2025 (DAPO), arXiv:2503.14476: an upper clip of its own
    k1, k3    Schulman 2020, http://joschu.net/blog/kl-approx.html

A state is the prompt and the tokens so far, an action is the next token, an episode ends with the
completion. N counts the completion tokens of a minibatch, B completions, T tokens of the longest.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from jobs.policy.data import Trajectory
from jobs.policy.model import Policy
from jobs.policy.rollout import Completion
from jobs.policy.scoring import chunks, score
from jobs.ppo.config import PPOConfig

KL_STOP_FACTOR = 1.5
"""Updates stop beyond this multiple of the target KL, as in OpenAI's Spinning Up."""


@dataclass
class Experience:
    """A trajectory and what the update needs of it, each [T] over its own tokens."""

    trajectory: Trajectory
    behaviour: Tensor
    start: Tensor
    reference: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation, GAE eq. 16: (advantages, returns), all [B, T].

    A_t = Σ_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V(s_{t+1}) − V(s_t), and V = 0 after the last token.
    `mask` is 1 on tokens and 0 on the padding at the right. The returns are A + V.
    """
    advantages = torch.zeros_like(values)
    following_value = values.new_zeros(len(values))
    following_advantage = values.new_zeros(len(values))
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        following_advantage = (delta + gamma * lam * following_advantage) * mask[:, t]
        following_value = values[:, t] * mask[:, t]
        advantages[:, t] = following_advantage
    return advantages, (advantages + values) * mask


def token_rewards(
    reward: Tensor, policy: Tensor, reference: Tensor, mask: Tensor, coefficient: float
) -> Tensor:
    """[B, T]: −β (log π − log π_ref), the k1 estimate of the KL, and the reward [B] at the end."""
    rewards = -coefficient * (policy - reference) * mask
    last = mask.sum(-1).long() - 1
    return rewards.scatter_add(1, last[:, None], reward[:, None])


def policy_loss(
    logprobs: Tensor, behaviour: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PPO eq. 7 per token, to be minimised: (loss, ratio, clipped), all [N].

    −min(ρ A, clip(ρ, 1 − low, 1 + high) A) with ρ = π(a|s) / μ(a|s), where μ is the policy that
    sampled. `clipped` is 1 where the clip takes the gradient away.
    """
    ratio = (logprobs - behaviour).exp()
    free = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    return -torch.minimum(free, bounded), ratio, (bounded < free).float()


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """½ max((V − R)², (V_clipped − R)²) per token [N]: V moves at most `clip` from `before`.

    From OpenAI's baselines (ppo2), which the paper's experiments used.
    """
    bounded = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (bounded - returns) ** 2)


def kl_k3(logprobs: Tensor, other: Tensor) -> Tensor:
    """KL(π ‖ π′) per token that π sampled: r − 1 − log r with r = π′/π, unbiased and never < 0."""
    log_ratio = other - logprobs
    return log_ratio.exp() - 1 - log_ratio


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 − Var(R − V) / Var(R): 1 is a perfect value head, 0 one that knows only the mean."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if variance > 0 else 0.0


@torch.no_grad()
def experience(
    policy: Policy,
    trajectories: Sequence[Trajectory],
    config: PPOConfig,
    fresh: Sequence[Completion] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[Experience]:
    """Trajectories with reference log-probabilities, values, advantages and returns.

    `fresh` are the completions where the policy itself has just sampled them: then its
    log-probabilities and values are known already. Advantages are standardised over all tokens.
    """
    device = policy.device
    behaviour = [torch.tensor(t.logprobs, device=device) for t in trajectories]
    if fresh is not None:
        start, values = behaviour, [torch.tensor(c.values, device=device) for c in fresh]
    else:
        start, values = _score_all(policy, trajectories, config, check)
    with policy.model.disable_adapter():
        reference, _ = _score_all(policy, trajectories, config, check)
    mask = pad_sequence([torch.ones_like(v) for v in values], batch_first=True)
    padded = pad_sequence(values, batch_first=True)
    rewards = token_rewards(
        torch.tensor([t.reward for t in trajectories], device=device),
        pad_sequence(start, batch_first=True),
        pad_sequence(reference, batch_first=True),
        mask,
        config.kl_coefficient,
    )
    advantages, returns = gae(rewards, padded, mask, config.gamma, config.lam)
    chosen = advantages[mask.bool()]
    advantages = (advantages - chosen.mean()) / (chosen.std(correction=0) + 1e-8)
    return [
        Experience(
            trajectory,
            behaviour[row],
            start[row],
            reference[row],
            values[row],
            advantages[row, : len(values[row])],
            returns[row, : len(values[row])],
        )
        for row, trajectory in enumerate(trajectories)
    ]


def update(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    batch: list[Experience],
    config: PPOConfig,
    clip_high: float,
    generator: torch.Generator,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Minibatch steps over the batch, in place, until the epochs or the target KL end them.

    Returns the diagnostics: means a token over the minibatches, except `explained_variance`
    (before the update), `approximate_kl` (of the last minibatch from the policy that began it) and
    `steps`.
    """
    groups = [group["params"] for group in optimiser.param_groups]
    sums: dict[str, float] = {}
    tokens_seen, steps, moved = 0, 0, 0.0
    for chosen in _minibatches(batch, config, generator):
        minibatch = [batch[index] for index in chosen]
        tokens = sum(len(e.values) for e in minibatch)
        totals: dict[str, float] = {}
        optimiser.zero_grad()
        for part in chunks([e.trajectory.length for e in minibatch], policy.tokens_at_once):
            check()
            loss, measured = _loss(policy, [minibatch[i] for i in part], config, clip_high)
            (loss / tokens).backward()
            _add(totals, measured)
        moved = totals.pop("approximate_kl") / tokens
        _add(sums, totals)
        tokens_seen += tokens
        if moved > KL_STOP_FACTOR * config.target_kl:
            break
        for parameters in groups:
            clip_grad_norm_(parameters, config.max_gradient_norm)
        optimiser.step()
        steps += 1
    values, returns = (
        torch.cat([getattr(e, name) for e in batch]) for name in ("values", "returns")
    )
    return {
        **{name: total / tokens_seen for name, total in sums.items()},
        "approximate_kl": moved,
        "explained_variance": explained_variance(values, returns),
        "steps": float(steps),
    }


def _loss(
    policy: Policy, batch: list[Experience], config: PPOConfig, clip_high: float
) -> tuple[Tensor, dict[str, float]]:
    """Summed loss of some completions, and summed diagnostics."""
    behaviour, start, advantages, before, returns = (
        torch.cat([getattr(e, name) for e in batch])
        for name in ("behaviour", "start", "advantages", "values", "returns")
    )
    scored = score(policy, [e.trajectory for e in batch], config.temperature)
    surrogate, ratio, clipped = policy_loss(
        scored.logprobs, behaviour, advantages, config.clip_low, clip_high
    )
    regression = value_loss(scored.values, before, returns, config.value_clip)
    loss = (surrogate + regression).sum()  # they share no parameter
    measured = {
        "policy_loss": surrogate,
        "value_loss": regression,
        "ratio": ratio,
        "clip_fraction": clipped,
        "entropy": scored.entropy(),
        "approximate_kl": kl_k3(start, scored.logprobs),
    }
    return loss, {name: float(each.detach().sum()) for name, each in measured.items()}


def _score_all(
    policy: Policy, trajectories: Sequence[Trajectory], config: PPOConfig, check: Callable[[], None]
) -> tuple[list[Tensor], list[Tensor]]:
    """Log-probabilities and values of each trajectory, in their order."""
    logprobs: dict[int, Tensor] = {}
    values: dict[int, Tensor] = {}
    for part in chunks([t.length for t in trajectories], policy.tokens_at_once):
        check()
        scored = score(policy, [trajectories[i] for i in part], config.temperature)
        lengths = [len(trajectories[i].completion_token_ids) for i in part]
        logprobs.update(zip(part, scored.logprobs.split(lengths), strict=True))
        values.update(zip(part, scored.values.split(lengths), strict=True))
    order = range(len(trajectories))
    return [logprobs[i] for i in order], [values[i] for i in order]


def _minibatches(
    batch: Sequence[Experience], config: PPOConfig, generator: torch.Generator
) -> Iterator[list[int]]:
    """Indices of each minibatch; completions of one prompt stay together, as `score` likes it."""
    prompts: dict[tuple[int, ...], list[int]] = {}
    for index, e in enumerate(batch):
        prompts.setdefault(tuple(e.trajectory.prompt_token_ids), []).append(index)
    groups = list(prompts.values())
    for _ in range(config.epochs):
        order = torch.randperm(len(groups), generator=generator).tolist()
        shuffled = [index for number in order for index in groups[number]]
        for first in range(0, len(shuffled), config.minibatch):
            yield shuffled[first : first + config.minibatch]


def _add(totals: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        totals[name] = totals.get(name, 0.0) + value
