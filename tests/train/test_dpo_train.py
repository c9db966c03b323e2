"""Training on preferences: it learns, fits the machine, survives kills and lack of memory."""

import contextlib
import json
import random
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from infra.errors import InputError
from jobs.dpo import build, train
from jobs.dpo.config import BuildConfig, DPOConfig
from jobs.dpo.fit import Fit
from jobs.runtime import Interrupted, Job
from tests.train.test_ppo_train import curve, wait_for

TRAINING = {"learning_rate": 1e-2, "epochs": 2, "max_tokens": 48, "checkpoint_interval": 2}


@pytest.fixture
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
        "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};"
        "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    _, outcome = run_job(*run, TRAINING, base=chat, **files)
    assert outcome.metrics["accuracy"] == 1


def test_prompts_without_room_are_left_out_and_refused_when_all_are(run_job, llama, dataset):
    files = {"base": llama, "dataset": dataset}
    run = (train.program, DPOConfig, "dpo.train")
    _, outcome = run_job(*run, {**TRAINING, "max_tokens": 9, "max_steps": 1}, **files)
    assert outcome.metrics["too_long"] + 1 >= 5 and outcome.metrics["pairs"] < 20
    with pytest.raises(InputError, match="--max-tokens"):
        run_job(*run, {**TRAINING, "max_tokens": 8}, **files)


def start(folder):
    command = [sys.executable, "-W", "ignore", "-m", "jobs.dpo.train", str(folder)]
    return subprocess.Popen(command)


def result(folder):
    found = json.loads((folder / "result.json").read_text())
    assert found["status"] == "succeeded", found
    return found, adapter(folder / "scratch" / "candidate")


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_and_resumed_gives_the_same_loss(make_job, llama, dataset, processes):
    files = {"base": llama, "dataset": dataset}
    config = {**TRAINING, "epochs": 5, "processes": processes, "micro_batch": 4}
    whole, broken = (make_job("dpo.train", config, **files) for _ in range(2))
    assert start(whole).wait() == 0

    process = start(broken)
    wait_for((broken / "checkpoints" / "step-00000004").exists, process)
    family = psutil.Process(process.pid)
    for victim in [family, *family.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.wait()
    assert not (broken / "result.json").exists()

    process = start(broken)
    wait_for((broken / "checkpoints" / "step-00000010").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75

    assert start(broken).wait() == 0
    expected, weights = result(whole)
    found, resumed = result(broken)
    assert found["resumed_from"] >= 10
    assert found["metrics"]["loss"] == expected["metrics"]["loss"]
    assert same(weights, resumed)


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
