"""TRL's GRPO and RLOO on the same prompts and rewards, with the same artefact as our PPO.

Both take their advantage from the other completions of the same prompt, so they need no value
head and read no stored trajectories (TRL ignores behaviour log-probabilities without vLLM). Their
reference is the policy that the night begins with.
"""

from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from jobs.ppo.config import PPOConfig
from jobs.ppo.data import Prompt, read_prompts
from jobs.ppo.inputs import base_identity, job_reward, optional_input, stop_when_told
from jobs.ppo.policy import NoValues, check_base, learning_rates, load_policy, save_candidate
from jobs.ppo.reward import Reward
from jobs.ppo.rollout import greedy_reward
from jobs.runtime import Job, Outcome
from jobs.trainer import run, trainer_arguments

LOGGED = {"reward": "reward", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length"}
"""TRL's names → ours."""


def train(job: Job[PPOConfig]) -> Outcome:
    """The night's training with `config.algorithm`."""
    config = job.config
    prompts = read_prompts(job.input("prompts"))
    reward = job_reward(job)
    base = base_identity(job)
    champion = optional_input(job, "champion")
    if champion:
        check_base(champion, base)
    torch.manual_seed(config.seed)
    policy = load_policy(config, optional_input(job, "base"), champion)
    policy.value_head = NoValues()
    policy.encode_all(prompts, config.max_new_tokens)

    def check() -> None:
        stop_when_told(job)

    before = greedy_reward(policy, prompts, reward, config, check)
    rate, _ = learning_rates(config, policy)
    kind, options = {
        "grpo": (GRPOTrainer, GRPOConfig),
        "rloo": (RLOOTrainer, RLOOConfig),
    }[config.algorithm]
    trainer = kind(
        model=policy.model,
        reward_funcs=_by_row(prompts, reward),
        args=options(**_arguments(config), **trainer_arguments(job, rate)),
        train_dataset=Dataset.from_list(
            [{"prompt": prompt.content, "row": row} for row, prompt in enumerate(prompts)]
        ),
        processing_class=policy.tokenizer,
    )
    run(job, trainer, config.seed, LOGGED)
    policy.model.eval()
    folder = job.scratch / "candidate"
    folder.mkdir(exist_ok=True)
    save_candidate(policy, folder, base)
    metrics = {
        "reward_before": before,
        "reward_after_rerolls": greedy_reward(policy, prompts, reward, config, check),
        "iterations": float(config.iterations),
        "episodes": float(config.iterations * config.rollouts),
    }
    return Outcome(metrics, {"candidate": folder})


def _arguments(config: PPOConfig) -> dict[str, Any]:
    steps = max(1, config.rollouts // config.minibatch)
    return {
        "per_device_train_batch_size": config.rollouts // steps,
        "steps_per_generation": steps,
        "num_iterations": config.epochs,
        "max_steps": config.iterations * steps * config.epochs,
        "save_steps": config.checkpoint_interval * steps * config.epochs,
        "num_generations": config.samples_per_prompt,
        "max_completion_length": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "beta": config.kl_coefficient,
        "epsilon": config.clip_low,
        "epsilon_high": config.clip_high,
        "max_grad_norm": config.max_gradient_norm,
        "lr_scheduler_type": "constant",
        "disable_dropout": True,
    }


def _by_row(prompts: list[Prompt], reward: Reward) -> Any:
    """A reward function for TRL that finds the prompts, with their columns, by their number."""

    def rewarded(completions: list[Any], row: list[int], **_: Any) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return reward([prompts[number] for number in row], texts)

    return rewarded
