"""Log-probabilities of completions by teacher forcing, and what makes forward passes cheap."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import DynamicCache

from jobs.policy.data import Trajectory
from jobs.policy.model import Policy, output_head


@contextmanager
def merged(policy: Policy) -> Iterator[None]:
    """Add the adapter to the weights for fast rollouts, and put the very same weights back.

    PEFT's own unmerging subtracts what was added, which leaves rounding errors in the base.
    """
    if not isinstance(policy.model, PeftModel):
        yield
        return
    tuner: Any = policy.model.base_model  # PEFT forwards to it
    layers: list[Any] = [m for m in policy.model.modules() if isinstance(m, BaseTunerLayer)]
    weights: list[Tensor] = [layer.get_base_layer().weight for layer in layers]
    before = [weight.data.clone() for weight in weights]
    tuner.merge_adapter()
    try:
        yield
    finally:
        tuner.unmerge_adapter()
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

    A prompt of several completions is read once: its keys and values are repeated for them, and
    its gradient is the sum of theirs. Prompts are padded on the left, completions on the right.
    """
    numbers: dict[tuple[int, ...], int] = {}
    rows = [numbers.setdefault(tuple(t.prompt_token_ids), len(numbers)) for t in trajectories]
    lengths = [len(t.completion_token_ids) for t in trajectories]
    prompts, mask = left_padded(list(numbers), policy)
    cache = DynamicCache(config=policy.model.config)
    last = torch.zeros_like(mask, dtype=torch.bool)
    last[:, -1] = True
    logits, features = _forward(policy, prompts, mask, last, cache)
    which = torch.tensor(rows, device=policy.device)
    logits, features = [logits[which]], [features[which]]
    if max(lengths) > 1:
        cache.batch_select_indices(which)
        texts = [t.completion_token_ids[:-1] for t in trajectories]
        width = max(map(len, texts))
        ids = torch.tensor([t + [0] * (width - len(t)) for t in texts], device=policy.device)
        left = torch.tensor(list(map(len, texts)), device=policy.device)
        real = torch.arange(width, device=policy.device) < left[:, None]
        whole = torch.cat([mask[which], real.long()], -1)
        more = _forward(policy, ids, whole, real, cache)
        logits, features = [*logits, more[0]], [*features, more[1]]
    order = _interleaved(lengths).to(policy.device)
    log_all = torch.log_softmax(torch.cat(logits)[order].float() / temperature, -1)
    tokens = torch.tensor(
        [token for t in trajectories for token in t.completion_token_ids], device=policy.device
    )
    logprobs = log_all.gather(-1, tokens[:, None]).squeeze(-1)
    return Scored(logprobs, log_all, policy.value_head(torch.cat(features)[order]))


def left_padded(prompts: Sequence[Sequence[int]], policy: Policy) -> tuple[Tensor, Tensor]:
    """(token ids, attention mask), both [prompts, longest]."""
    width = max(map(len, prompts))
    ids = [[policy.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    real = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=policy.device), torch.tensor(real, device=policy.device)


def _forward(
    policy: Policy, ids: Tensor, mask: Tensor, chosen: Tensor, cache: DynamicCache
) -> tuple[Tensor, Tensor]:
    """Logits [N, vocabulary] and features [N, hidden] of the chosen positions."""
    position = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    with head_features(policy.model, chosen) as features:
        logits = policy.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).logits
    return logits, features[-1]


def _interleaved(lengths: Sequence[int]) -> Tensor:
    """Where each token of each completion stands if all first tokens come before all others."""
    order, following = [], len(lengths)
    for row, length in enumerate(lengths):
        order += [row, *range(following, following + length - 1)]
        following += length - 1
    return torch.tensor(order)


def chunks(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Indices of rows, of similar length together, so that each padded chunk has ≤ `tokens`."""
    order = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    found: list[list[int]] = []
    for index in order:
        if not found or (len(found[-1]) + 1) * lengths[index] > tokens:
            found.append([])
        found[-1].append(index)
    return found
