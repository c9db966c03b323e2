"""A surrogate from nothing to its second version, asked by file, by line and over HTTP.

One owner trains twice; every test looks at what that left.
"""

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from infra.compute.environments import ensure
from infra.settings import REPOSITORY, settings
from jobs.surrogate.config import DESIGN, OUTPUTS, WEATHER
from tests.helpers.users import Shared, User, make_home, reachable_folder

pytestmark = pytest.mark.timeout(900)

RETRAINING = "run surrogate-retraining --name mine --preset surrogate-test".split()
COMPILED = REPOSITORY / "build" / "numba"
"""Where `make test` has numba keep what it compiles."""
MIDDLE = {q.name: (q.low + q.high) / 2 for q in DESIGN + WEATHER}


@dataclass
class Trainings:
    """What was told of a plan, of a question to a champion that was not there yet, of a training
    that was killed and the same command again, of one without anything new, and of one that
    learned from measurements."""

    user: User
    plan: dict[str, Any]
    too_early: tuple[int, str, str]
    first: dict[str, Any]
    idle: dict[str, Any]
    second: dict[str, Any]

    @property
    def champion(self) -> str:
        return "2" if self.second["verdict"]["promote"] else "1"


@pytest.fixture(scope="session")
def surrogate_python() -> Path:
    settings.cache_clear()
    return ensure("surrogate")


@pytest.fixture(scope="module")
def trainings(surrogate_python: Path, shared: Shared) -> Iterator[Trainings]:
    with reachable_folder() as folder:
        user = make_home(folder, surrogate_python, shared.settings())
        measure(surrogate_python, folder / "measured", 20)
        # what that compiled the jobs would compile again, for a minute
        shutil.copytree(COMPILED, user.home / "caches" / "surrogate" / "numba")
        plan = user.json(*RETRAINING, "--plan")
        early = user.run("predict", "surrogate", "--name", "mine", "--input", "x.csv")
        first = kill_in_training_and_go_on(user)
        idle = user.json(*RETRAINING, "--retrain", "needed")
        second = user.json(*RETRAINING, "--observations", "measured")
        yield Trainings(user, plan, early, first, idle, second)
        user.wait_until_nothing_runs()


