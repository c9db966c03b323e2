"""Flows through the Prefect server of a server's `nightshift up`, followed from another folder."""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml

from infra.keeper import free_port
from infra.settings import REPOSITORY
from tests.helpers.users import User, reachable_folder, settle_in

pytestmark = pytest.mark.timeout(900)
AUTH = "admin:of-the-tests"
PROGRAM = "jobs.dpo.build"


def pairs(count: int) -> str:
    """So many preferences as JSON lines."""
    row = '{{"prompt": "word {0}: ", "chosen": "aeiou {0}", "rejected": "xkcd {0}"}}\n'
    return "".join(row.format(n) for n in range(count))


@contextmanager
def prefect_server(folder: Path, postgres: str) -> Iterator[dict[str, str]]:
    """A Prefect server as infra/server/compose.yaml has it, with CSRF protection as well; what its
    users have to know."""
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE served_prefect")
    port = free_port()
    given = {
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres.format("served_prefect").replace(
            "postgresql:", "postgresql+asyncpg:"
        ),
        "PREFECT_SERVER_API_AUTH_STRING": AUTH,
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(folder / "prefect"),
    }
    compose = yaml.safe_load((REPOSITORY / "infra" / "server" / "compose.yaml").read_text())
    assert given.keys() == compose["services"]["prefect"]["environment"].keys()
    with (folder / "prefect.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env=os.environ | given | {"PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"},
            stdout=log,
            stderr=log,
        )
    api = f"http://127.0.0.1:{port}/api"
    try:
        deadline = time.monotonic() + 180
        while not answers(f"{api}/health"):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        yield {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": AUTH}
    finally:
        process.terminate()
        process.wait(timeout=60)
        with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
            for name in ("served_prefect", "served"):
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5, auth=tuple(AUTH.split(":"))).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def served(postgres: str, unseen_model: Path, train_python: Path) -> Iterator[User]:
    """A user of a server: PostgreSQL by URL, Prefect behind its auth string, `nightshift up`."""
    with reachable_folder() as folder, prefect_server(folder, postgres) as prefect:
        user = settle_in(folder, unseen_model, train_python)
        user.settings |= prefect | {
            "NIGHTSHIFT_DATABASE_URL": postgres.format("served"),
            "NIGHTSHIFT_GATEWAY_HOST": "0.0.0.0",  # noqa: S104 - as in the files of a server
            "NIGHTSHIFT_TRUSTED_PROXIES": "127.0.0.0/8",
        }
        (folder / "pairs.jsonl").write_text(pairs(160))
        (folder / "many.jsonl").write_text(pairs(2_000))
        told = user.json("up", "--detach")
        try:
            assert told["ui"] + "/api" == prefect["PREFECT_API_URL"]
            end_scheduled_sweeps(user)
            yield user
        finally:
            user.json("down")
        assert answers(f"{prefect['PREFECT_API_URL']}/health"), "it is not ours to end"


def api(user: User, method: str, path: str, content: object = None) -> httpx.Response:
    url, client = user.settings["PREFECT_API_URL"], {"client": "tests"}
    with httpx.Client(timeout=30, auth=tuple(AUTH.split(":"))) as server:
        token = server.get(f"{url}/csrf-token", params=client).json()["token"]
        headers = {"Prefect-Csrf-Client": "tests", "Prefect-Csrf-Token": token}
        return server.request(method, f"{url}/{path}", json=content, headers=headers)


