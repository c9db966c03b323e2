"""How much of a policy gradient is signal, by what an answer is compared with.

    python -m benchmarks.advantages --prompts 64

Run it in the job environment `train`. The pretrained stories260K answers each prompt four times, as
in a night's first iteration, and every kind of advantage gets its gradient from the same answers:
PPO's (GAE, standardised over all tokens, with the value head that a night begins with, which says 0
everywhere) with λ 0.95 and 1, with the mean reward of the prompt taken away before, and GRPO's.
Gradients of disjoint parts of the answers share the signal and not the noise, so the mean of their
products is the square of the signal. Printed: how many answers a gradient needs until its signal is
as large as its noise, and the share of the advantages' variance that lies between answers; the rest
tells only where in an answer a token stands.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.redteam_rewards import HONEST
from benchmarks.stories import first_sentences
from jobs.policy.data import Prompt, Trajectory
from jobs.policy.model import Policy
from jobs.policy.rollout import roll_out
from jobs.policy.scoring import score
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import load_policy
from jobs.ppo.ppo import gae
from tests.jobs.train.stories import write_stories

SAMPLES = 4
TOKENS = 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--parts", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = write_stories(Path(place) / "model")
        torch.manual_seed(options.seed)
        policy = load_policy(PPOConfig(reward=""), base)
    prompts = [Prompt(content=text) for text in first_sentences()[: options.prompts]]
    answers, _ = roll_out(
        policy,
        prompts,
        unrewarded,
        model_version="",
        samples=SAMPLES,
        max_new_tokens=TOKENS,
        temperature=1.0,
        seed=options.seed,
        batch=256,
    )
    kinds: dict[str, list[Tensor]] = {}
    for task in ("distinct", "dialogue"):
        rewards = torch.tensor([float(HONEST[task](a.prompt, a.completion)) for a in answers])
        for name, found in advantages(answers, rewards).items():
            kinds[f"{task}, {name}"] = found
    gradients = all_gradients(policy, answers, kinds, options.parts)
    a_part = len(answers) / options.parts
    for name, of_parts in gradients.items():
        share = between_answers(kinds[name])
        needed = answers_needed(of_parts, a_part)
        told = "more than can be told" if needed is None else f"{needed:.0f}"
        print(f"{name:44} answers needed: {told:>22}  between answers: {share:.1%}")


def unrewarded(prompts: Sequence[Prompt], *_: object, **__: object) -> list[float]:
    return [0.0] * len(prompts)


def advantages(answers: list[Trajectory], rewards: Tensor) -> dict[str, list[Tensor]]:
    """Per token of each answer, by name."""
    lengths = [len(answer.completion_token_ids) for answer in answers]
    mask = pad_sequence([torch.ones(length) for length in lengths], batch_first=True)
    groups = rewards.view(-1, SAMPLES)
    centred = (groups - groups.mean(1, keepdim=True)).view(-1)
    scaled = centred / (groups.std(1).repeat_interleave(SAMPLES) + 1e-4)

    def ours(reward: Tensor, lam: float) -> list[Tensor]:
        at_end = torch.zeros_like(mask)
        at_end[torch.arange(len(lengths)), torch.tensor(lengths) - 1] = reward
        found, _ = gae(at_end, torch.zeros_like(mask), mask, 1.0, lam)
        chosen = found[mask.bool()]
        found = (found - chosen.mean()) / (chosen.std(correction=0) + 1e-8)
        return [row[:length] for row, length in zip(found, lengths, strict=True)]

    return {
        "PPO, λ 0.95": ours(rewards, 0.95),
        "PPO, λ 1": ours(rewards, 1.0),
        "PPO, λ 0.95, compared by prompt": ours(centred, 0.95),
        "PPO, λ 1, compared by prompt": ours(centred, 1.0),
        "GRPO": [one.expand(length) for one, length in zip(scaled, lengths, strict=True)],
    }


def all_gradients(
    policy: Policy, answers: list[Trajectory], kinds: dict[str, list[Tensor]], parts: int
) -> dict[str, Tensor]:
    """[parts, parameters] by name: −A log π averaged over the tokens of each part."""
    trained = [p for p in policy.model.parameters() if p.requires_grad]
    found: dict[str, list[Tensor]] = {name: [] for name in kinds}
    size = len(answers) // parts
    for first in range(0, size * parts, size):
        chosen = range(first, first + size)
        logprobs = score(policy, [answers[i] for i in chosen], 1.0).logprobs
        for name, kind in kinds.items():
            loss = -(torch.cat([kind[i] for i in chosen]) * logprobs).mean()
            each = torch.autograd.grad(loss, trained, retain_graph=True)
            found[name].append(torch.cat([g.flatten() for g in each]))
    return {name: torch.stack(rows) for name, rows in found.items()}


def answers_needed(of_parts: Tensor, answers: float) -> float | None:
    """Answers until |E g|² is the variance of g, from the gradients of parts of so many answers.

    None where the products of different parts are not above 0 on average.
    """
    products = of_parts @ of_parts.T
    parts = len(products)
    square = products.diagonal().mean()
    signal = (products.sum() - products.diagonal().sum()) / (parts * (parts - 1))
    return float((square - signal) / signal) * answers if signal > 0 else None


def between_answers(kind: list[Tensor]) -> float:
    """Variance of the answers' means over that of all tokens."""
    whole = torch.cat(kind)
    means = torch.cat([row.mean().expand(len(row)) for row in kind])
    return float(means.var() / whole.var())


if __name__ == "__main__":
    main()