def kill_in_training_and_go_on(user: User) -> dict[str, Any]:
    """Kill the flow as soon as its training has a checkpoint; what the same command then told."""
    process = user.start(*RETRAINING)
    deadline = time.monotonic() + 240
    while not list((user.home / "jobs").glob("*-train-*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    return user.json(*RETRAINING)


@pytest.fixture(scope="module")
def careless_owner(surrogate_python: Path, shared: Shared) -> Iterator[User]:
    """One user, and so one database, for many wrong inputs."""
    with reachable_folder() as folder:
        yield make_home(folder, surrogate_python, shared.settings())


def measure(python: Path, folder: Path, count: int) -> None:
    command = [python, "-m", "tests.helpers.measuring", folder, str(count)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(COMPILED)}
    subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)


def lines(*designs: dict) -> str:
    return "".join(json.dumps(design) + "\n" for design in designs)


def post(port: int, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/surrogate/evaluate",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own server
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def test_before_there_is_a_champion(trainings: Trainings) -> None:
    steps = [step["step"] for step in trainings.plan["steps"]]
    assert steps == ["drift (with new observations)", "simulate", "train", "validate"]
    code, _, err = trainings.too_early
    assert code == 2 and "has no champion" in err


def test_a_killed_first_training_goes_on(trainings: Trainings) -> None:
    first = trainings.first
    assert first["resumed"] and first["verdict"]["promote"], first["verdict"]
    assert (first["champion"], first["candidate"]) == ("handbook", "1")
    keys = [job["key"].partition("/") for job in trainings.user.json("jobs", "list")]
    mine = sorted(step for run, _, step in keys if run == first["run"])
    assert mine == ["simulate", "train", "validate"], "nothing was done twice"
    assert Path(first["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    told = Path(first["files"]["markdown"]).read_text()
    assert "Version 1 is the new champion" in told
    sure = first["verdict"]["confidence_interval"][0] > 0
    assert ("of held-out accuracy cost" in told) == sure
    assert "covered" in told and "Where it errs most" in told


def test_the_second_training_learns_from_measurements(trainings: Trainings) -> None:
    second = trainings.second
    assert second["champion"] == "1" and second["candidate"] == "2"
    assert second["collected"]["observed building-years"] == 20
    assert second["collected"]["of them replayed from earlier trainings"] > 0
    how = second["sections"]["How it was trained"]
    assert "2 members went on from the champion" in how
    assert "Drift: on the 20 newest observations" in how
    assert "observed buildings it errs" in how and "of earlier climates" in how
    versions = trainings.user.json("models", "list", "mine")
    assert versions[0]["parent"] == "1"
    assert bool(versions[0]["aliases"]) == second["verdict"]["promote"]


def test_nothing_is_learned_where_nothing_is_new(trainings: Trainings) -> None:
    assert trainings.idle["nothing_to_learn"], "there is a champion and nothing is new"


def test_it_answers_from_a_file_and_from_lines(trainings: Trainings) -> None:
    """With flags for rows and one clear error for a broken one."""
    user = trainings.user
    designs = [MIDDLE, MIDDLE | {"gains": 60.0}]
    with (user.folder / "designs.csv").open("w") as stream:
        table = csv.DictWriter(stream, list(MIDDLE))
        table.writeheader()
        table.writerows(designs)
    code, out, err = user.run("predict", "surrogate", "--name", "mine", "--input", "designs.csv")
    assert code == 0, err
    answers = list(csv.DictReader(io.StringIO(out)))
    flags = [answer["outside"] for answer in answers]
    assert flags == ["weather", "gains weather"], "the middle of all ranges is no weather"
    for name in OUTPUTS:
        low, mean, high = (float(answers[0][name + end]) for end in ("_low", "", "_high"))
        assert low <= mean <= high
    asked = subprocess.run(
        [sys.executable, "-m", "deployments.cli", *"predict surrogate --name mine --stdin".split()],
        cwd=user.folder,
        env=user.environment() | {"PYTHONPATH": str(REPOSITORY)},
        input=lines(*designs),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert asked.returncode == 0, asked.stderr
    found = [json.loads(line) for line in asked.stdout.splitlines()]
    assert found[0]["loss"] == pytest.approx(float(answers[0]["loss"]), rel=1e-3)
    (user.folder / "broken.jsonl").write_text(lines(MIDDLE, MIDDLE | {"width": -3}))
    code, _, err = user.run("predict", "surrogate", "--name", "mine", "--input", "broken.jsonl")
    assert code == 2 and "row 2: width is -3" in err and "Traceback" not in err


def test_designs_are_searched_with_the_champion(trainings: Trainings) -> None:
    """A population search, its points simulated, told and drawn."""
    user = trainings.user
    search = "run surrogate-optimisation --name mine --population 12 --generations 4 --checked 2"
    notice = user.json(*search.split(), "--max-cost", "1")
    told = Path(notice["files"]["markdown"]).read_text()
    assert "| trusting |" in told and "| risk-averse |" in told and "Fear of risk" in told
    assert Path(notice["files"]["fronts"]).read_bytes().startswith(b"\x89PNG")
    code, _, err = user.run(*"run surrogate-optimisation --name nobody".split())
    assert code == 2 and "'nobody' has no champion" in err and "→" in err


def test_it_is_served_over_http(trainings: Trainings) -> None:
    """The best of a population, and a 4xx for what is wrong."""
    user, version = trainings.user, trainings.champion
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = user.start("serve", "surrogate", "--name", "mine", "--port", str(port))
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
        leaky = MIDDLE | {"infiltration": 1.5, "wall_u": 1.8}
        status, answer = post(port, {"designs": [leaky, MIDDLE], "risk_aversion": 2})
        assert status == 200 and answer["version"] == f"mine {version}"
        assert answer["best"] == 1 and len(answer["standard_deviation"][0]) == len(OUTPUTS)
        assert answer["fitness"][1] > answer["fitness"][0]
        status, answer = post(port, {"designs": [MIDDLE | {"depth": -1}]})
        assert status == 422 and "row 1: depth is -1" in answer["error"] and answer["remedy"]
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_jobs_and_budget_say_the_same_sum(trainings: Trainings) -> None:
    spent = sum(Decimal(job["usd"]) for job in trainings.user.json("jobs", "list"))
    budgets = trainings.user.json("budget", "show")
    project = next(b for b in budgets if b["scope"] == "project")
    assert Decimal(project["charged"]) == spent > 0
    assert Decimal(project["reserved"]) == 0


@pytest.mark.parametrize(
    ("spoil", "given", "named", "code"),
    [
        (None, {"--weather": "nowhere.epw"}, "--weather", 2),
        (None, {"--max-cost": "0.0001"}, "could never begin", 2),
        ("torn.epw", {"--weather": "torn.epw"}, "--weather: torn.epw, line 1", 2),
        ("few", {"--observations": "few"}, "few holds 1 observations", 2),
    ],
)
def test_bad_input_is_one_clear_error_and_nothing_is_trained(
    careless_owner: User, spoil, given, named, code
) -> None:
    user = careless_owner
    if spoil == "torn.epw":
        (user.folder / spoil).write_text("LOCATION,Nowhere\n1,2,3\n")
    if spoil == "few":
        (user.folder / spoil).mkdir()
        (user.folder / spoil / "house.csv").write_text("time\n2023\n")
    options = [word for pair in given.items() for word in pair]
    exit_code, out, err = user.run_here(*RETRAINING, *options)
    assert exit_code == code, out + err
    assert named in err
    assert "→" in err and "Traceback" not in err
    jobs = json.loads(user.run_here("jobs", "list", "--json")[1])
    done = [job for job in jobs if job["key"].endswith(("/simulate", "/train"))]
    assert all(Decimal(job["usd"]) == 0 for job in done), "nothing of it was paid for"
    budgets = json.loads(user.run_here("budget", "show", "--json")[1])
    assert all(Decimal(budget["reserved"]) == 0 for budget in budgets)
