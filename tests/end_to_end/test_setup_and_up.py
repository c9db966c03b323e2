"""The commands that make and keep the services, for people and for scripts."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import httpx
import pytest

from deployments.catalogue import flow_names
from infra.services.prefect_server import PrefectServer
from tests.helpers.doors import signed
from tests.helpers.users import Shared, User

ANOTHER_USER = """
import sys, urllib.request
api, password = sys.argv[1:]
asked = urllib.request.Request(
    f"{api}/block_documents/filter",
    b'{"include_secrets": true}',
    {"Content-Type": "application/json"},
)
said = []
for act in (lambda: urllib.request.urlopen(asked).read().decode(), lambda: open(password).read()):
    try:
        said.append(act())
    except OSError as error:
        said.append(error.strerror or str(error))
print(", ".join(said))
"""


def pages_that_may_ask(ui: str) -> set[str]:
    """Of which origins a browser lets a page send JSON to the Prefect server."""
    wanted = {"access-control-request-method": "POST"}
    wanted["access-control-request-headers"] = "content-type"
    asked = {
        origin: httpx.options(f"{ui}/api/deployments/filter", headers=wanted | {"origin": origin})
        for origin in (ui, "https://elsewhere.example", "null")
    }
    return {origin for origin, answer in asked.items() if answer.status_code == 200}


def test_set_up_then_up_serves_a_webhook_until_ctrl_c(alone) -> None:
    user = alone
    user.settings["NIGHTSHIFT_SERVED_MODELS"] = "mine"
    told = user.json("setup")
    assert told == {"home": str(user.home), "objects": f"{user.home.as_uri()}/objects"}
    user.wait_until_nothing_runs()
    code, out, _ = user.run("status")
    assert code == 4 and out.count("does not run") == 5

    (user.home / "up").mkdir()
    (user.home / "up" / "1.lock").touch()  # of a process that was killed
    assert user.json("down") == {"ended": 0, "flow_runs_at_work": 0}
    kept = user.start("up", "--json")
    told = json.loads(kept.stdout.readline())
    assert told["home"] == str(user.home)
    rows = {row["service"]: row for row in user.json("status")}
    assert all(row["running"] for row in rows.values())
    assert "no answer yet" in rows["model mine"]["where"]
    names = {row["name"] for row in api(user, told, "deployments/filter")}
    assert names == set(flow_names())
    assert pages_that_may_ask(told["ui"]) == {told["ui"]}

    secret = user.json("hooks", "create", "cost-guard")["secret"]
    body = '{"data": {"dry_run": true}}'
    headers = signed(secret, body)
    deadline = time.monotonic() + 10
    url = told["gateway"] + "cost-guard"
    while (answer := httpx.post(url, content=body, headers=headers)).status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert answer.status_code == 202, answer.text
    (state, run) = ended_run(user, told, answer.json()["status"], secret)
    assert state == "COMPLETED"
    assert run["parameters"] == {"parameters": {"dry_run": True}}
    assert "hook:cost-guard" in run["tags"]
    (row,) = user.json("hooks", "deliveries")
    assert (row["state"], row["flow_run"]) == ("started", run["id"])

    another = user.start("up")
    lines = [another.stdout.readline() for _ in range(6)]
    assert lines[0].split() == ["Prefect", "UI", told["ui"]], "both use the same services"
    assert told["password_file"] in lines[1] and told["gateway"] in lines[2]
    assert "mine at http://127.0.0.1:8800/v1, once it has a champion" in lines[3]
    assert str(user.home) in lines[4] and "Ctrl-C" in lines[5]
    kept.send_signal(signal.SIGINT)
    out, err = kept.communicate(timeout=100)
    assert kept.returncode == 130 and out == "" and "Traceback" not in err, out + err
    with urllib.request.urlopen(told["ui"] + "/api/health", timeout=10) as health:  # noqa: S310
        assert json.load(health) is True, "they stay as long as somebody uses them"
    assert user.json("down")["ended"] == 1
    another.communicate(timeout=60)
    user.wait_until_nothing_runs()


def test_a_port_in_use_is_one_clear_error(alone) -> None:
    user = alone
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        user.settings["NIGHTSHIFT_GATEWAY_PORT"] = str(taken.getsockname()[1])
        code, out, err = user.run("up", "--detach")
    assert code == 4 and "NIGHTSHIFT_GATEWAY_PORT" in err, out + err
    assert "Traceback" not in err
    user.wait_until_nothing_runs()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_user_of_this_machine_reads_no_block_and_no_password(shared: Shared) -> None:
    password = PrefectServer(shared.home / "prefect").password_file
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", ANOTHER_USER, shared.prefect, str(password)],
        cwd="/",
        capture_output=True,
        text=True,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    assert done.stdout == "HTTP Error 401: Unauthorized, Permission denied\n", done.stderr


def api(user: User, told: dict[str, str], path: str) -> list[dict]:
    url = f"{told['ui']}/api/{path}"
    return httpx.post(url, json={}, timeout=30, auth=user.prefect_auth).json()


def ended_run(user: User, told: dict[str, str], status: str, secret: str) -> tuple[str, dict]:
    """The flow run of a delivery once it has ended: (state, run)."""
    deadline = time.monotonic() + 120
    run: dict = {}
    while not run or run["state"]["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, run
        time.sleep(0.3)
        shown = httpx.get(status, headers={"authorization": f"Bearer {secret}"}).json()
        if shown["flow_run"]:
            url = f"{told['ui']}/api/flow_runs/{shown['flow_run']}"
            run = httpx.get(url, timeout=30, auth=user.prefect_auth).json()
    return run["state"]["type"], run
