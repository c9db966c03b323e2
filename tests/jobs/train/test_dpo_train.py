"""Training on preferences: it learns, fits the machine, survives kills and lack of memory."""

import contextlib
import json
import os
import random
import shutil
import signal
from pathlib import Path

import psutil
import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from infra.errors import InputError
from jobs.dpo import build, train
from jobs.dpo.config import BuildConfig, DPOConfig
from jobs.dpo.fit import Fit
from jobs.dpo.validation import split
from jobs.runtime import Interrupted, Job
from tests.jobs.train.processes import command, fork, run, wait_for
from tests.jobs.train.test_ppo_train import curve

TRAINING = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 48, "checkpoint_interval": 2}


@pytest.fixture(scope="module")
def dataset(run_job, write_lines):
    """Pairs of which the one with the letter e is the better one."""
    draw = random.Random(0)
    rows = [
        {"prompt": f"say {n}", "chosen": "e" * draw.randint(2, 6), "rejected": "k" * 4}
        for n in range(100)
    ]
    pairs = write_lines("pairs.jsonl", rows)
    config = {"workers": 1, "near_duplicate": 1}
    _, outcome = run_job(build.program, BuildConfig, "dpo.build", config, pairs=pairs)
    return outcome.artifacts["dataset"]


def adapter(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same(one, other, tolerance=0.0):
    return set(one) == set(other) and all(
        torch.allclose(value, other[name], rtol=0, atol=tolerance) for name, value in one.items()
    )


def test_any_model_learns_and_goes_on_from_its_champion(run_job, base, dataset):
    files = {"base": base, "dataset": dataset}
    run = (train.program, DPOConfig, "dpo.train")
    job, outcome = run_job(*run, TRAINING, **files)
    found = curve(job.folder)
    assert outcome.metrics["accuracy"] == 1
    assert outcome.metrics["loss"] < 0.3
    assert outcome.metrics["pairs"] > 80
    assert found[outcome.metrics["steps"]]["margin"] > 1
    candidate = outcome.artifacts["candidate"]
    assert json.loads((candidate / "base.json").read_text())["sha256"]

    again = {**TRAINING, "max_steps": 1, "learning_rate": 1e-9}
    _, more = run_job(*run, again, **files, champion=candidate)
    assert same(adapter(candidate), adapter(more.artifacts["candidate"]), 1e-6)
    assert more.metrics["loss"] == pytest.approx(0.693, abs=1e-3)  # the champion is the reference


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "ipo", "dtype": "bfloat16"},
        {"loss": "robust", "gradient_checkpointing": "on"},
        {"precompute_reference": True, "micro_batch": 4},
        {"quantise": "on"},
    ],
    ids=str,
)
def test_every_variant_learns(run_job, llama, dataset, change):
    files = {"base": llama, "dataset": dataset}
    config = {**TRAINING, **change}
    _, outcome = run_job(train.program, DPOConfig, "dpo.train", config, **files)
    assert outcome.metrics["accuracy"] > 0.8
    if change.get("loss") == "robust":
        assert outcome.metrics["label_smoothing"] == pytest.approx(0.15, abs=0.001)
    if "micro_batch" in change:
        assert outcome.metrics["accumulation"] == 4
    if "quantise" in change:
        assert outcome.metrics["quantised"] == 1


def test_the_likelihood_of_the_chosen_is_added_by_its_weight(run_job, llama, dataset):
    still = {**TRAINING, "max_steps": 1, "learning_rate": 1e-9}
    losses = []
    for change in ({"sft_weight": 1}, {"sft_weight": 3}, {"loss": "sft", "sft_weight": 3}):
        files = {"base": llama, "dataset": dataset}
        run = (train.program, DPOConfig, "dpo.train", {**still, **change})
        losses.append(run_job(*run, **files)[1].metrics["loss"])
    once, thrice, alone = losses
    assert once - 0.6931 > 1 and thrice - 0.6931 == pytest.approx(3 * (once - 0.6931), rel=1e-3)
    assert alone == pytest.approx(once - 0.6931, rel=1e-3)


