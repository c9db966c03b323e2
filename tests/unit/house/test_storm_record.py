"""Each storm leaves a line, however it ended, and old lines are told."""

import os
import subprocess
import sys
from pathlib import Path

from infra.settings import REPOSITORY
from tests.storm.age import commits_since, newest

STORMS = """
import pytest
from decimal import Decimal

def test_calm(kills, storm_log):
    assert kills == 3
    storm_log.machines, storm_log.dollars = 2, Decimal("0.456")
    storm_log.at_work["guard"] += 1
    storm_log.tell("the guard struck")

def test_wild(kills):
    assert "|" == "a machine is left"

@pytest.fixture
def rest():
    yield
    raise RuntimeError("something is left")

def test_ends_badly(rest): ...

def test_elsewhere(): pytest.skip("needs root")
"""


def test_every_storm_leaves_a_line(tmp_path: Path) -> None:
    (tmp_path / "test_storms.py").write_text(STORMS)
    record = tmp_path / "storms.md"
    record.write_text("| 2026-01-01 10:00 | abc | test_old.py | 1 | | | passed |\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.storm.conftest", "-q", "-c", "/dev/null"]
        + [f"--rootdir={tmp_path}", "--kills=3", f"--record={record}", tmp_path],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[0] == "the guard struck", "though the test passed"
    lines = [line.strip("| ").split(" | ") for line in record.read_text().splitlines()[1:]]
    assert [line[2:6] for line in lines] == [
        ["test_storms.py::test_calm", "3", "2", "0.46"],
        ["test_storms.py::test_wild", "3", "", ""],
        ["test_storms.py::test_ends_badly", "", "", ""],
    ]
    calm, wild, badly = (line[6] for line in lines)
    assert calm == "passed; struck at work: guard 1"
    assert wild.startswith("failed:") and "a machine is left" in wild and "|" not in wild
    assert badly == "failed: RuntimeError: something is left"
    assert newest(record) == lines[0][0]


def test_commits_since_a_storm_are_those_to_what_it_is_about(tmp_path: Path) -> None:
    def git(*arguments: str, at: str = "2026-03-01 00:00 +0000") -> None:
        who = {
            f"GIT_{one}_{what}": "a@b"
            for one in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        dates = {"GIT_AUTHOR_DATE": at, "GIT_COMMITTER_DATE": at}
        subprocess.run(["git", *arguments], cwd=tmp_path, env=os.environ | who | dates, check=True)

    git("init", "-q")
    for day, path in enumerate(["infra/a", "docs/b", "tasks/c", "tasks/runs/d", "tasks/ppo/e"]):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        git("add", ".")
        git("commit", "-qm", path, at=f"2026-03-{day + 1:02} 12:00 +0000")
        if path == "tasks/c":
            assert commits_since("", tmp_path) == 2, "tasks, where it has no rooms yet"
    assert commits_since("2026-03-02 10:00", tmp_path) == 1
    assert commits_since("", tmp_path) == 2
