"""From feedback to a better policy, with a model and a reward that the project never saw.

One user trains; every test looks at what that left, and the long ones train once more.
"""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.preferences import TRAINING, vowels_win, write
from tests.helpers.users import Shared, User, reachable_folder, settle_in

pytestmark = pytest.mark.timeout(900)

FIRST = [*TRAINING, "--epochs", "6", "--checkpoint-interval", "2"]
"""Long enough for Ctrl-C to meet its training."""
AT = TRAINING.index("--reward")
WITHOUT_REWARD = TRAINING[:AT] + TRAINING[AT + 2 :]
JUDGE = """
def vowels(prompts, first, second, **columns):
    def share(text):
        return sum(c in "aeiou" for c in text) / max(1, len(text))
    return [1.0 if share(a) > share(b) else 0.5 if share(a) == share(b) else 0.0
            for a, b in zip(first, second)]
"""


@dataclass
class Trainings:
    """What was told of a plan, of a dataset, of a training that Ctrl-C ended, and of the same
    command again."""

    user: User
    plan: dict[str, Any]
    made: dict[str, Any]
    interrupted: tuple[int, str]
    first: dict[str, Any]

    def of_what_was_made(self, *options: str) -> dict[str, Any]:
        """The report of a training on the dataset that was made before, and is not made again."""
        dataset = self.made["dataset"]["uri"]
        command = [dataset if word == "pairs.jsonl" else word for word in WITHOUT_REWARD]
        made = self.steps().count("preferences")
        report = self.user.json(*command, *options)
        assert self.steps().count("preferences") == made
        return report

    def steps(self) -> list[str]:
        """Of all jobs until now."""
        return [job["key"].partition("/")[2] for job in self.user.json("jobs", "list")]


@pytest.fixture(scope="module")
def trainings(unseen_model: Path, train_python: Path, shared: Shared) -> Iterator[Trainings]:
    with reachable_folder() as folder:
        user = settle_in(folder, unseen_model, train_python, shared.settings())
        write(folder / "pairs.jsonl", vowels_win())
        (folder / "judge.py").write_text(JUDGE)
        plan = user.json(*FIRST, "--plan")
        made = user.json("run", "build-preferences", "--name", "words", "--dataset", "pairs.jsonl")
        interrupted = interrupt(user)
        first = user.json(*FIRST)
        yield Trainings(user, plan, made, interrupted, first)
        user.wait_until_nothing_runs()


def interrupt(user: User) -> tuple[int, str]:
    """Ctrl-C in the training, as soon as it has a checkpoint: (exit code, stderr)."""
    process = user.start(*FIRST)
    deadline = time.monotonic() + 400
    while not list(user.home.glob("jobs/*-train-*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    user.wait_until_nothing_runs()
    return process.returncode, err


def test_a_plan_names_the_steps(trainings: Trainings) -> None:
    steps = [step["step"] for step in trainings.plan["steps"]]
    assert steps == ["preferences", "preflight", "train", "validate"]


def test_ctrl_c_checkpoints_and_the_same_command_goes_on(trainings: Trainings) -> None:
    code, err = trainings.interrupted
    assert code == 130, err
    assert trainings.first["resumed"]
    results = trainings.user.home.glob(f"jobs/{trainings.first['run']}-train-*/result.json")
    assert [json.loads(result.read_text())["resumed_from"] >= 2 for result in results] == [True]


def test_a_training_and_what_it_leaves(trainings: Trainings) -> None:
    report = trainings.first
    assert report["verdict"]["promote"], report["verdict"]
    assert report["verdict"]["confidence_interval"][0] > 0
    assert (report["champion"], report["candidate"]) == ("1", "2")
    names = [score["name"] for score in report["scores"]]
    assert names == ["reward", "pairs by reward", "pairs by likelihood"]
    assert report["scores"][1]["candidate"] > 0.9
    text = Path(report["files"]["markdown"]).read_text()
    for words in ("Version 2 is the new champion", "win", "at equal length", "The data", "KL"):
        assert words in text
    assert Path(report["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    adapter = trainings.user.home / "serving" / "words" / "champion" / "adapter"
    assert (adapter / "adapter_config.json").is_file()


@pytest.mark.long
def test_a_model_trained_on_the_pairs_judges_where_nothing_else_does(trainings: Trainings) -> None:
    report = trainings.of_what_was_made("--max-steps", "2")
    assert report["champion"] == "2"
    assert "judge" in [cost["job"] for cost in report["costs"]]
    assert report["scores"][0]["name"] == "reward"


@pytest.mark.long
def test_a_judge_of_the_users_decides(trainings: Trainings) -> None:
    report = trainings.of_what_was_made("--name", "others", "--judge", "judge.py:vowels")
    assert report["verdict"]["promote"], report["verdict"]
    assert "of the held-out prompts" in report["sections"]["Against the champion"]
    assert "judge" not in [cost["job"] for cost in report["costs"]]


def test_jobs_and_budget_say_the_same_sum(trainings: Trainings) -> None:
    spent = sum(Decimal(job["usd"]) for job in trainings.user.json("jobs", "list"))
    budgets = trainings.user.json("budget", "show")
    project = next(b for b in budgets if b["scope"] == "project")
    assert Decimal(project["charged"]) == spent > 0
    assert Decimal(project["reserved"]) == 0