def end_scheduled_sweeps(user: User) -> None:
    """Only the tests sweep from now on: what a scheduled sweep has told is not told again."""
    guard = api(user, "GET", "deployments/name/cost-guard/cost-guard").json()
    (schedule,) = guard["schedules"]
    path = f"deployments/{guard['id']}/schedules/{schedule['id']}"
    assert api(user, "PATCH", path, {"active": False}).is_success
    of_guard = {"deployments": {"id": {"any_": [guard["id"]]}}}
    while any(
        run["state"]["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        for run in api(user, "POST", "flow_runs/filter", of_guard).json()
    ):
        time.sleep(0.2)


def test_a_run_is_followed_to_its_report(served: User) -> None:
    command = "submit build-preferences --name words --dataset pairs.jsonl --wait".split()
    told = served.json(*command)
    assert told["name"] == "build-preferences words, dataset pairs.jsonl"
    assert told["state"] == "Completed"
    assert "pairs" in told["report"]
    run = api(served, "GET", f"flow_runs/{told['id']}").json()
    given = run["parameters"]["parameters"]
    assert given == {"name": "words", "dataset": f"{served.folder}/pairs.jsonl"}, (
        "the worker is elsewhere"
    )
    shown = httpx.get(told["url"], headers={"accept": "text/html"})
    assert told["id"] in told["url"] and "Prefect" in shown.text

    command[3] = "others"
    code, out, err = served.run(*command)
    assert code == 0 and "pairs" in out, out + err
    assert "Running" in err and "beginning build-preferences-" in err, err
    assert "pull step" not in err and "Traceback" not in err, err


def test_failures_have_the_exit_codes_of_run(served: User) -> None:
    wrong = "build-preferences --dataset nowhere.jsonl".split()
    here, _, said = served.run("run", *wrong)
    there, out, err = served.run("submit", *wrong, "--wait", "--json")
    assert here == there == 2, err
    assert json.loads(out)["error"] == "InputError" and json.loads(out)["message"] in said
    assert "Traceback" not in err
    ended = {"flow_runs": {"state": {"name": {"any_": ["Refused"]}}}}
    assert len(api(served, "POST", "flow_runs/filter", ended).json()) >= 2, "nobody is woken"
    code, _, err = served.run_here("submit", "build-preferences", "--data-hours", "0")
    assert code == 2 and "--data-hours" in err


def test_doctor_finds_everything_up_among_many_of_others(served: User) -> None:
    flow = api(served, "POST", "flows/", {"name": "of somebody else"}).json()["id"]
    for number in range(200):  # as many as the server gives at once
        other = {"name": f"a {number}", "flow_id": flow}
        assert api(served, "POST", "deployments/", other).is_success
    found = {one["check"]: one for one in served.json("doctor")}
    for check in ("Python", "database", "Prefect", "webhooks", "budget", "object store"):
        assert found[check]["state"] == "ok", found[check]


def test_on_a_network_both_doors_are_locked(served: User) -> None:
    url = served.settings["PREFECT_API_URL"]
    assert httpx.get(f"{url}/deployments/name/cost-guard/cost-guard").status_code == 401
    rows = {row["service"]: row for row in served.json("status")}
    assert set(rows) == {"worker", "gateway"} and all(row["running"] for row in rows.values())
    gateway = rows["gateway"]["where"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    assert httpx.get(f"{gateway}/health").json() is True
    assert httpx.post(f"{gateway}/hooks/nightly-ppo").status_code == 401
    served.settings["PREFECT_API_AUTH_STRING"] = "admin:wrong"
    try:
        code, _, err = served.run_here("submit", "cost-guard")
        assert code == 4 and "PREFECT_API_AUTH_STRING" in err and "Traceback" not in err, err
        code, out, _ = served.run("doctor")
        assert code == 4 and "PREFECT_API_AUTH_STRING" in out.replace("\n", "")
    finally:
        served.settings["PREFECT_API_AUTH_STRING"] = AUTH


def test_ctrl_c_leaves_the_run_going_and_says_how_to_stop_it(served: User) -> None:
    command = "submit build-preferences --name other --dataset many.jsonl --wait".split()
    process = served.start(*command)
    assert process.stdout is not None and process.stderr is not None
    url = process.stdout.readline().split()[-1]
    while "Running" not in process.stderr.readline():
        assert process.poll() is None
    path = f"flow_runs/{url.rpartition('/')[2]}"
    with served.held(PROGRAM):
        process.send_signal(2)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130 and "The run goes on" in err and "goes on where" not in err
        assert api(served, "GET", path).json()["state"]["type"] == "RUNNING"
        stop = err.partition("→ ")[2].partition(" stops it")[0]
        variable, *words = shlex.split(stop)
        name, _, value = variable.partition("=")
        environment = served.environment() | {name: value}
        subprocess.run(words, env=environment, check=True, timeout=60)
    deadline = time.monotonic() + 60
    while (state := api(served, "GET", path).json()["state"]["type"]) != "CANCELLED":
        assert time.monotonic() < deadline and state in ("RUNNING", "CANCELLING"), state
        time.sleep(0.2)
    (project,) = served.json("budget", "show")
    assert float(project["reserved"]) == 0, "its job is stopped and settled"


def test_a_run_killed_with_whoever_started_it_is_crashed_in_the_ui(served: User) -> None:
    command = "build-preferences --name killed --dataset many.jsonl".split()

    def state() -> dict[str, str]:
        name = {"flow_runs": {"name": {"like_": "build-preferences killed"}}}
        (found,) = api(served, "POST", "flow_runs/filter", name).json()
        return found["state"]

    process = served.start("run", *command)
    with served.held(PROGRAM):
        process.kill()
        process.communicate()
        assert state()["type"] == "RUNNING"
        assert any("has crashed" in line for line in served.json("run", "cost-guard")["done"])
        assert state()["type"] == "CRASHED"
        assert "Start build-preferences once more" in state()["message"]
        (running,) = served.json("jobs", "list", "--running")
    served.json("jobs", "stop", running["key"])
    assert not any("has crashed" in line for line in served.json("run", "cost-guard")["done"])


@pytest.mark.long
def test_a_run_killed_before_it_has_begun_is_crashed_in_the_ui(served: User) -> None:
    process = served.start("run", "cost-guard")
    files = served.home / "flow-runs"
    there = set(files.glob("*.lock"))
    while not (mine := set(files.glob("*.lock")) - there):
        assert process.poll() is None
    process.kill()
    process.communicate()
    path = f"flow_runs/{mine.pop().stem}"
    assert api(served, "GET", path).json()["state"]["type"] == "RUNNING"
    crashed = "flow run cost-guard: its process was killed; it has crashed"
    assert crashed in served.json("run", "cost-guard", "--dry-run")["done"]
    assert crashed in served.json("run", "cost-guard")["done"]
    assert api(served, "GET", path).json()["state"]["type"] == "CRASHED"
    assert not [file for file in files.iterdir() if file.stem in path], "it is told once"


SWEEP = """
from datetime import timedelta
from infra import database
from tasks.runs import crashed
crashed.PENDING = timedelta(0)
print(crashed.report_crashes(database.pool(), False))
"""


@pytest.mark.long
def test_a_run_that_nobody_began_is_run_and_one_killed_here_is_crashed(served: User) -> None:
    deployment = api(served, "GET", "deployments/name/cost-guard/cost-guard").json()
    pending = {"state": {"type": "PENDING"}, "name": "left behind"}
    path = f"deployments/{deployment['id']}/create_flow_run"
    left = api(served, "POST", path, pending).json()
    later = {"scheduled_time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
    waiting = {"state": {"type": "SCHEDULED", "state_details": later}}
    early = api(served, "POST", path, waiting | {"name": "without a server"}).json()
    begun = api(served, "POST", path, waiting | {"name": "had begun"}).json()
    for run, kind in ((begun, "RUNNING"), (begun, "CRASHED"), (early, "CRASHED")):
        state_of = {"state": {"type": kind}, "force": True}
        api(served, "POST", f"flow_runs/{run['id']}/set_state", state_of)
    here = {"flow_id": deployment["flow_id"], "tags": ["run"], **pending, "name": "killed here"}
    killed = api(served, "POST", "flow_runs/", here).json()
    strange = api(served, "POST", "flow_runs/", here | {"tags": [], "name": "strange"}).json()
    another = api(served, "POST", "flows/", {"name": "of-somebody-else"}).json()
    theirs = api(served, "POST", "flow_runs/", here | {"flow_id": another["id"]}).json()
    environment = served.environment() | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", SWEEP], env=environment, check=True, timeout=60)

    def state(run: dict[str, str]) -> str:
        return api(served, "GET", f"flow_runs/{run['id']}").json()["state"]["type"]

    assert state(killed) == "CRASHED"
    assert state(strange) == "PENDING" and state(theirs) == "PENDING"
    deadline = time.monotonic() + 60
    while {state(left), state(early)} != {"COMPLETED"}:
        assert time.monotonic() < deadline, (state(left), state(early))
        time.sleep(0.3)
    assert state(begun) == "CRASHED"
    api(served, "POST", f"flow_runs/{early['id']}/set_state", state_of)
    swept = subprocess.run(
        [sys.executable, "-c", SWEEP], env=environment, check=True, capture_output=True, timeout=60
    )
    assert b"without a server" not in swept.stdout and state(early) == "CRASHED"


def test_without_server_deployment_or_worker_it_says_what_to_do(served: User, alone: User) -> None:
    code, _, err = alone.run_here("submit", "cost-guard")
    assert code == 4 and "nightshift up" in err and "Traceback" not in err
    alone.settings["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    code, _, err = alone.run_here("submit", "cost-guard")
    assert code == 4 and "does not answer" in err and "Traceback" not in err
    row = api(served, "GET", "deployments/name/nightly-ppo/nightly-ppo").json()
    api(served, "DELETE", f"deployments/{row['id']}")
    code, _, err = served.run_here("submit", "nightly-ppo")
    assert code == 4 and "no deployment of nightly-ppo" in err and "nightshift up" in err
    api(served, "PATCH", "work_pools/local", {"is_paused": True})
    code, _, err = served.run_here("submit", "cost-guard")
    assert code == 4 and "PAUSED" in err
    api(served, "PATCH", "work_pools/local", {"is_paused": False})
