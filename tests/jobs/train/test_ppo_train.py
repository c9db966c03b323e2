"""The night as a whole, on toy models and a reward that the project has never seen."""

import json
import os
import signal
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from infra.errors import InputError
from jobs.policy import sample
from jobs.policy.config import SampleConfig
from jobs.policy.data import read_trajectories, write_trajectories
from jobs.ppo import preflight, train
from jobs.ppo.config import PPOConfig, PreflightConfig
from jobs.runtime import Interrupted, Job
from tests.jobs.train.processes import command, fork, run, wait_for

NIGHT = {
    "reward": "vowels.py:share",
    "max_new_tokens": 12,
    "rollouts": 64,
    "minibatch": 32,
    "iterations": 3,
    "learning_rate": 1e-2,
    "kl_coefficient": 0.001,
    "target_kl": 1.0,
    "probe_prompts": 8,
}
SAMPLE = {"reward": "vowels.py:share", "max_new_tokens": 12, "count": 96}


def curve(folder):
    lines = map(json.loads, (folder / "progress.jsonl").read_text().splitlines())
    return {line["step"]: line["metrics"] for line in lines}


def test_a_night_improves_any_model_on_any_reward(run_job, base, prompts, reward):
    files = {"base": base, "prompts": prompts, "reward": reward}
    _, sampled = run_job(sample.program, SampleConfig, "policy.sample", SAMPLE, **files)
    rows = read_trajectories(sampled.artifacts["trajectories"])
    assert len(rows) == 96
    assert sampled.metrics["reward"] == pytest.approx(sum(r.reward for r in rows) / 96)

    config = {**NIGHT, "iterations": 8}
    files["trajectories"] = sampled.artifacts["trajectories"]
    job, outcome = run_job(train.program, PPOConfig, "ppo.train", config, **files)
    found = curve(job.folder)
    assert set(found) == set(range(9))
    assert found[8]["reward"] > 1.5 * found[0]["reward"]
    assert found[8]["kl"] > 0
    assert found[1]["kl"] > 0  # the stored night has moved the policy already
    assert outcome.metrics["validation_prompts"] == 4, "a fifth of the prompts at most"
    assert outcome.metrics["stored_used"] == 96 - 4 * 4
    assert outcome.metrics["stored_set_aside"] == 4 * 4
    assert outcome.metrics["stored_kl"] < 1e-6  # sampled by the very policy that learns from them
    assert outcome.metrics["episodes"] == 80 + 8 * 64
    assert {"reward_before", "reward_after_stored", "reward_after_rerolls"} <= set(outcome.metrics)

    candidate = outcome.artifacts["candidate"]
    assert (candidate / "adapter" / "adapter_model.safetensors").is_file()
    assert "out.weight" in load_file(candidate / "value_head.safetensors")
    base = json.loads((candidate / "base.json").read_text())
    told = json.loads((candidate / "adapter" / "adapter_config.json").read_text())
    assert base["sha256"] and told["base_model_name_or_path"] == base["uri"]
    assert "inputs/base" not in (candidate / "adapter" / "README.md").read_text()

    again = {**config, "iterations": 0}
    files["champion"] = candidate
    del files["trajectories"]
    _, continued = run_job(train.program, PPOConfig, "ppo.train", again, **files)
    kept = continued.artifacts["candidate"]
    for name in ("adapter/adapter_model.safetensors", "value_head.safetensors"):
        for key, value in load_file(candidate / name).items():
            assert torch.equal(value, load_file(kept / name)[key])
    assert continued.metrics["reward_before"] == outcome.metrics["reward_after_rerolls"]


