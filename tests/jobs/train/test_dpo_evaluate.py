"""What the gate judges by, and what preflight finds before anything is rented."""

import json
import random

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from infra.errors import InputError
from jobs.dpo import build, evaluate, preflight, reward_model, train
from jobs.dpo.config import BuildConfig, DPOConfig, PairEvaluateConfig, PreflightConfig
from jobs.policy.config import RewardModelConfig

TRAINING = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 48, "sft_weight": 0}
JUDGING = {"reward": "vowels.py:share", "max_new_tokens": 8, "max_tokens": 48}
JUDGE = """
def shorter(prompts, first, second, wanted):
    return [1.0 if len(a) < len(b) else 0.0 for a, b in zip(first, second)]

def always_first(prompts, first, second):
    return [1.0] * len(first)

def broken(prompts, first, second):
    return [2.0] * len(first)
"""


@pytest.fixture(scope="module")
def files(run_job, llama, write_lines, reward):
    """Inputs of judging, with a dataset that holds references, and the policy trained on it."""
    draw = random.Random(0)
    rows = [
        {"kind": "correction", "prompt": f"say {n}", "completion": "k" * 4, "wanted": "e",
         "correction": "e" * draw.randint(2, 6)}
        for n in range(100)
    ]  # fmt: skip
    config = {"workers": 1, "near_duplicate": 1}
    pairs = write_lines("feedback.jsonl", rows)
    _, built = run_job(build.program, BuildConfig, "dpo.build", config, pairs=pairs)
    found = {"base": llama, "dataset": built.artifacts["dataset"]}
    _, trained = run_job(train.program, DPOConfig, "dpo.train", TRAINING, **found)
    return {**found, "reward": reward, "candidate": trained.artifacts["candidate"]}


def judge(run_job, files, **changes):
    config = {**JUDGING, **changes}
    _, outcome = run_job(evaluate.program, PairEvaluateConfig, "dpo.evaluate", config, **files)
    artifacts = outcome.artifacts
    rows, pairs = (
        [json.loads(line) for line in artifacts[name].read_text().splitlines()]
        for name in ("evaluation", "pairs")
    )
    return outcome.metrics, rows, pairs


def test_pairs_wins_and_references_are_measured(run_job, files):
    metrics, rows, pairs = judge(run_job, files)
    assert metrics["held_out_pairs"] == len(pairs) > 3
    assert metrics["candidate_reward_accuracy"] == 1
    assert metrics["base_reward_accuracy"] == metrics["champion_reward_accuracy"] == 0.5
    assert metrics["candidate_reward_margin"] > 0 == metrics["base_reward_margin"]
    assert metrics["candidate_token_accuracy"] >= metrics["base_token_accuracy"]
    assert 0 < metrics["longer_accuracy"] < 1
    for row in rows:
        ours, theirs = row["candidate"]["reward"], row["champion"]["reward"]
        assert row["win"] == (0.5 if ours == theirs else float(ours > theirs))
        assert row["columns"]["reference"].startswith("e")
        assert 0 <= row["candidate"]["rouge_l"] <= 1
    assert {"candidate_bleu", "base_rouge_l"} <= set(metrics)
    assert metrics["kl"] > 0
    assert metrics["candidate_reward"] > metrics["champion_reward"]


def test_the_champion_is_measured_too(run_job, files):
    metrics, _, pairs = judge(run_job, {**files, "champion": files["candidate"]})
    assert metrics["champion_reward_accuracy"] == metrics["candidate_reward_accuracy"] == 1
    assert all(pair["champion"] == pair["candidate"] for pair in pairs)


def test_without_held_out_pairs_the_prompts_of_ones_own_judge(run_job, files, write_lines, prompts):
    rows = [
        {"prompt": f"say {n}", "chosen": "e", "rejected": "k", "simulated": True} for n in range(9)
    ]
    pairs = write_lines("simulated.jsonl", rows)
    _, built = run_job(build.program, BuildConfig, "dpo.build", {"workers": 1}, pairs=pairs)
    files = {**files, "dataset": built.artifacts["dataset"], "prompts": prompts}
    metrics, rows, pairs = judge(run_job, files)
    assert pairs == [] and len(rows) == 24
    assert metrics["held_out_pairs"] == 0 and "candidate_reward_accuracy" not in metrics


def test_a_judge_is_asked_in_both_orders(run_job, files, tmp_path):
    (tmp_path / "judge.py").write_text(JUDGE)
    inputs = {**files, "judge": tmp_path / "judge.py"}
    unset = {"reward": "jobs.dpo.judge:undecided"}
    _, rows, _ = judge(run_job, inputs, judge="judge.py:always_first", **unset)
    assert all(row["win"] == 0.5 for row in rows), "a bias for the first place cancels out"
    _, rows, _ = judge(run_job, inputs, judge="judge.py:shorter", **unset)
    for row in rows:
        ours, theirs = (len(row[side]["completion"]) for side in ("candidate", "champion"))
        assert row["win"] == (0.5 if ours == theirs else float(ours < theirs))
        assert row["candidate"]["reward"] == row["win"] == 1 - row["champion"]["reward"]
    with pytest.raises(InputError, match="did not return"):
        judge(run_job, inputs, judge="judge.py:broken", **unset)


