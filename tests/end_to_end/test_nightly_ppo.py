"""What the README promises, with a model, prompts and a reward that the project never saw.

One user lives through two nights; every test looks at what they left.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.models.connection import client
from tests.helpers.notebook import notebook_cells
from tests.helpers.users import CYCLE, Shared, User, reachable_folder, settle_in

pytestmark = pytest.mark.timeout(900)
LONG = [*CYCLE, "--iterations", "20"]
"""Long enough for Ctrl-C to meet its training."""


@dataclass
class Nights:
    """What was told of a plan, of a night without money, of one that Ctrl-C ended, of the same
    command again, and of a second night."""

    user: User
    plan: dict[str, Any]
    denied: tuple[int, str, str]
    interrupted: tuple[int, str]
    first: dict[str, Any]
    second: tuple[int, str, str]


@pytest.fixture(scope="module")
def nights(unseen_model: Path, train_python: Path, shared: Shared) -> Iterator[Nights]:
    with reachable_folder() as folder:
        user = settle_in(folder, unseen_model, train_python, shared.settings())
        plan = user.json(*LONG, "--plan")
        assert user.json("jobs", "list") == [], "a plan launches nothing"
        user.run("budget", "set", "0")
        denied = user.run(*LONG)
        assert not list(user.home.glob("jobs/*")), "nothing was launched"
        user.run("budget", "set", "5")
        interrupted = interrupt(user, user.home / "jobs")
        first = user.json(*LONG)
        yield Nights(user, plan, denied, interrupted, first, user.run(*CYCLE))
        user.wait_until_nothing_runs()


def interrupt(user: User, jobs: Path) -> tuple[int, str]:
    """Ctrl-C in the training, as soon as it has a checkpoint: (exit code, stderr)."""
    process = user.start(*LONG)
    deadline = time.monotonic() + 400
    while not list(jobs.glob("*train*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    user.wait_until_nothing_runs()
    assert all(Decimal(budget["reserved"]) == 0 for budget in user.json("budget", "show"))
    return process.returncode, err


def test_a_plan_names_the_steps(nights: Nights) -> None:
    steps = [step["step"] for step in nights.plan["steps"]]
    assert steps == ["preflight", "collect", "train", "validate"]
    assert nights.plan["gate"]["max_kl_per_token"] == 100


def test_its_configuration_lies_beside_its_report_and_starts_the_same(nights: Nights) -> None:
    config = Path(nights.first["files"]["markdown"]).with_name("config.yaml")
    command = f"run nightly-ppo --config {config} --plan --json".split()
    code, out, err = nights.user.run_here(*command)
    assert code == 0, err
    assert json.loads(out) == nights.plan


def test_closed_budget_denies_before_launch(nights: Nights) -> None:
    code, _, err = nights.denied
    assert code == 3 and "nightshift budget set" in err


def test_ctrl_c_checkpoints_settles_and_the_same_command_goes_on(nights: Nights) -> None:
    code, err = nights.interrupted
    assert code == 130, err
    assert nights.first["resumed"]
    results = nights.user.home.glob(f"jobs/{nights.first['run']}-train*/result.json")
    assert [json.loads(result.read_text())["resumed_from"] >= 1 for result in results] == [True]


def test_the_first_night_promotes_its_candidate(nights: Nights) -> None:
    first = nights.first
    assert first["champion"] == "1" and first["candidate"] == "2"
    assert first["verdict"]["promote"], first["verdict"]
    assert first["verdict"]["confidence_interval"][0] > 0
    assert Path(first["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    assert "Version 2 is the new champion" in Path(first["files"]["markdown"]).read_text()
    champion = nights.user.home / "serving" / "words" / "champion"
    assert (champion / "adapter" / "adapter_config.json").is_file()


def test_the_second_night_starts_from_the_promoted_champion(nights: Nights) -> None:
    code, out, err = nights.second
    assert code == 0, out + err
    assert "champion (v2)" in out and "What it cost" in out


def test_its_curve_is_an_mlflow_run_that_ctrl_c_has_not_doubled(nights: Nights) -> None:
    with nights.user.acting():
        experiment = client().get_experiment_by_name("nightly-ppo")
        assert experiment is not None
        found = {
            run.data.tags["nightshift.run"]: run
            for run in client().search_runs([experiment.experiment_id])
        }
        mine = found[nights.first["run"]]
        history = client().get_metric_history(mine.info.run_id, "reward")
    steps = [point.step for point in history]
    assert steps == sorted(set(steps)) and steps[0] == 0
    assert mine.info.status == "FINISHED" and mine.data.params["ppo.iterations"] == "20"
    assert mine.data.metrics["held_out.reward"] == nights.first["scores"][0]["candidate"]
    folder = Path(nights.first["files"]["markdown"]).with_name("tensorboard")
    assert [file.name for file in folder.iterdir() if "tfevents" in file.name]


def test_the_report_tells_what_the_machine_was_used(nights: Nights) -> None:
    training = next(cost for cost in nights.first["costs"] if cost["job"] == "train")
    assert 0.1 < training["usage"]["cores"] < 16 and 0.1 < training["usage"]["memory_gb"] < 16
    assert "GB at its peak" in Path(nights.first["files"]["markdown"]).read_text()


def test_two_versions_are_compared_by_what_both_were_asked(nights: Nights) -> None:
    told = nights.user.json("models", "compare", "words@1", "words@2")
    reward = next(one for one in told["paired"] if one["name"] == "reward")
    assert reward["low"] <= reward["gain"] <= reward["high"] and told["prompts"] > 8
    first = nights.first["scores"][0]
    assert reward["gain"] == pytest.approx(first["gain"])
    code, out, err = nights.user.run_here("models", "compare", "words@1", "words@2")
    assert code == 0 and "words@2" in out and "Asked: " in out, err
    code, _, err = nights.user.run_here("models", "compare", "words@2", "words@2")
    assert code == 2 and "the same version" in err


def test_a_version_is_exported_merged_or_as_its_adapter(nights: Nights) -> None:
    user = nights.user
    told = user.json("models", "export", "words@2", "exported/merged")
    merged = Path(told["folder"])
    assert (merged / "config.json").is_file() and not list(merged.glob("*adapter*"))
    user.json("models", "export", "words@2", "exported/adapter", "--adapter")
    assert (user.folder / "exported/adapter/adapter/adapter_config.json").is_file()
    assert sorted(path.name for path in merged.parent.iterdir()) == ["adapter", "merged"]
    for wrong, says in (
        (["words@2", "exported/merged"], "is there already"),
        (["words@9", "new"], "has no '9'"),
        (["nobody", "new"], "there is no model"),
        (["words@1", "new", "--adapter"], "has none"),
    ):
        code, _, err = user.run_here("models", "export", *wrong)
        assert code == 2 and says in err and not (user.folder / "new").exists()


def test_models_are_listed_and_rolled_back(nights: Nights) -> None:
    aliases = {v["version"]: v["aliases"] for v in nights.user.json("models", "list", "words")}
    assert "champion" in (aliases["2"] + aliases["3"])
    before = next(version for version, told in aliases.items() if "previous" in told)
    assert before == ("1" if "champion" in aliases["2"] else "2")
    rolled = {v["version"]: v["aliases"] for v in nights.user.json("models", "rollback", "words")}
    assert "champion" in rolled[before]


def test_jobs_and_budget_say_the_same_sum(nights: Nights) -> None:
    user = nights.user
    jobs = user.json("jobs", "list")
    assert len(jobs) == 8 and {job["state"] for job in jobs} == {"succeeded"}
    spent = sum(Decimal(job["usd"]) for job in jobs)
    project = next(b for b in user.json("budget", "show") if b["scope"] == "project")
    assert Decimal(project["charged"]) == spent > 0
    assert Decimal(project["reserved"]) == 0
    assert user.json("jobs", "logs", jobs[0]["key"])["lines"]


@pytest.mark.long
def test_the_notebook_of_the_python_api_runs(lasting_user: User) -> None:
    user = lasting_user
    (user.folder / "my-model").symlink_to(user.folder / "model")
    (user.folder / "prompts.jsonl").write_text((user.folder / "words.jsonl").read_text())
    reward = (user.folder / "myrewards.py").read_text().replace("def vowels", "def reward")
    (user.folder / "rewards.py").write_text(reward)
    done = subprocess.run(
        [sys.executable, "-c", "\n\n".join(notebook_cells())],
        cwd=user.folder,
        env=user.environment() | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("preflight local 2.0 ")
    assert any(line.startswith("reward ") for line in lines)
    assert any(line.startswith("# mine: the night ") for line in lines)
    assert len([line for line in lines if line[:2] in ("1 ", "2 ") and "://" in line]) == 2
    assert "--prompts: there is no file nowhere.jsonl → " in lines[-1]


@pytest.mark.parametrize(
    ("change", "named", "code"),
    [
        ({"--model": "/no/such/model"}, "--model", 2),
        ({"--prompts": "broken.jsonl"}, "line 2", 2),
        ({"--prompts": "nowhere.jsonl"}, "--prompts", 2),
        ({"--reward": "no colon"}, "--reward", 2),
        ({"--reward": "myrewards:broken"}, "--reward", 7),
        ({"--max-cost": "0"}, "--max-cost", 2),
        ({"--max-cost": "0.0001"}, "could never begin", 2),
        ({"--target": "sky"}, "--target", 2),
        ({"--hours": "-1"}, "--hours", 2),
        ({"--accelerators": "H100:8"}, "GPUs", 6),
    ],
    ids=lambda value: (
        "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_bad_input_is_one_clear_error(lasting_user, cycle, change, named, code) -> None:
    user = lasting_user
    (user.folder / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    for option, value in change.items():
        if option in cycle:
            cycle[cycle.index(option) + 1] = value
        else:
            cycle += [option, value]
    exit_code, out, err = user.run_here(*cycle)
    assert exit_code == code, out + err
    assert named in err
    assert "→" in err and "Traceback" not in err
    budgets = json.loads(user.run_here("budget", "show", "--json")[1])
    assert all(Decimal(budget["reserved"]) == 0 for budget in budgets)


def test_unreachable_database_is_one_clear_error(lasting_user, cycle) -> None:
    url = "postgresql://u:hunter2@127.0.0.1:1/nightshift"
    user = User(lasting_user.folder, lasting_user.settings | {"NIGHTSHIFT_DATABASE_URL": url})
    code, out, err = user.run(*cycle)
    assert code == 4
    assert "NIGHTSHIFT_DATABASE_URL" in err and "hunter2" not in out + err
