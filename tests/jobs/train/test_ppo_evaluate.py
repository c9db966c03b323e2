"""What the gate judges by: rows and metrics of candidate, champion and base."""

import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.errors import InputError
from jobs.policy import evaluate
from jobs.policy.config import EvaluateConfig
from jobs.policy.data import read_prompts
from jobs.ppo import train
from jobs.ppo.config import PPOConfig

CONFIG = {"reward": "vowels.py:share", "max_new_tokens": 12, "success": "success.py:solved"}


@pytest.fixture(scope="module")
def trained(llama, prompts, reward, tmp_path_factory, run_job):
    """Inputs with a candidate that a short night has made."""
    solved = tmp_path_factory.mktemp("success") / "success.py"
    solved.write_text("def solved(completions, **_): return [len(c) > 3 for c in completions]")
    found = {"base": llama, "prompts": prompts, "reward": reward}
    night = {
        "reward": "vowels.py:share",
        "max_new_tokens": 12,
        "iterations": 8,
        "rollouts": 64,
        "learning_rate": 1e-2,
        "kl_coefficient": 0.001,
        "target_kl": 1,
    }
    _, outcome = run_job(train.program, PPOConfig, "ppo.train", night, **found)
    return {**found, "success": solved, "candidate": outcome.artifacts["candidate"]}


@pytest.fixture
def files(trained):
    """Of one's own, to be changed."""
    return dict(trained)


def judge(run_job, files, **changes):
    config = {**CONFIG, **changes}
    _, outcome = run_job(evaluate.program, EvaluateConfig, "policy.evaluate", config, **files)
    lines = outcome.artifacts["evaluation"].read_text().splitlines()
    return outcome.metrics, [json.loads(line) for line in lines]


def test_a_row_for_each_prompt_and_its_means(run_job, files):
    metrics, rows = judge(run_job, files)
    assert [row["prompt"] for row in rows] == [f"say {n}" for n in range(24)]
    assert rows[0]["columns"] == {"wanted": "e"}
    for name in ("candidate", "champion", "base"):
        for measure in ("reward", "length", "unfinished", "invalid", "success"):
            mean = sum(row[name][measure] for row in rows) / 24
            assert metrics[f"{name}_{measure}"] == pytest.approx(mean)
        assert metrics[f"{name}_perplexity"] > 1
        assert metrics[f"{name}_compression"] > 0.5
        answers = {row[name]["completion"].strip() for row in rows}
        assert metrics[f"{name}_identical"] == pytest.approx(1 - len(answers) / 24)
    assert all(row["champion"] == row["base"] for row in rows)
    assert any(row["candidate"]["completion"] != row["base"]["completion"] for row in rows)
    assert metrics["kl"] == pytest.approx(sum(row["kl"] for row in rows) / 24)
    assert metrics["kl"] > 0
    assert metrics["candidate_perplexity"] > metrics["base_perplexity"]
    assert any(row["base"]["invalid"] for row in rows)  # an untrained model rarely ends


def test_an_equal_candidate_differs_in_nothing(run_job, files):
    files["champion"] = files["candidate"]
    metrics, rows = judge(run_job, files, limit=5)
    assert len(rows) == 5
    assert all(row["candidate"] == row["champion"] for row in rows)
    assert metrics["candidate_perplexity"] == metrics["champion_perplexity"]
    del files["candidate"], files["champion"]
    metrics, rows = judge(run_job, files, limit=5)
    assert metrics["kl"] == 0
    assert all(row["candidate"] == row["base"] for row in rows)


def test_a_wrecked_candidate_shows_in_every_guardrail(run_job, files, tmp_path):
    files["champion"] = files.pop("candidate")
    wrecked = tmp_path / "wrecked"
    wrecked.mkdir()
    for path in files["champion"].rglob("*"):
        target = wrecked / path.relative_to(files["champion"])
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    adapter = wrecked / "adapter" / "adapter_model.safetensors"
    torch.manual_seed(0)
    noise = {name: 5 * torch.randn_like(value) for name, value in load_file(adapter).items()}
    save_file(noise, adapter)
    files["candidate"] = wrecked
    metrics, _ = judge(run_job, files)
    assert metrics["kl"] > 10
    assert metrics["candidate_perplexity"] > 1.2 * metrics["champion_perplexity"]
    assert metrics["candidate_reward"] < metrics["champion_reward"]


def test_perplexity_on_reference_texts(run_job, files, write_lines):
    files["reference"] = write_lines("reference.jsonl", [{"text": "hello world"}, {"text": "a b"}])
    metrics, _ = judge(run_job, files)
    assert 100 < metrics["base_perplexity"] < 600  # 258 tokens, untrained: near uniform
    files["reference"] = write_lines("reference2.jsonl", [{"text": "x"}])
    with pytest.raises(InputError, match="no text of two tokens"):
        judge(run_job, files)


def test_sampled_decoding_is_fixed_by_its_seed(run_job, files):
    first, _ = judge(run_job, files, temperature=1.0, seed=1)
    assert judge(run_job, files, temperature=1.0, seed=1)[0] == first
    assert judge(run_job, files, temperature=1.0, seed=2)[0] != first


def test_policies_are_in_memory_one_at_a_time_and_with_the_base_that_was_asked_for(
    run_job, files, monkeypatch
):
    alive: list[weakref.ref] = []
    load = evaluate.load_base

    def loading(*given, quantised):
        assert quantised is True and not any(reference() for reference in alive)
        policy = load(*given)
        alive.append(weakref.ref(policy.model))
        return policy

    monkeypatch.setattr(evaluate, "load_base", loading)

    def program(job):
        prompts = read_prompts(job.input("prompts"))
        return evaluate.evaluate(job, prompts[:2], quantised=True)

    files["champion"] = files["candidate"]
    run_job(program, EvaluateConfig, "policy.evaluate", CONFIG, **files)
    assert len(alive) == 3