def test_corrections_are_imitated_and_preferred_answers_are_not():
    sources = ["correction", "rating", "dataset", "correction"]
    chosen = ({}, {"sft_weight": 0}, {"sft_weight": 2}, {"loss": "sft"})
    weights = [train.likelihood_weight(DPOConfig(**one), sources) for one in chosen]
    assert weights == [5, 0, 2, 0]
    assert train.likelihood_weight(DPOConfig(), ["dataset", "thumb"]) == 0


def test_chats_are_trained_with_the_template_or_refused(run_job, llama, write_lines, tmp_path):
    ask = [{"role": "user", "content": "say"}]
    rows = [
        {"prompt": [{**ask[0], "content": f"say {n}"}], "chosen": "e", "rejected": "k"}
        for n in range(60)
    ]
    config = {"workers": 1, "near_duplicate": 1}
    pairs = write_lines("chats.jsonl", rows)
    _, built = run_job(build.program, BuildConfig, "dpo.build", config, pairs=pairs)
    files = {"dataset": built.artifacts["dataset"]}
    run = (train.program, DPOConfig, "dpo.train")
    with pytest.raises(InputError, match="no chat template"):
        run_job(*run, TRAINING, base=llama, **files)
    chat = tmp_path / "chat"
    chat.mkdir()
    for path in llama.iterdir():
        (chat / path.name).write_bytes(path.read_bytes())
    (chat / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<eos>"
        "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    _, outcome = run_job(*run, TRAINING, base=chat, **files)
    assert outcome.metrics["accuracy"] == 1


def test_prompts_without_room_are_left_out_and_refused_when_all_are(
    run_job, llama, dataset, write_lines
):
    rows = [
        {"prompt": f"say {n} " * (1 + n % 4), "chosen": "e" * 3, "rejected": "k"}
        for n in range(100)
    ]
    config = {"workers": 1, "near_duplicate": 1}
    pairs = write_lines("long.jsonl", rows)
    _, built = run_job(build.program, BuildConfig, "dpo.build", config, pairs=pairs)
    files = {"base": llama, "dataset": built.artifacts["dataset"]}
    run = (train.program, DPOConfig, "dpo.train")
    _, outcome = run_job(*run, {**TRAINING, "max_tokens": 20, "max_steps": 1}, **files)
    assert outcome.metrics["too_long"] > 30 and 30 < outcome.metrics["pairs"] < 60
    files = {"base": llama, "dataset": dataset}
    with pytest.raises(InputError, match="--max-tokens"):
        run_job(*run, {**TRAINING, "max_tokens": 8}, **files)


def test_what_is_trained_on_and_what_is_cut_is_counted(run_job, llama, dataset):
    files = {"base": llama, "dataset": dataset}
    run = (train.program, DPOConfig, "dpo.train")
    _, outcome = run_job(*run, {**TRAINING, "max_steps": 2, "effective_batch": 8}, **files)
    assert outcome.metrics["trained"] == 16 < outcome.metrics["pairs"]
    assert outcome.metrics["cut"] == 0
    _, outcome = run_job(*run, {**TRAINING, "epochs": 1, "max_tokens": 12}, **files)
    assert 0 < outcome.metrics["cut"] < outcome.metrics["pairs"] / 2
    assert outcome.metrics["trained"] == outcome.metrics["pairs"]
    with pytest.raises(InputError, match="--max-tokens 10 cuts"):
        run_job(*run, {**TRAINING, "max_tokens": 10}, **files)


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_chatml_rows_end_with_one_end_token(run_job, llama, write_lines, tmp_path, monkeypatch):
    """github.com/huggingface/trl/issues/4481"""
    chat = tmp_path / "chat"
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.chat_template = CHATML
    model = AutoModelForCausalLM.from_pretrained(llama)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(chat)
    tokenizer.save_pretrained(chat)
    ask = {"role": "user", "content": "a"}
    rows = [{"prompt": [{**ask, "content": f"{n}"}], "chosen": "e", "rejected": "k"}
            for n in range(60)]  # fmt: skip
    config = {"workers": 1, "near_duplicate": 1}
    pairs = write_lines("chats.jsonl", rows)
    _, built = run_job(build.program, BuildConfig, "dpo.build", config, pairs=pairs)
    seen = []
    monkeypatch.setattr(train, "run", lambda _, trainer, *__: seen.append(trainer.train_dataset))
    with pytest.raises(IndexError):  # no step, no loss
        run_job(train.program, DPOConfig, "dpo.train", {**TRAINING, "max_tokens": 64},
                base=chat, dataset=built.artifacts["dataset"])  # fmt: skip
    for row in seen[0]:
        for side in ("chosen_ids", "rejected_ids"):
            assert row[side].count(tokenizer.eos_token_id) == 1


def result(folder):
    found = json.loads((folder / "result.json").read_text())
    assert found["status"] == "succeeded", found
    return found, adapter(folder / "scratch" / "candidate")


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_killed_and_resumed_gives_the_same_loss(make_job, llama, dataset, processes):
    files = {"base": llama, "dataset": dataset}
    config = {**TRAINING, "epochs": 5, "processes": processes, "micro_batch": 4}
    whole, broken = (make_job("dpo.train", config, **files) for _ in range(2))
    assert command("jobs.dpo.train", whole) == 0

    process = fork(train.program, DPOConfig, broken)
    wait_for((broken / "checkpoints" / "step-00000004").exists, process)
    family = psutil.Process(process.pid)
    for victim in [family, *family.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.join()
    assert not (broken / "result.json").exists()

    process = fork(train.program, DPOConfig, broken)
    wait_for((broken / "checkpoints" / "step-00000010").exists, process)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode == 75

    assert run(train.program, DPOConfig, broken) == 0
    expected, weights = result(whole)
    found, resumed = result(broken)
    assert found["resumed_from"] >= 10
    for name in ("loss", "validation_loss", "best_step"):
        assert found["metrics"][name] == expected["metrics"][name]
    assert same(weights, resumed)


def test_what_learns_its_pairs_by_heart_ends_early_with_its_best_checkpoint(
    run_job, make_job, llama, write_lines
):
    """Which answer was chosen is chance, so that all that is learnt is these very pairs."""
    draw = random.Random(0)
    sides = [["".join(draw.choices("aeiou", k=4)) for _ in range(2)] for _ in range(120)]
    rows = [{"prompt": f"say {n}", "chosen": a, "rejected": b} for n, (a, b) in enumerate(sides)]
    pairs = write_lines("chance.jsonl", rows)
    built = {"workers": 1, "near_duplicate": 1}
    _, outcome = run_job(build.program, BuildConfig, "dpo.build", built, pairs=pairs)
    config = {**TRAINING, "learning_rate": 3e-2, "epochs": 9, "patience": 3}
    files = {"base": llama, "dataset": outcome.artifacts["dataset"]}
    job = Job(make_job("dpo.train", config, **files), DPOConfig)
    kept: dict[int, Path] = {}
    save = job.save_checkpoint

    def keep(step, write):
        save(step, write)
        kept[step] = shutil.copytree(job.latest_checkpoint()[1], job.folder / f"kept-{step}")

    job.save_checkpoint = keep
    found = train.program(job)
    points = map(json.loads, (job.folder / "progress.jsonl").read_text().splitlines())
    told = {
        point["step"]: point["metrics"]["validation_loss"]
        for point in points
        if "validation_loss" in point["metrics"]
    }
    best = int(found.metrics["best_step"])
    assert found.metrics["validation_loss"] == min(told.values()) == told[best]
    assert found.metrics["steps"] == best + 3 * TRAINING["checkpoint_interval"] == max(told) < 54
    assert found.metrics["validation"] >= 8
    ours = adapter(found.artifacts["candidate"])
    assert same(ours, load_file(kept[best] / "adapter_model.safetensors"))
    assert not same(ours, load_file(kept[max(told)] / "adapter_model.safetensors"))


def test_no_prompt_that_validates_is_trained_on_and_few_are_none():
    rows = [
        {"prompt": f"say {n // 2}", "group": None, "chosen": "e", "rejected": "k"}
        for n in range(400)
    ]
    pairs = Dataset.from_list(rows)
    trained, apart = split(pairs, 128)
    assert len(trained) + len(apart) == 400 and len(apart) == 40
    assert not set(trained["prompt"]) & {row["prompt"] for row in apart}
    assert split(pairs.select(range(300)), 128)[1] != [] and len(split(pairs, 10)[1]) == 10
    assert split(pairs.select(range(150)), 128)[1] == split(pairs, 0)[1] == []


def test_a_half_written_checkpoint_is_not_resumed_from(make_job, llama, dataset):
    files = {"base": llama, "dataset": dataset}
    folder = make_job("dpo.train", {**TRAINING, "epochs": 1}, **files)
    job = Job(folder, DPOConfig)
    partial = folder / "checkpoints" / ".partial"
    partial.mkdir(parents=True)
    (partial / "adapter_model.safetensors").write_bytes(b"half")
    assert train.program(job).metrics["steps"] == 6
    assert job.resumed_from is None


def test_lack_of_memory_halves_the_micro_batch_and_goes_on(make_job, llama, dataset, monkeypatch):
    """The allocator refuses micro-batches over 4, the first time after three steps."""
    files = {"base": llama, "dataset": dataset}
    steps, real = [], train.DPOTrainer.training_step

    def training_step(self, model, inputs, *rest):
        size = len(inputs["input_ids"]) // 2
        steps.append(size)
        if size > 4 and len(steps) > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")
        return real(self, model, inputs, *rest)

    monkeypatch.setattr(train.DPOTrainer, "training_step", training_step)
    job = Job(make_job("dpo.train", TRAINING, **files), DPOConfig)
    outcome = train.program(job)
    assert outcome.metrics["micro_batch"] == 4
    assert outcome.metrics["accumulation"] == 4
    assert outcome.metrics["steps"] == 12
    assert outcome.metrics["accuracy"] == 1
    assert job.resumed_from == 2
    saved = Fit.load(job.folder / "fit.json")
    assert "memory ran out with 8 pairs at a time: 4 from now on" in saved.reasons[-1]


def test_memory_that_never_suffices_is_one_clear_error(make_job, llama, dataset, monkeypatch):
    def training_step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(train.DPOTrainer, "training_step", training_step)
    job = Job(make_job("dpo.train", TRAINING, base=llama, dataset=dataset), DPOConfig)
    with pytest.raises(InputError, match=r"one pair at a time(.|\n)*--max-tokens"):
        train.program(job)


def test_sigterm_is_heard(make_job, llama, dataset):
    job = Job(make_job("dpo.train", TRAINING, base=llama, dataset=dataset), DPOConfig)
    job.stopping = True
    with pytest.raises(Interrupted):
        train.program(job)


def test_a_champion_of_another_base_is_refused(run_job, llama, gpt2, dataset):
    run = (train.program, DPOConfig, "dpo.train")
    config = {**TRAINING, "max_steps": 1}
    _, outcome = run_job(*run, config, base=gpt2, dataset=dataset)
    champion = outcome.artifacts["candidate"]
    with pytest.raises(InputError, match=r"was trained on .*, not on"):
        run_job(*run, config, base=llama, dataset=dataset, champion=champion)


@pytest.mark.parametrize(
    "change",
    [
        {"effective_batch": 16, "micro_batch": 5},
        {"loss": "exo_pair", "label_smoothing": 0},
        {"loss": "no_such_loss"},
        {"beta": 0},
        {"no_such_option": 1},
    ],
)
def test_a_config_that_cannot_work_is_refused(change):
    with pytest.raises(ValidationError):
        DPOConfig(**{**TRAINING, **change})
