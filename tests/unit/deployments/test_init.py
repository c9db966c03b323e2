"""`nightshift init`: an example that holds, and that never overwrites."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

from deployments.cli import cli
from infra.errors import InputError
from tasks.policy.inputs import store_function, store_prompts
from tests.unit.deployments.test_config_files import told


def init(*arguments: str) -> None:
    cli.main(["init", *arguments], standalone_mode=False)


def test_the_example_is_taken_by_config_and_its_files_by_a_night(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    init("mine here")
    out = capsys.readouterr().out
    assert "cd 'mine here'" in out and "run nightly-ppo --config night.yaml --plan" in out
    assert all(len(line) <= 80 for line in out.splitlines() if "nightly-ppo" not in line)
    monkeypatch.chdir("mine here")
    parameters = told("nightly-ppo", "--config", "night.yaml")
    assert parameters.name == "mine" and parameters.max_cost == 5
    training, held_out = store_prompts(parameters.prompts, None, tmp_path)
    assert training.bytes > held_out.bytes > 0
    assert store_function("--reward", parameters.reward) is not None
    tried = subprocess.run([sys.executable, "-m", "unittest"], capture_output=True, text=True)
    assert tried.returncode == 0 and "Ran 3 tests" in tried.stderr, tried.stderr
    reward = Path("rewards.py")
    reward.write_text(reward.read_text().replace("0.25 * is_short", "0.25"))
    tried = subprocess.run([sys.executable, "-m", "unittest"], capture_output=True, text=True)
    assert tried.returncode == 1, "the test of a worse reward fails"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("mine")
    with pytest.raises(InputError, match=r"rewards\.py in .* would be overwritten"):
        init(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["rewards.py"]
    assert (tmp_path / "rewards.py").read_text() == "mine"
    with pytest.raises(InputError, match="is no folder"):
        init(str(tmp_path / "rewards.py"))
    with pytest.raises(click.UsageError):
        init(str(tmp_path), "more")
