"""A suite that takes half as long again as its budget is warned of, and does not fail for it."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from tests.helpers import budgets

TESTS = """
import time

def test_slow():
    time.sleep(0.2)

def test_quick():
    pass
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_a_suite_over_its_budget_is_warned_of(tmp_path: Path, workers: int) -> None:
    folder, helpers = tmp_path / "tests", tmp_path / "tests" / "helpers"
    helpers.mkdir(parents=True)
    for suite in ("slow", "within"):
        (folder / suite).mkdir(parents=True)
        (folder / suite / f"test_{suite}.py").write_text(TESTS)
    plugin = Path(budgets.__file__)
    (helpers / plugin.name).write_text(plugin.read_text())
    (helpers / "budgets.toml").write_text("slow = 0.1\nwithin = 9\n")
    plain = {"PYTHONPATH": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist", "-p", "tests.helpers.budgets"]
        + ["-n", str(workers), "tests"],
        cwd=tmp_path, env=os.environ | plain, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1 and warnings[0].startswith("WARNING: tests/slow took 0."), warnings
    assert warnings[0].endswith("its budget in tests/helpers/budgets.toml is 0.1 s")


def test_every_budget_is_of_a_suite_that_there_is() -> None:
    suites = tomllib.loads(budgets.FILE.read_text())
    assert all((REPOSITORY / "tests" / suite).is_dir() for suite in suites)
