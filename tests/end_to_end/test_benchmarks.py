"""Benchmarks as a user starts them, of a made-up product in a git tree of its own."""

import json
import subprocess
from pathlib import Path

import pytest

from infra import errors
from tests.helpers.trees import copy_tree, make_up_figures
from tests.helpers.users import User

AGAINST = "run benchmarks --rounds 12 --against HEAD~1 --max-cost 1".split()


@pytest.fixture
def project(tmp_path: Path, user: User) -> User:
    """A user whose tree has two commits, of which the newer one is 30 % slower."""
    folder = copy_tree(tmp_path / "project")
    for seconds in (2.0, 2.6):
        make_up_figures(folder, seconds)
        for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "x"]):
            who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
            subprocess.run(["git", "-C", str(folder), *who, *command], check=True)
    user.source = folder
    return user


def test_a_slower_revision_is_told_with_its_interval_and_ends_with_ten(project: User) -> None:
    code, _, said = project.run(*AGAINST, "--fail-on-regression")
    assert code == errors.Regressed.exit_code == 10, said
    assert "step is slower: +30" in said
    (report,) = (project.home / "runs").glob("benchmarks-*/report.md")
    table = report.read_text()
    assert "| step, s | 2.6 |" in table and "of constant" in table
    assert "| same within 5% |" in table, "what did not change"
    assert (report.parent / "control-plane.png").read_bytes().startswith(b"\x89PNG")
    assert not (report.parent / "then").exists(), "the worktree is gone"
    rows = json.loads((report.parent / "report.json").read_text())
    assert {one["figure"]: one["kind"] for one in rows} == {
        "step": "slower", "steps": "same", "slow_to_take": "same", "in_few_rounds": "same"
    }  # fmt: skip
    steps = next(one for one in rows if one["figure"] == "steps")
    assert None not in steps["percentiles"], "840 single measurements tell p99"

    again = project.json(*AGAINST[:-4], "--against", "HEAD", "--max-cost", "1")
    table = Path(again["files"]["markdown"]).read_text()
    assert "No figure surely got worse." in table
    assert "| 2.6 |" in table.split("| step, s |")[1], "the last run's value"


def test_what_cannot_be_paid_is_told_before_it_starts(project: User) -> None:
    code, _, said = project.run("run", "benchmarks", "--suite", "all", "--max-cost", "0.01")
    assert code == errors.InputError.exit_code and "--max-cost: the suites may cost" in said
    assert project.run("budget", "set", "0.02")[0] == 0
    code, _, said = project.run("run", "benchmarks", "--max-cost", "1")
    assert code == errors.BudgetExceeded.exit_code and "nothing was measured" in said
    assert project.json("jobs", "list") == []
    code, _, said = project.run("run", "benchmarks", "--against", "nothing-like-it")
    assert code == errors.InputError.exit_code and "--against nothing-like-it" in said
