"""The candidate is the best checkpoint by training prompts that are set aside, and training ends
when nothing improves."""

import json
import shutil
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import InputError
from jobs.policy.best import Best, split
from jobs.policy.data import Prompt, read_prompts
from jobs.ppo import train, trl_trainers
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import load_policy
from jobs.runtime import Interrupted, Job

NIGHT = {
    "reward": "vowels.py:share",
    "max_new_tokens": 8,
    "rollouts": 32,
    "minibatch": 32,
    "iterations": 9,
    "learning_rate": 1e-2,
}
ALGORITHMS = pytest.mark.parametrize(
    ("algorithm", "module"), [("ppo", train), ("grpo", trl_trainers)], ids=["ppo", "grpo"]
)


def adapter(outcome):
    return load_file(outcome.artifacts["candidate"] / "adapter" / "adapter_model.safetensors")


def validate_as(monkeypatch, module, values: Iterator[float]):
    monkeypatch.setattr(module, "greedy_reward", lambda *_: next(values))


def test_of_equals_the_latest_is_kept_and_brings_no_patience(llama):
    policy = load_policy(PPOConfig(reward="x:f"), llama)
    best = Best(patience=2)
    for iteration, reward in enumerate([-1.0, 0.5, 0.5, 0.5]):
        assert not best.exhausted
        best.see(iteration, reward, policy)
    assert (best.iteration, best.reward, best.exhausted) == (3, 0.5, True)


@ALGORITHMS
def test_the_best_checkpoint_is_the_candidate_also_of_a_resumed_night(
    make_job, llama, prompts, reward, monkeypatch, algorithm, module
):
    files = {"base": llama, "prompts": prompts, "reward": reward}
    config = {**NIGHT, "algorithm": algorithm, "patience": 2}

    def night(values, **changed):
        validate_as(monkeypatch, module, iter(values))
        return Job(make_job("ppo.train", {**config, **changed}, **files), PPOConfig)

    short = train.program(night([0.0, 0.5, 0.9], iterations=2))
    best = train.program(night([0.0, 0.5, 0.9, 0.2, 0.3, 1.0]))
    assert best.metrics["reward_after_rerolls"] == 0.9
    assert best.metrics["best_iteration"] == 2
    assert best.metrics["iterations"] == 4, "two more brought nothing"
    for name, value in adapter(short).items():
        assert torch.equal(adapter(best)[name], value), name

    # TRL's trainer is told to stop when its next step has ended, which is validated, too
    ours = algorithm == "ppo"
    job = night([0.0, 0.5, 0.9, 0.2] if ours else [0.0, 0.5, 0.9, 0.2, 0.3])
    save = job.save_checkpoint

    def stop_after_the_third(step, write):
        save(step, write)
        job.stopping |= step == 3 + ours

    job.save_checkpoint = stop_after_the_third
    with pytest.raises(Interrupted):
        train.program(job)
    validate_as(monkeypatch, module, iter([0.3] if ours else [0.0]))
    resumed = train.program(Job(job.folder, PPOConfig))
    assert resumed.metrics["best_iteration"] == 2
    assert resumed.metrics["iterations"] == 4
    for name, value in adapter(best).items():
        assert torch.equal(adapter(resumed)[name], value), name


def test_prompts_that_validate_are_not_trained_on(run_job, llama, prompts, tmp_path):
    asked = tmp_path / "asked.py"
    seen = tmp_path / "seen.jsonl"
    asked.write_text(
        "import json\ndef f(prompts, completions, trainer_state):\n"
        f"    with open({str(seen)!r}, 'a') as stream:\n"
        "        stream.write(json.dumps([trainer_state.max_steps, prompts]) + '\\n')\n"
        "    return [float(len(text)) for text in completions]"
    )
    for algorithm in ("ppo", "grpo"):
        seen.unlink(missing_ok=True)
        config = {**NIGHT, "reward": "asked.py:f", "algorithm": algorithm, "iterations": 2}
        files = {"base": llama, "prompts": prompts, "reward": asked}
        run_job(train.program, PPOConfig, "ppo.train", config, **files)
        calls = [json.loads(line) for line in seen.read_text().splitlines()]
        trained = {prompt for steps, each in calls if steps for prompt in each}
        validated = {prompt for steps, each in calls if not steps for prompt in each}
        assert len(validated) == 4 and trained and not trained & validated


def test_the_split_is_by_text_and_the_same_every_night(prompts):
    rows = read_prompts(prompts)
    twice = [Prompt(row.content, {"weight": w}) for row in rows for w in (1, 2)]
    trained, apart = split(twice, 64)
    assert len(apart) == 8 and len(trained) == 40
    assert not {p.text for p in apart} & {p.text for p in trained}
    assert {p.text for p in split(rows, 64)[1]} == {p.text for p in apart}
    assert {p.text for p in split(rows, 2)[1]} < {p.text for p in apart}
    assert split(rows[:3], 64) == (rows[:3], rows[:3])


@pytest.mark.parametrize(
    ("algorithm", "given"),
    [
        ("grpo", {"min_p": 0.99}),
        ("rloo", {"do_sample": True, "top_k": 1, "top_p": 0.01, "repetition_penalty": 1.5}),
    ],
)
def test_the_bases_generation_config_changes_no_sample(
    run_job, llama, prompts, tmp_path, algorithm, given
):
    kept = tmp_path / "kept.py"
    kept.write_text(
        "class Seen(Exception): pass\ndef f(completion_ids, trainer_state):\n"
        "    if trainer_state.max_steps: raise Seen(completion_ids)\n"
        "    return [0.0] * len(completion_ids)"
    )
    bent = tmp_path / "bent"
    shutil.copytree(llama, bent)
    (bent / "generation_config.json").write_text(
        json.dumps({"eos_token_id": 0, "pad_token_id": 1, **given})
    )
    config = {**NIGHT, "reward": "kept.py:f", "algorithm": algorithm, "iterations": 1}
    sampled = []
    for base in (llama, bent):
        files = {"base": base, "prompts": prompts, "reward": kept}
        with pytest.raises(InputError) as caught:
            run_job(train.program, PPOConfig, "ppo.train", config, **files)
        sampled.append(caught.value.__cause__.args[0])
    assert sampled[0] == sampled[1]
    assert len({tuple(ids) for ids in sampled[0]}) > 16
