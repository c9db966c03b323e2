"""Log-probabilities of completions by teacher forcing, and what makes forward passes cheap."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from jobs.ppo.data import Trajectory
from jobs.ppo.policy import Policy, output_head


@contextmanager
def merged(policy: Policy) -> Iterator[None]:
    """Add the adapter to the weights for fast rollouts, and put the very same weights back.

    PEFT's own unmerging subtracts what was added, which leaves rounding errors in the base.
    """
    if not isinstance(policy.model, PeftModel):
        yield
        return
    layers = [m for m in policy.model.modules() if isinstance(m, BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    before = [weight.data.clone() for weight in weights]
    policy.model.merge_adapter()
    try:
        yield
    finally:
        policy.model.unmerge_adapter()
        for weight, data in zip(weights, before, strict=True):
            weight.data.copy_(data)


@contextmanager
def head_features(model: Any, chosen: Tensor | None = None) -> Iterator[list[Tensor]]:
    """Collect what the output head reads; with `chosen` [B, L] let it see these positions only.

    A head over a large vocabulary is most of the work and memory of a forward pass, and only the
    completion's positions are needed: the features become [N, hidden], the logits [N, vocabulary].
    """
    seen: list[Tensor] = []

    def select(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features = inputs[0] if chosen is None else inputs[0][chosen]
        seen.append(features)
        return (features, *inputs[1:])

    hook = output_head(model).register_forward_pre_hook(select)
    try:
        yield seen
    finally:
        hook.remove()


@dataclass
class Scored:
    """Per completion token, the trajectories one after another.

    `logprobs` and `values` are [N], `log_all` [N, vocabulary] the whole distribution.
    """

    logprobs: Tensor
    log_all: Tensor
    values: Tensor

    def entropy(self) -> Tensor:
        """[N], nats."""
        log_all = self.log_all.detach()
        return -(log_all.exp() * log_all).sum(-1)


def score(policy: Policy, trajectories: Sequence[Trajectory], temperature: float) -> Scored:
    """Log-probabilities of the completions under the policy at `temperature`, by teacher forcing.

    Rows are padded on the right: under a causal mask no token sees the padding, so no attention
    mask is needed and the fast attention kernels apply.
    """
    rows = [t.prompt_token_ids + t.completion_token_ids[:-1] for t in trajectories]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=policy.device)
    starts = torch.tensor([len(t.prompt_token_ids) - 1 for t in trajectories], device=policy.device)
    ends = torch.tensor([len(row) for row in rows], device=policy.device)
    position = torch.arange(length, device=policy.device)
    chosen = (position >= starts[:, None]) & (position < ends[:, None])
    with head_features(policy.model, chosen) as features:
        logits = policy.model(input_ids=ids, use_cache=False).logits
    log_all = torch.log_softmax(logits.float() / temperature, -1)
    tokens = torch.tensor(
        [token for t in trajectories for token in t.completion_token_ids], device=policy.device
    )
    logprobs = log_all.gather(-1, tokens[:, None]).squeeze(-1)
    return Scored(logprobs, log_all, policy.value_head(features[-1]))


def chunks(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices of rows, of similar length together, so that each padded chunk has ≤ `tokens`."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    found: list[list[int]] = []
    for index in order:
        if not found or (len(found[-1]) + 1) * lengths[index] > tokens:
            found.append([])
        found[-1].append(index)
    return found
