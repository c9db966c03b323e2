"""Tenants train together: a run that is killed and goes on, a private one, one with nothing left.

One owner runs three times; every test looks at what that left.
"""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest

from infra.compute.environments import ensure
from infra.settings import settings
from tasks.federated.demo import make_tenants
from tests.helpers.users import Shared, User, make_home, reachable_folder

pytestmark = pytest.mark.timeout(900)

ROUNDS = (
    "run federated-rounds --name ours --tenants tenants --rounds 2 --minimum-tenants 2"
    " --hours 0.2 --max-cost 1 --minimum-gain -0.5 --max-tenant-loss 1"
).split()
PRIVATE = [*ROUNDS, "--noise-multiplier", "8", "--max-epsilon", "1"]


@dataclass
class Nights:
    """What was told of a plan, of a first night whose job was killed, of a private second one, and
    of a third for which no privacy was left."""

    user: User
    plan: dict[str, Any]
    first: dict[str, Any]
    private: dict[str, Any]
    spent: tuple[int, str, str]


@pytest.fixture(scope="module")
def nights(shared: Shared) -> Iterator[Nights]:
    settings.cache_clear()
    python = ensure("federated")
    with reachable_folder() as folder:
        user = make_home(folder, python, shared.settings())
        make_tenants(folder / "made")
        (folder / "tenants").mkdir()
        for name in ("north", "west"):
            (folder / "made" / name).rename(folder / "tenants" / name)
        plan = json.loads(user.run_here(*ROUNDS, "--plan", "--json")[1])
        first = kill_and_go_on(user)
        code, out, err = user.run_here(*PRIVATE, "--json")
        assert code == 0, out + err
        private = json.loads(out)
        spent = user.run_here(*PRIVATE, "--max-epsilon", "0.8")
        yield Nights(user, plan, first, private, spent)
        user.wait_until_nothing_runs()


def kill_and_go_on(user: User) -> dict[str, Any]:
    """Kill the flow, its watchdog's job and all nodes after round 1; the same command then."""
    process = user.start(*ROUNDS)
    deadline = time.monotonic() + 240
    while not list((user.home / "jobs").glob("*-train-*/checkpoints/step-*")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=60)
    for program in user.processes("jobs.federated.train"):
        try:
            os.kill(program.pid, signal.SIGKILL)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return user.json(*ROUNDS)


def test_the_plan_names_its_job(nights: Nights) -> None:
    assert [step["step"] for step in nights.plan["steps"]] == ["train"]
    assert nights.plan["steps"][0]["launcher"] == "local"


def test_a_killed_night_goes_on_at_its_last_round(nights: Nights) -> None:
    first = nights.first
    assert first["resumed"] and first["verdict"]["promote"], first["verdict"]
    assert first["champion"] == "local only" and first["candidate"] == "1"
    (folder,) = (nights.user.home / "jobs").glob(f"{first['run']}-train-*")
    result = json.loads((folder / "result.json").read_text())
    assert result["resumed_from"] >= 1
    assert first["collected"]["tenants that judged"] == 2
    told = Path(first["files"]["markdown"]).read_text()
    assert "By tenant" in told and "No differential privacy" in told
    assert "| measure | local only | champion (local only) | candidate (v1) |" in told
    assert Path(first["files"]["plot"]).read_bytes().startswith(b"\x89PNG")
    served = Path(first["served_from"])
    assert (served / "weights.npz").is_file() and (served / "model.json").is_file()


def test_no_row_is_stored_anywhere(nights: Nights) -> None:
    """Neither in the object store nor in a job's folder: the tenants' own folders have them."""
    user = nights.user
    row = (user.folder / "tenants" / "west" / "data.csv").read_bytes().splitlines()[1]
    for path in user.home.rglob("*"):
        if path.is_file() and not path.is_symlink() and "environments" not in path.parts:
            assert row not in path.read_bytes(), path


def test_the_second_night_goes_on_from_the_champion(nights: Nights) -> None:
    private = nights.private
    assert private["champion"] == "1" and private["candidate"] == "2"
    told = Path(private["files"]["markdown"]).read_text()
    assert "| north | 2 | 0." in told and "over all nights" in told


def test_a_night_for_which_no_privacy_is_left_is_refused_before_its_job(nights: Nights) -> None:
    code, out, err = nights.spent
    assert code == 2 and "--max-epsilon: 0 of 2 tenants have privacy left" in err, out + err
    assert re.search(r"exceeds 0\.8 for north \d\.\d\d; west \d\.\d\d", err), err
    failed = nights.user.json("runs", "list")[0]
    assert failed["state"] == "failed" and "--max-epsilon" in failed["error"]
    assert failed["usd"] == "0.0000"


def test_jobs_and_budget_say_the_same_sum(nights: Nights) -> None:
    user = nights.user
    spent = sum(Decimal(job["usd"]) for job in user.json("jobs", "list"))
    project = next(b for b in user.json("budget", "show") if b["scope"] == "project")
    assert Decimal(project["charged"]) == spent > 0
    assert Decimal(project["reserved"]) == 0


def test_a_plan_tells_what_a_run_spends_of_privacy(nights: Nights) -> None:
    code, plan, err = nights.user.run_here(*ROUNDS, "--noise-multiplier", "20", "--plan", "--json")
    assert code == 0, err
    told = re.search(r"epsilon (\d+\.\d\d) by this run, epsilon 8 at most", plan)
    assert told and 0 < float(told[1]) < 2


@pytest.mark.parametrize(
    ("given", "named", "code"),
    [
        (["--tenants", "nowhere"], "--tenants", 2),
        (["--label", "nothing"], "--label", 2),
        (["--max-cost", "0.0001"], "could never begin", 2),
        (["--ranges", "nosuch=0:1"], "--ranges: nosuch is none of the columns", 2),
        (["--features", "marker_01"], "--features: the champion was trained on", 2),
        (["--hidden", "4"], "--hidden: the champion has 0", 2),
    ],
)
def test_bad_input_is_one_clear_error(
    nights: Nights, given: list[str], named: str, code: int
) -> None:
    exit_code, out, err = nights.user.run_here(*ROUNDS, *given)
    assert exit_code == code, out + err
    assert named in err and "→" in err and "Traceback" not in err
