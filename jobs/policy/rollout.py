"""Sample completions in batches with a key-value cache, with the exact behaviour log-probabilities.

Prompts are padded on the left; a prompt is read once and its cache repeated for its samples; rows
that have ended leave the batch. `generate` of transformers does the same with more overhead a
token, which is most of the time of a small model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, TrainerState

from jobs.policy.data import Prompt, Trajectory
from jobs.policy.model import Policy
from jobs.policy.reward import Reward
from jobs.policy.scoring import head_features, left_padded, merged

LEFT_BEFORE_COMPACTION = 0.75
"""Ended rows are taken out of the cache, which copies it, once at most this share is left."""


@dataclass
class Completion:
    """`logprobs` and `values`: one for each token, of the state before it; `ended` by a stop id."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    ended: bool = False


def generate(
    policy: Policy,
    prompts: Sequence[list[int]],
    *,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch: int,
    check: Callable[[], None] = lambda: None,
) -> list[Completion]:
    """`samples` completions of each prompt (token ids), those of one prompt side by side.

    A temperature of 0 is greedy, with log-probabilities at temperature 1. The same seed and
    arguments give the same completions on a CPU. `check` is called before every token and may
    raise.
    """
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
    found: dict[int, list[Completion]] = {}
    generator = torch.Generator(policy.device).manual_seed(seed)
    at_once = max(1, batch // samples)
    with merged(policy), torch.inference_mode():
        for first in range(0, len(order), at_once):
            part = order[first : first + at_once]
            rows = _Batch(policy, [prompts[i] for i in part], samples, temperature, generator)
            rows.run(max_new_tokens, check)
            for number, index in enumerate(part):
                found[index] = rows.completions[number * samples : (number + 1) * samples]
    return [completion for index in range(len(prompts)) for completion in found[index]]


def roll_out(
    policy: Policy,
    prompts: Sequence[Prompt],
    reward: Reward,
    *,
    model_version: str,
    samples: int = 1,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch: int,
    check: Callable[[], None] = lambda: None,
    trainer_state: TrainerState | None = None,
) -> tuple[list[Trajectory], list[Completion]]:
    """Sampled, decoded and rewarded completions of the prompts."""
    encoded = policy.encode_all(prompts, max_new_tokens)
    completions = generate(
        policy,
        encoded,
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch=batch,
        check=check,
    )
    asked = [prompt for prompt in prompts for _ in range(samples)]
    texts = [policy.decode(completion.token_ids) for completion in completions]
    ids = [completion.token_ids for completion in completions]
    rewards = reward(asked, texts, ids, trainer_state)
    trajectories = [
        Trajectory.model_construct(
            prompt=prompt.text,
            completion=text,
            prompt_token_ids=encoded[number // samples],
            completion_token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            reward=value,
            model_version=model_version,
            columns=prompt.columns,
        )
        for number, (prompt, text, completion, value) in enumerate(
            zip(asked, texts, completions, rewards, strict=True)
        )
    ]
    return trajectories, completions


class _Batch:
    """Rows that are sampled together, one token a step."""

    def __init__(
        self,
        policy: Policy,
        prompts: list[list[int]],
        samples: int,
        temperature: float,
        generator: torch.Generator,
    ) -> None:
        self.policy, self.temperature, self.generator = policy, temperature, generator
        self.samples = samples
        self.ids, self.mask = left_padded(prompts, policy)
        self.completions = [Completion() for _ in range(len(prompts) * samples)]
        self.stop = torch.tensor(policy.stop_ids, device=policy.device)

    def run(self, max_new_tokens: int, check: Callable[[], None]) -> None:
        """Fill the completions."""
        model = self.policy.model
        cache = DynamicCache(config=model.config)
        rows = torch.arange(len(self.completions), device=self.policy.device)
        alive = torch.ones_like(rows, dtype=torch.bool)
        tokens, steps = self.ids, list[tuple[Tensor, ...]]()
        position = (self.mask.cumsum(-1) - 1).clamp(min=0)
        for step in range(max_new_tokens):
            check()
            with head_features(model) as features:
                logits = model(
                    input_ids=tokens,
                    attention_mask=self.mask,
                    position_ids=position,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
            last = features[-1][:, -1]
            if step == 0 and self.samples > 1:
                cache.batch_repeat_interleave(self.samples)
                logits, last, self.mask, position = (
                    tensor.repeat_interleave(self.samples, 0)
                    for tensor in (logits, last, self.mask, position)
                )
            chosen, logprobs = self._sample(logits)
            steps.append((rows, alive, chosen, logprobs, self.policy.value_head(last)))
            alive = alive & ~torch.isin(chosen, self.stop)
            left = int(alive.sum())
            if left == 0:
                break
            if left <= LEFT_BEFORE_COMPACTION * len(rows):
                kept = alive.nonzero().squeeze(-1)
                cache.batch_select_indices(kept)
                rows, chosen, position = rows[kept], chosen[kept], position[kept]
                self.mask, alive = self.mask[kept], alive[kept]
            tokens = chosen[:, None]
            position = position[:, -1:] + 1
            self.mask = torch.cat([self.mask, torch.ones_like(tokens)], -1)
        self._collect(steps)

    def _sample(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Token [B] and its log-probability [B], from the softmax of [B, vocabulary]."""
        log_all = torch.log_softmax(logits.float() / (self.temperature or 1.0), -1)
        if self.temperature == 0:
            chosen = log_all.argmax(-1)
        else:
            # Inverse of the cumulative distribution: one random number a row, not one a token.
            cumulated = log_all.exp().cumsum(-1)
            drawn = torch.rand(len(logits), 1, generator=self.generator, device=logits.device).mul_(
                cumulated[:, -1:]
            )
            chosen = torch.searchsorted(cumulated, drawn, right=True).squeeze(-1)
            chosen.clamp_(max=logits.shape[-1] - 1)
        return chosen, log_all.gather(-1, chosen[:, None]).squeeze(-1)

    def _collect(self, steps: list[tuple[Tensor, ...]]) -> None:
        stop = set(self.policy.stop_ids)
        for step in steps:
            for row, alive, token, logprob, value in zip(
                *(tensor.tolist() for tensor in step), strict=True
            ):
                if alive:
                    completion = self.completions[row]
                    completion.token_ids.append(token)
                    completion.logprobs.append(logprob)
                    completion.values.append(value)
                    completion.ended = token in stop
