"""The demo's base model is trained the same whether it was killed or not."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

CONFIG = {
    "steps": 30, "batch": 4, "hidden": 16, "layers": 1,
    "checkpoint_interval": 5, "prompts": 5, "held_out": 5,
}  # fmt: skip


def job_folder(folder: Path) -> Path:
    folder.mkdir()
    spec = {
        "name": "design.base",
        "environment": "train",
        "config": CONFIG,
        "output": (folder / "out").as_uri(),
        "max_hours": 1,
        "key": folder.name,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "jobs.design.base", str(folder)])


def weights(folder: Path):
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "succeeded", result
    return load_file(folder / "scratch" / "model" / "model.safetensors"), result


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_equals_undisturbed(tmp_path: Path, how: signal.Signals) -> None:
    undisturbed = job_folder(tmp_path / "a")
    assert start(undisturbed).wait() == 0
    killed = job_folder(tmp_path / "b")
    process = start(killed)
    while not list(killed.glob("checkpoints/step-*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    assert process.wait() in (75, -9)
    assert start(killed).wait() == 0
    expected, _ = weights(undisturbed)
    found, result = weights(killed)
    assert result["resumed_from"] >= 5
    assert all((expected[name] == found[name]).all() for name in expected)


def test_killed_before_its_result_ends_with_the_same_result(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "a")
    assert start(folder).wait() == 0
    _, first = weights(folder)
    (folder / "result.json").unlink()
    assert start(folder).wait() == 0
    _, second = weights(folder)
    assert second["resumed_from"] == CONFIG["steps"]
    assert second["metrics"] == first["metrics"]
    assert second["artifacts"] == first["artifacts"]
