"""TRL 1.12's PPO trainer on our prompts and reward, for `benchmarks.ppo_speed`.

It wants reward and value MODELS and tokenised prompts, so the reward function is dressed as a
model whose "hidden states" are the token ids.
"""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification
from trl.experimental.ppo import PPOConfig as TrlConfig
from trl.experimental.ppo import PPOTrainer

from jobs.policy.data import Prompt, read_prompts
from jobs.policy.model import Policy, load_base
from jobs.policy.reward import Reward, load_reward
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import learning_rates
from jobs.runtime import Job


class RewardAsModel(torch.nn.Module):
    base_model_prefix = "backbone"

    def __init__(self, policy: Policy, prompts: list[Prompt], reward: Reward) -> None:
        super().__init__()
        self.policy, self.reward = policy, reward
        self.asked = {policy.decode(policy.encode(prompt)): prompt for prompt in prompts}

    def backbone(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(hidden_states=[input_ids])

    def score(self, ids: torch.Tensor) -> torch.Tensor:
        texts = [self.policy.decode(row) for row in ids.tolist()]
        prompts = [next(p for text, p in self.asked.items() if t.startswith(text)) for t in texts]
        answers = [
            text[len(self.policy.decode(self.policy.encode(prompt))) :]
            for text, prompt in zip(texts, prompts, strict=True)
        ]
        rewards = torch.tensor(self.reward(prompts, answers))
        return rewards[:, None, None].expand(-1, ids.shape[1], 1)


def train(job: Job[PPOConfig]) -> tuple[float, list[tuple[float, Path | None]]]:
    """(CPU seconds, [(CPU seconds, adapter)]) as `benchmarks.ppo_speed.train_ours`."""
    config = job.config
    policy = load_base(config, job.input("base"))
    policy.tokenizer.padding_side = "left"
    prompts = read_prompts(job.input("prompts"))
    value = AutoModelForSequenceClassification.from_pretrained(job.input("base"), num_labels=1)
    dataset = Dataset.from_list([{"input_ids": policy.encode(prompt)} for prompt in prompts])
    began = time.process_time()
    trainer = PPOTrainer(
        args=TrlConfig(
            output_dir=str(job.scratch),
            seed=config.seed,
            learning_rate=learning_rates(config, policy)[0],
            lr_scheduler_type="constant",
            per_device_train_batch_size=config.minibatch,
            gradient_accumulation_steps=config.rollouts // config.minibatch,
            num_mini_batches=config.rollouts // config.minibatch,
            local_rollout_forward_batch_size=config.rollouts,
            total_episodes=config.iterations * config.rollouts,
            num_ppo_epochs=config.epochs,
            num_sample_generations=0,
            response_length=config.max_new_tokens,
            stop_token="eos",
            temperature=config.temperature,
            kl_coef=config.kl_coefficient,
            cliprange=config.clip_low,
            gamma=config.gamma,
            lam=config.lam,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        processing_class=policy.tokenizer,
        model=policy.model,
        ref_model=None,
        reward_model=RewardAsModel(policy, prompts, load_reward(config.reward)),
        value_model=value,
        train_dataset=dataset,
        eval_dataset=dataset.select(range(8)),
        peft_config=LoraConfig(
            r=config.lora_rank, lora_alpha=int(config.lora_alpha), target_modules="all-linear"
        ),
    )
    trainer.train()
    cpu = time.process_time() - began
    adapter = job.scratch / "adapter"
    trainer.model.policy.save_pretrained(str(adapter))
    return cpu, [(0.0, None), (cpu, adapter)]
