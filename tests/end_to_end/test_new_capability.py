"""A new capability as docs/architecture.md tells it: its files, and lines in two that are there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.settings import REPOSITORY
from tests.helpers.trees import copy_tree
from tests.helpers.users import User

NEW = {
    "flows/tides.py": '''"""Tides: the mean of a made-up tide.

    nightshift run tides --hours 0.01
"""

from tasks.runs.capability import Capability
from tasks.runs.notice import Notice
from tasks.tides import steps
from tasks.tides.parameters import TidesParameters

capability = Capability("tides", steps=(steps.MEASURE,))


@capability.flow
def tides(parameters: TidesParameters) -> Notice:
    """Tell the mean of a tide."""
    with capability.begin(parameters, {}) as work:
        return steps.publish(work, steps.measure(work))
''',
    "tasks/tides/__init__.py": "",
    "tasks/tides/parameters.py": '''"""What the tides are told."""

from pydantic import Field

from tasks.runs.parameters import Hours, ModelName, RunParameters


class TidesParameters(RunParameters):
    """Which tide, for how long."""

    name: ModelName = Field(default="sea", title="Name", description="Name of the sea.")
    waves: int = Field(default=12, ge=1, title="Waves", description="How many are measured.")
    hours: Hours = Field(default=0.1, title="Window", description="Hours, at most.")
''',
    "tasks/tides/steps.py": '''"""The steps of the tides."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult, Resources
from jobs.tides.config import TidesConfig
from tasks.runs.notice import Notice, end_with_notice
from tasks.runs.plan import Step
from tasks.runs.run import Work
from tasks.tides.parameters import TidesParameters

MEASURE = Step[TidesParameters]("measure", "tides.train", "train", lambda p: p.hours, Resources())


@task(name="measure", cache_policy=NO_CACHE)
def measure(work: Work[TidesParameters]) -> JobResult:
    """The mean of all waves."""
    return work.job(MEASURE, TidesConfig(waves=work.parameters.waves), {})


@task(name="report", cache_policy=NO_CACHE)
def publish(work: Work[TidesParameters], result: JobResult) -> Notice:
    """End with the mean."""
    return end_with_notice(work, f"# Tides\\n\\nThe mean is {result.metrics['mean']}.\\n")
''',
    "jobs/tides/__init__.py": "",
    "jobs/tides/config.py": '''"""What the measuring of tides is told."""

from infra.contract import JobConfig


class TidesConfig(JobConfig):
    """How many waves."""

    waves: int
''',
    "jobs/tides/train.py": '''"""Measure a tide.

    python -m jobs.tides.train JOB_FOLDER
"""

from jobs.runtime import Job, Outcome, main
from jobs.tides.config import TidesConfig


def program(job: Job[TidesConfig]) -> Outcome:
    """The mean of waves 0, 1, 2 ... metres high."""
    return Outcome({"mean": (job.config.waves - 1) / 2})


if __name__ == "__main__":
    main(TidesConfig, program)
''',
    "tests/unit/deployments/options/tides.txt": "--max-cost\n--target\n--name\n--waves\n--hours\n",
}
EDITED = {
    "prefect.yaml": """
  - name: tides
    entrypoint: flows/tides.py:tides
    description: Measure the waves of a sea for a while and tell how high they are in the mean.
    tags: [sea]
    parameters: { parameters: {} }
    work_pool:
      name: local
""",
    "README.md": "",
}
"""What is added to files that are there."""
ROW = "| budgets by project and flow"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree with the capability."""
    folder = copy_tree(tmp_path_factory.mktemp("house"))
    for name, text in NEW.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name, text in EDITED.items():
        there = (folder / name).read_text()
        if name == "README.md":
            assert ROW in there
            there = there.replace(ROW, f"| the mean of a tide | works |\n{ROW}", 1)
        (folder / name).write_text(there + text)
    return folder


def within(house: Path, *command: str) -> str:
    """What a command prints in the copy, whose sources are gone when coverage is told."""
    untraced = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=house,
        env=untraced | {"PYTHONPATH": str(house)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_three_files_at_most_are_edited() -> None:
    assert len(EDITED) <= 3 and all((REPOSITORY / name).is_file() for name in EDITED)
    assert not any((REPOSITORY / name).exists() for name in NEW)


def test_the_checks_of_the_house_pass(house: Path) -> None:
    """The contracts, and the documents with the list of commands made anew."""
    within(
        house,
        "-c",
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())",
    )
    page = within(house, "-m", "deployments.reference")
    (house / "docs/commands.md").write_text(page)
    assert "run tides" in page
    tests = ["tests/unit/house/test_documents.py", "tests/unit/deployments/test_options.py"]
    within(house, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--confcutdir=tests/unit", *tests)


def test_it_is_planned_and_run(house: Path, user: User) -> None:
    user.source = house
    plan = user.json("run", "tides", "--plan")
    assert [step["step"] for step in plan["steps"]] == ["measure"]
    done = user.json("run", "tides", "--waves", "5", "--max-cost", "1")
    assert "The mean is 2.0." in Path(done["files"]["markdown"]).read_text()
    jobs = user.json("jobs", "list")
    assert [(job["key"].rpartition("/")[2], job["state"]) for job in jobs] == [
        ("measure", "succeeded")
    ]
    found = {one["check"]: one for one in json.loads(user.run("doctor", "--json")[1])}
    assert found["job environments"]["state"] in ("ok", "missing")