def test_a_reward_model_of_the_pairs_ranks_answers(run_job, files):
    config = {"learning_rate": 1e-2, "epochs": 3}
    inputs = {"base": files["base"], "dataset": files["dataset"]}
    run = (reward_model.program, RewardModelConfig, "dpo.reward_model")
    _, outcome = run_job(*run, config, **inputs)
    assert outcome.metrics["accuracy"] > 0.8
    model = {**files, "reward": outcome.artifacts["reward_model"]}
    metrics, _, _ = judge(run_job, model, reward="reward-model")
    assert metrics["candidate_reward"] != metrics["base_reward"]


def test_a_reward_model_stops_and_cuts_where_it_is_told(run_job, files):
    inputs = {"base": files["base"], "dataset": files["dataset"]}
    run = (reward_model.program, RewardModelConfig, "dpo.reward_model")
    job, outcome = run_job(*run, {"max_steps": 2, "max_tokens": 12, "batch": 4}, **inputs)
    lines = (job.folder / "progress.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 2
    assert outcome.metrics["too_long"] > 0
    with pytest.raises(InputError, match="--max-tokens"):
        run_job(*run, {"max_tokens": 8}, **inputs)


def test_preflight_finds_what_would_fail_later(run_job, files, tmp_path, write_lines):
    run = (preflight.program, PreflightConfig, "dpo.preflight")
    config = {**TRAINING, "max_new_tokens": 8, "reward": "vowels.py:share"}
    inputs = {name: files[name] for name in ("base", "dataset", "reward")}
    _, outcome = run_job(*run, config, **inputs, champion=files["candidate"])
    assert outcome.metrics["pairs"] > 80 and outcome.metrics["held_out_prompts"] > 3
    assert outcome.metrics["parameters"] > 10_000
    with pytest.raises(InputError, match="--max-new-tokens"):
        run_job(*run, {**config, "max_new_tokens": 64}, **inputs)
    with pytest.raises(InputError, match="--max-tokens"):
        run_job(*run, {**config, "max_tokens": 8}, **inputs)
    with pytest.raises(InputError, match="lora_targets"):
        run_job(*run, {**config, "lora_targets": "no_such"}, **inputs)
    with pytest.raises(InputError, match="--reward"):
        run_job(*run, {**config, "reward": "vowels.py:no_such"}, **inputs)
    apart = [{"prompt": f"tell {n}", "wanted": "e"} for n in range(9)]
    held_out = write_lines("apart.jsonl", apart)
    _, outcome = run_job(*run, config, **inputs, prompts=held_out)
    assert outcome.metrics["held_out_prompts"] == 9
    shared = [*apart, *({"prompt": f"SAY  {n}", "wanted": "e"} for n in range(100))]
    with pytest.raises(InputError, match=r"held-out prompts are trained on, .* line 1[0-9]"):
        run_job(*run, config, **inputs, prompts=write_lines("shared.jsonl", shared))

    other = tmp_path / "other"
    for path in files["candidate"].rglob("*"):
        target = other / path.relative_to(files["candidate"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    weights = other / "adapter" / "adapter_model.safetensors"
    wide = {name: value.repeat(2, 2) for name, value in load_file(weights).items()}
    save_file(wide, weights)
    with pytest.raises(InputError, match=r"adapter does not fit the model: .* has the shape"):
        run_job(*run, config, **inputs, champion=other)


def test_a_base_without_an_end_is_refused(run_job, files, tmp_path):
    endless = tmp_path / "endless"
    endless.mkdir()
    for path in files["base"].iterdir():
        text = path.read_bytes()
        if path.name == "tokenizer_config.json":
            settings = json.loads(text)
            del settings["eos_token"]
            text = json.dumps(settings).encode()
        (endless / path.name).write_bytes(text)
    config = {**TRAINING, "reward": "vowels.py:share"}
    inputs = {**files, "base": endless}
    del inputs["candidate"]
    run = (preflight.program, PreflightConfig, "dpo.preflight")
    with pytest.raises(InputError, match="end-of-sequence"):
        run_job(*run, config, **inputs)


def test_held_out_pairs_without_room_leave_the_answers_to_judge(run_job, files):
    metrics, rows, pairs = judge(run_job, files, max_tokens=8)
    assert pairs == [] and metrics["held_out_pairs"] == 0
    assert len(rows) > 3


def test_of_many_held_out_pairs_some_of_all_are_scored(run_job, files):
    held_out = pq.read_table(files["dataset"] / "held_out.parquet")["prompt"].to_pylist()
    _, _, pairs = judge(run_job, files, pair_limit=4)
    places = [held_out.index(pair["group"]) for pair in pairs]
    assert len(places) == 4 and max(places) > 3, "not those that the file begins with"
