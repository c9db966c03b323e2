"""Flows through the Prefect server of a `nightshift up`, followed from another folder."""

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.users import User, reachable_folder, settle_in

pytestmark = pytest.mark.timeout(900)


def pairs(count: int) -> str:
    """So many preferences as JSON lines."""
    row = '{{"prompt": "word {0}: ", "chosen": "aeiou {0}", "rejected": "xkcd {0}"}}\n'
    return "".join(row.format(n) for n in range(count))


@pytest.fixture(scope="module")
def served(unseen_model: Path, train_python: Path) -> Iterator[User]:
    """A user whose `nightshift up` runs, with a file of pairs."""
    with reachable_folder() as folder:
        user = settle_in(folder, unseen_model, train_python)
        user.settings["NIGHTSHIFT_GATEWAY_PORT"] = "0"
        (folder / "pairs.jsonl").write_text(pairs(160))
        (folder / "many.jsonl").write_text(pairs(200_000))
        user.settings["UI"] = user.json("up", "--detach")["ui"]
        try:
            yield user
        finally:
            user.json("down")
        user.wait_until_nothing_runs()


def api(user: User, method: str, path: str, content: object = None) -> httpx.Response:
    return httpx.request(method, f"{user.settings['UI']}/api/{path}", json=content, timeout=30)


def test_a_run_is_followed_to_its_report(served: User) -> None:
    command = "submit build-preferences --name words --dataset pairs.jsonl --wait".split()
    told = served.json(*command)
    assert told["name"] == "build-preferences words" and told["state"] == "Completed"
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
    code, _, err = served.run("submit", "build-preferences", "--data-hours", "0")
    assert code == 2 and "--data-hours" in err


def test_doctor_finds_everything_up(served: User) -> None:
    found = {one["check"]: one for one in served.json("doctor")}
    for check in ("Python", "database", "Prefect", "webhooks", "budget", "object store"):
        assert found[check]["state"] == "ok", found[check]


def test_ctrl_c_leaves_the_run_going_and_says_how_to_stop_it(served: User) -> None:
    command = "submit build-preferences --name other --dataset many.jsonl --wait".split()
    process = served.start(*command)
    assert process.stdout is not None and process.stderr is not None
    url = process.stdout.readline().split()[-1]
    while "Running" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(2)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "The run goes on" in err and "goes on where" not in err
    path = f"flow_runs/{url.rpartition('/')[2]}"
    assert api(served, "GET", path).json()["state"]["type"] == "RUNNING"

    stop = err.partition("→ ")[2].partition(" stops it")[0]
    variable, *words = shlex.split(stop)
    name, _, value = variable.partition("=")
    subprocess.run(words, env=served.environment() | {name: value}, check=True, timeout=60)
    deadline = time.monotonic() + 60
    while (state := api(served, "GET", path).json()["state"]["type"]) != "CANCELLED":
        assert time.monotonic() < deadline and state in ("RUNNING", "CANCELLING"), state
        time.sleep(0.2)
    (project,) = served.json("budget", "show")
    assert float(project["reserved"]) == 0, "its job is stopped and settled"


def test_without_server_deployment_or_worker_it_says_what_to_do(served: User, user: User) -> None:
    code, _, err = user.run("submit", "cost-guard")
    assert code == 4 and "nightshift up" in err and "Traceback" not in err
    user.settings["PREFECT_API_URL"] = "http://127.0.0.1:9/api"
    code, _, err = user.run("submit", "cost-guard")
    assert code == 4 and "does not answer" in err and "Traceback" not in err
    row = api(served, "GET", "deployments/name/nightly-ppo/nightly-ppo").json()
    api(served, "DELETE", f"deployments/{row['id']}")
    code, _, err = served.run("submit", "nightly-ppo")
    assert code == 4 and "no deployment of nightly-ppo" in err and "nightshift up" in err
    api(served, "PATCH", "work_pools/local", {"is_paused": True})
    code, _, err = served.run("submit", "cost-guard")
    assert code == 4 and "PAUSED" in err
    api(served, "PATCH", "work_pools/local", {"is_paused": False})
