"""TRL's trainers behind the same job: GRPO, RLOO and the reward model."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file

from jobs.policy import reward_model
from jobs.policy.config import RewardModelConfig
from jobs.ppo import train
from jobs.ppo.config import PPOConfig
from jobs.runtime import Interrupted, Job

NIGHT = {
    "reward": "vowels.py:share",
    "max_new_tokens": 8,
    "rollouts": 32,
    "minibatch": 32,
    "iterations": 3,
    "learning_rate": 1e-2,
    "probe_prompts": 4,
}


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_the_artefact_and_the_curve_are_those_of_ppo(run_job, base, prompts, reward, algorithm):
    config = {**NIGHT, "algorithm": algorithm}
    files = {"base": base, "prompts": prompts, "reward": reward}
    job, outcome = run_job(train.program, PPOConfig, "ppo.train", config, **files)
    candidate = outcome.artifacts["candidate"]
    adapter = load_file(candidate / "adapter" / "adapter_model.safetensors")
    assert any(value.abs().max() > 0 for name, value in adapter.items() if "lora_B" in name)
    lines = map(json.loads, (job.folder / "progress.jsonl").read_text().splitlines())
    assert any({"reward", "kl"} <= set(line["metrics"]) for line in lines)
    assert outcome.metrics["episodes"] == 96
    ours = {**NIGHT, "iterations": 0, "learning_rate": 1e-3}
    run_job(train.program, PPOConfig, "ppo.train", ours, **files, champion=candidate)


def test_a_stopped_run_goes_on_to_the_same_weights(make_job, llama, prompts, reward):
    config = {**NIGHT, "algorithm": "grpo"}
    files = {"base": llama, "prompts": prompts, "reward": reward}
    whole = train.program(Job(make_job("ppo.train", config, **files), PPOConfig))

    folder = make_job("ppo.train", config, **files)
    job = Job(folder, PPOConfig)
    report = job.progress

    def stop_after_the_first_step(*args, **metrics):
        report(*args, **metrics)
        job.stopping = True

    job.progress = stop_after_the_first_step
    with pytest.raises(Interrupted):
        train.program(job)
    job = Job(folder, PPOConfig)
    resumed = train.program(job)
    assert job.resumed_from in (1, 2)
    expected, found = (
        load_file(outcome.artifacts["candidate"] / "adapter" / "adapter_model.safetensors")
        for outcome in (whole, resumed)
    )
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name


def test_a_reward_model_learns_and_rewards(run_job, base, prompts, write_lines):
    draw = random.Random(0)
    pairs = [
        {"prompt": f"say {n}", "chosen": "e" * draw.randint(2, 6), "rejected": "k" * 4}
        for n in range(120)
    ]
    preferences = write_lines("preferences.jsonl", pairs)
    config = {"learning_rate": 1e-2, "epochs": 2}
    run = (reward_model.program, RewardModelConfig, "policy.reward_model")
    _, outcome = run_job(*run, config, base=base, preferences=preferences)
    assert outcome.metrics["accuracy"] == 1
    night = {**NIGHT, "reward": "reward-model", "iterations": 1}
    files = {"base": base, "prompts": prompts, "reward": outcome.artifacts["reward_model"]}
    _, improved = run_job(train.program, PPOConfig, "ppo.train", night, **files)
    assert improved.metrics["reward_after_rerolls"] != 0
