"""TRL's GRPO and RLOO on the same prompts and rewards, with the same artefact as our PPO.

Both take their advantage from the other completions of the same prompt, so they need no value
head and read no stored trajectories (TRL ignores behaviour log-probabilities without vLLM). Their
reference is the policy that the night begins with.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    GenerationConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from jobs.policy.best import Best, split
from jobs.policy.data import Prompt, read_prompts
from jobs.policy.inputs import base_identity, job_reward
from jobs.policy.model import NoValues, Policy, check_base, save_candidate
from jobs.policy.reward import Reward
from jobs.policy.trainer import run, trainer_arguments
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import greedy_reward, learning_rates, load_policy
from jobs.runtime import Job, Outcome, optional_input, stop_when_told

LOGGED = {"reward": "reward", "kl": "kl", "entropy": "entropy", "completions/mean_length": "length"}
"""TRL's names → ours."""
BEST = "best.pt"
"""In a checkpoint: the best weights until then."""


def train(job: Job[PPOConfig]) -> Outcome:
    """The night's training with `config.algorithm`."""
    config = job.config
    prompts, apart = split(read_prompts(job.input("prompts")), config.probe_prompts)
    reward = job_reward(job)
    base = base_identity(job)
    champion = optional_input(job, "champion")
    if champion:
        check_base(champion, base)
    torch.manual_seed(config.seed)
    policy = load_policy(config, optional_input(job, "base"), champion)
    policy.value_head = NoValues()
    policy.encode_all(prompts, config.max_new_tokens)
    _sample_plainly(policy)

    def validate() -> float:
        return greedy_reward(policy, apart, reward, config, lambda: stop_when_told(job))

    before = validate()
    found = job.latest_checkpoint()
    best = Best(config.patience)
    if found:
        best = Best(**torch.load(found[1] / BEST, weights_only=True))
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
    steps = max(1, config.rollouts // config.minibatch) * config.epochs
    if not best.exhausted and config.iterations:
        trainer.add_callback(BestCallback(best, policy, validate, steps))
        run(job, trainer, config.seed, LOGGED)
    best.put_back(policy)
    policy.model.eval()
    folder = job.scratch / "candidate"
    folder.mkdir(exist_ok=True)
    save_candidate(policy, folder, base)
    metrics = {
        "reward_before": before,
        "reward_after_rerolls": before,
        **best.metrics,
        "validation_prompts": float(len(apart)),
        "iterations": float(best.latest),
        "episodes": float(best.latest * config.rollouts),
    }
    return Outcome(metrics, {"candidate": folder})


def _sample_plainly(policy: Policy) -> None:
    """Leave of the base's generation_config.json the special tokens only.

    transformers fills what a trainer leaves unset (min_p, say) from there, and what is sampled from
    would not be the distribution whose log-probabilities are used.
    """
    given = policy.model.generation_config
    policy.model.get_base_model().generation_config = GenerationConfig(
        bos_token_id=given.bos_token_id,
        eos_token_id=given.eos_token_id,
        pad_token_id=given.pad_token_id,
    )


class BestCallback(TrainerCallback):
    """Validates after each iteration of so many `steps`, and ends what improves no more.

    What it knows goes into the trainer's checkpoints: it must be added before the job's callback,
    which takes them away.
    """

    def __init__(
        self, best: Best, policy: Policy, validate: Callable[[], float], steps: int
    ) -> None:
        self.best, self.policy, self.validate, self.steps = best, policy, validate, steps

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **_: Any,
    ) -> None:
        if state.global_step % self.steps:
            return
        self.best.see(state.global_step // self.steps, self.validate(), self.policy)
        if self.best.exhausted:
            control.should_save = control.should_training_stop = True

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        torch.save(self.best.state(), folder / BEST)


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

    def rewarded(
        completions: list[Any],
        completion_ids: list[list[int]],
        row: list[int],
        trainer_state: TrainerState,
        **_: Any,
    ) -> list[float]:
        texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
        return reward([prompts[number] for number in row], texts, completion_ids, trainer_state)

    return rewarded
