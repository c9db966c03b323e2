"""The demo's base model: within its band, and the same whether it was killed or not."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.design.base import BaseModelConfig, program
from jobs.design.muon import Muon
from jobs.design.reward import success
from jobs.policy.config import ModelConfig
from jobs.policy.data import Prompt
from jobs.policy.model import load_base
from jobs.policy.rollout import generate
from tests.jobs.train.processes import command, fork, run, wait_for

CONFIG = {
    "steps": 30, "batch": 4, "hidden": 16, "layers": 1,
    "checkpoint_interval": 5, "prompts": 5, "held_out": 5,
}  # fmt: skip


def job_folder(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    folder.mkdir()
    spec = {
        "name": "design.base",
        "environment": "train",
        "config": config,
        "output": (folder / "out").as_uri(),
        "max_hours": 1,
        "key": folder.name,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = job_folder(tmp_path_factory.mktemp("base") / "job")
    assert command("jobs.design.base", folder) == 0
    return folder


def weights(folder: Path):
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "succeeded", result
    return load_file(folder / "scratch" / "model" / "model.safetensors"), result


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_equals_undisturbed(
    tmp_path: Path, undisturbed: Path, how: signal.Signals
) -> None:
    killed = job_folder(tmp_path / "job")
    process = fork(program, BaseModelConfig, killed)
    wait_for(lambda: any(killed.glob("checkpoints/step-*")), process)
    os.kill(process.pid, how)
    process.join()
    assert process.exitcode == {signal.SIGKILL: -9, signal.SIGTERM: 75}[how]
    assert run(program, BaseModelConfig, killed) == 0
    expected, _ = weights(undisturbed)
    found, result = weights(killed)
    assert result["resumed_from"] >= 5
    assert all((expected[name] == found[name]).all() for name in expected)


def test_killed_before_its_result_ends_with_the_same_result(
    tmp_path: Path, undisturbed: Path
) -> None:
    _, first = weights(undisturbed)
    folder = shutil.copytree(undisturbed, tmp_path / "job")
    (folder / "result.json").unlink()
    assert run(program, BaseModelConfig, folder) == 0
    _, second = weights(folder)
    assert second["resumed_from"] == CONFIG["steps"]
    assert second["metrics"] == first["metrics"]
    assert second["artifacts"] == first["artifacts"]


def test_muon_steps_as_torchs_own_in_bfloat16_does() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 24), (24, 8), (8, 8))]
    theirs = [torch.nn.Parameter(value.detach().clone()) for value in ours]
    optimisers = Muon(ours, 0.1, 0.01), torch.optim.Muon(theirs, 0.1, 0.01)
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for each in optimisers:
            each.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.long
def test_it_lies_within_the_band_that_a_night_can_improve(tmp_path: Path) -> None:
    """The whole training, of some 70 CPU seconds, and the demo's own held-out requests."""
    folder = job_folder(tmp_path / "job", {})
    assert run(program, BaseModelConfig, folder) == 0
    scratch = folder / "scratch"
    rows = [json.loads(line) for line in (scratch / "held_out.jsonl").read_text().splitlines()]
    assert len(rows) == 300
    policy = load_base(ModelConfig(model=str(scratch / "model")))
    prompts = [policy.encode(Prompt(row["prompt"])) for row in rows]
    answers = generate(policy, prompts, max_new_tokens=32, temperature=0, seed=0, batch=300)
    texts = [policy.decode(answer.token_ids) for answer in answers]
    solved = sum(success(texts, [row["target"] for row in rows])) / len(rows)
    assert 0.30 <= solved <= 0.50