class Code:
    """What a pickle of it does when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"state": Code(tmp_path / "done")}, tmp_path / "state.pt")
    with pytest.raises(UnpicklingError, match="Weights only"):
        train.Night._restore(train.Night.__new__(train.Night), tmp_path)
    assert not (tmp_path / "done").exists()


def test_a_stopped_collection_goes_on_to_the_same_trajectories(make_job, llama, prompts, reward):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    config = {**SAMPLE, "rollout_batch": 20}
    whole = sample.program(Job(make_job("policy.sample", config, **files), SampleConfig))
    folder = make_job("policy.sample", config, **files)
    job = Job(folder, SampleConfig)
    save = job.save_checkpoint

    def stop_after_two_batches(step, write):
        save(step, write)
        job.stopping = step == 40

    job.save_checkpoint = stop_after_two_batches
    with pytest.raises(Interrupted):
        sample.program(job)
    job = Job(folder, SampleConfig)
    resumed = sample.program(job)
    assert job.resumed_from == 40
    expected, found = (outcome.artifacts["trajectories"] for outcome in (whole, resumed))
    assert found.read_bytes() == expected.read_bytes()


def test_stale_trajectories_are_left_out_and_off_policy_ones_measured(
    run_job, llama, prompts, reward, tmp_path
):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    _, sampled = run_job(sample.program, SampleConfig, "policy.sample", SAMPLE, **files)
    rows = read_trajectories(sampled.artifacts["trajectories"])
    versions = ["5", "4", "3", "2", "base", "6"] * 16
    for row, version in zip(rows, versions, strict=True):
        row.model_version = version
        row.logprobs = [value - 0.1 for value in row.logprobs]
    write_trajectories(tmp_path / "old.jsonl", rows)
    files["trajectories"] = tmp_path / "old.jsonl"
    config = {**NIGHT, "iterations": 0, "policy_version": "5", "max_staleness": 2}
    job, outcome = run_job(train.program, PPOConfig, "ppo.train", config, **files)
    assert outcome.metrics["stored_used"] + outcome.metrics["stored_set_aside"] == 4 * 16
    assert outcome.metrics["stored_too_stale"] == 2 * 16
    assert outcome.metrics["stored_kl"] > 0.004  # e^0.1 - 1 - 0.1
    assert curve(job.folder)[0]["ratio"] == pytest.approx(1.105, abs=0.03)


def test_the_target_and_the_time_limit_end_the_night(run_job, llama, prompts, reward):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    for limit in ({"target_reward": 0.0}, {"minutes": 1e-6}):
        config = {**NIGHT, "iterations": 50, **limit}
        _, outcome = run_job(train.program, PPOConfig, "ppo.train", config, **files)
        assert outcome.metrics["iterations"] <= 1
        assert outcome.metrics["cut_at_window"] == ("minutes" in limit)


def test_the_target_kl_ends_the_updates_of_an_iteration(run_job, llama, prompts, reward):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    config = {**NIGHT, "iterations": 1, "epochs": 20, "target_kl": 0.001}
    job, _ = run_job(train.program, PPOConfig, "ppo.train", config, **files)
    assert 1 <= curve(job.folder)[1]["steps"] < 40


def test_a_champion_of_another_base_is_refused(run_job, llama, gpt2, prompts, reward):
    files = {"prompts": prompts, "reward": reward}
    config = {**NIGHT, "iterations": 0}
    _, outcome = run_job(train.program, PPOConfig, "ppo.train", config, base=gpt2, **files)
    files["champion"] = outcome.artifacts["candidate"]
    with pytest.raises(InputError, match=r"was trained on .*, not on"):
        run_job(train.program, PPOConfig, "ppo.train", config, base=llama, **files)


@pytest.mark.parametrize(
    "change",
    [
        {"rollouts": 10, "samples_per_prompt": 4},
        {"algorithm": "grpo", "samples_per_prompt": 1},
        {"algorithm": "rloo", "rollouts": 48, "minibatch": 32},
        {"learning_rate": -1},
        {"no_such_option": 1},
    ],
)
def test_a_config_that_cannot_work_is_refused(change):
    with pytest.raises(ValidationError):
        PPOConfig(**{**NIGHT, **change})


def weights(folder):
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "succeeded", result
    candidate = folder / "scratch" / "candidate"
    return result, {
        **load_file(candidate / "adapter" / "adapter_model.safetensors"),
        **load_file(candidate / "value_head.safetensors"),
    }


def test_killed_and_resumed_gives_the_same_weights_bit_for_bit(make_job, llama, prompts, reward):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    config = {**NIGHT, "iterations": 12}
    whole, broken = (make_job("ppo.train", config, **files) for _ in range(2))
    assert command("jobs.ppo.train", whole) == 0

    process = fork(train.program, PPOConfig, broken)
    wait_for((broken / "checkpoints" / "step-00000003").exists, process)
    process.kill()
    process.join()
    assert not (broken / "result.json").exists()

    process = fork(train.program, PPOConfig, broken)
    wait_for((broken / "checkpoints" / "step-00000007").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75
    assert json.loads((broken / "result.json").read_text())["status"] == "continue"

    assert run(train.program, PPOConfig, broken) == 0
    _, expected = weights(whole)
    result, found = weights(broken)
    assert result["resumed_from"] >= 7
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_sigterm_within_an_iteration_is_heard(make_job, llama, prompts, reward):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    job = Job(make_job("ppo.train", NIGHT, **files), PPOConfig)
    job.stopping = True
    with pytest.raises(Interrupted):
        train.program(job)


def test_preflight_finds_what_would_fail_in_the_night(
    run_job, base, prompts, reward, write_lines, tmp_path
):
    files = {"base": base, "prompts": prompts, "reward": reward}
    run = (preflight.program, PreflightConfig, "ppo.preflight")
    held_out = write_lines("held.jsonl", [{"prompt": "x", "wanted": "a"}])
    _, outcome = run_job(*run, NIGHT, **files, held_out=held_out)
    assert outcome.metrics["prompts"] == 24
    assert outcome.metrics["held_out"] == 1
    assert outcome.metrics["parameters"] > 10_000

    with pytest.raises(InputError, match="held-out prompt of line 1"):
        run_job(*run, NIGHT, **files, held_out=prompts)
    with pytest.raises(InputError, match="context of 64"):
        run_job(*run, {**NIGHT, "max_new_tokens": 60}, **files)
    with pytest.raises(InputError, match="--model"):
        run_job(*run, NIGHT, **{**files, "base": prompts})
    with pytest.raises(InputError, match="lora_targets"):
        run_job(*run, {**NIGHT, "lora_targets": "no_such_layer"}, **files)
    sick = tmp_path / "sick.py"
    sick.write_text("def share(completions, **_): return [1 / len(c) for c in completions]")
    with pytest.raises(InputError, match="raised ZeroDivisionError"):
        run_job(*run, NIGHT, **{**files, "reward": sick})
    with pytest.raises(InputError, match="--success json:nofunc: there is no function"):
        run_job(*run, {**NIGHT, "success": "json:nofunc"}, **files)
    with pytest.raises(InputError, match=r"--success .* raised ZeroDivisionError"):
        run_job(*run, {**NIGHT, "success": "sick.py:share"}, **files, success=sick)
    run_job(*run, {**NIGHT, "success": "vowels.py:share"}, **files)
