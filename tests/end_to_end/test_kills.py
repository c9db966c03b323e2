"""One kill -9 of each kind of process at a named moment; tests/storm kills at random, and often.

All of them under one `nightshift up`. What is to be carried through is `build-preferences`, whose
one job stands still meanwhile.
"""

import json
import os
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from infra import keeper
from infra.database.embedded import Postgres
from tests.helpers.doors import signed
from tests.helpers.users import User, reachable_folder, settle_in, wait_for

pytestmark = pytest.mark.timeout(600)
PROGRAM = "jobs.dpo.build"
GATEWAY = "-m deployments.webhooks.gateway"
WORKER = "worker start"
SERVER = "infra.services.same_origin"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@pytest.fixture(scope="module")
def up(unseen_model: Path, train_python: Path) -> Iterator[User]:
    """A user whose `nightshift up` runs, with services of their own."""
    with reachable_folder() as folder:
        user = settle_in(folder, unseen_model, train_python)
        user.settings["NIGHTSHIFT_LOCAL_USD_PER_HOUR"] = "1"  # so that a second costs something
        row = '{{"prompt": "word {0}: ", "chosen": "aeiou {0}", "rejected": "xkcd {0}"}}\n'
        (folder / "many.jsonl").write_text("".join(row.format(n) for n in range(2_000)))
        user.json("up", "--detach")
        yield user
        user.json("down")
        user.wait_until_nothing_runs()


def oldest(user: User, named: str) -> psutil.Process:
    """Of one process with `named` in its command and its children: it."""
    return min(wait_for(lambda: user.processes(named), 100), key=psutil.Process.create_time)


def kill(user: User, named: str) -> None:
    victim = oldest(user, named)
    ours = victim.ppid() == os.getpid()
    victim.kill()
    if not ours:  # a child of ours is waited for by who started it: its exit code is told once
        psutil.wait_procs([victim], timeout=20)


def answering(user: User, service: str) -> str:
    """Where a service answers, once it does."""

    def where() -> str:
        rows = {row["service"]: row for row in user.json("status")}
        return rows[service]["where"] if rows[service]["running"] else ""

    return wait_for(where, 100)


def flow_runs(user: User, ui: str, tag: str) -> list[dict[str, Any]]:
    tagged = {"flow_runs": {"tags": {"all_": [tag]}}}
    url = f"{ui}/api/flow_runs/filter"
    return httpx.post(url, json=tagged, timeout=30, auth=user.prefect_auth).json()


def test_each_accepted_delivery_starts_one_run_though_gateway_server_and_worker_die(
    up: User,
) -> None:
    ui = answering(up, "Prefect")
    gateway = answering(up, "gateway")
    secret = up.json("hooks", "create", "cost-guard")["secret"]
    body = '{"data": {"dry_run": true}}'

    def deliver(headers: dict[str, str]) -> str:
        """The delivery that was accepted, once it is: the gateway may be dead."""
        url = f"{gateway}/hooks/cost-guard"
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = httpx.post(url, content=body, headers=headers, timeout=30)
                if answer.status_code == 202:
                    return answer.json()["delivery"]
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.1)

    headers = [signed(secret, body) for _ in range(3)]
    first = deliver(headers[0])
    kill(up, GATEWAY)
    assert deliver(headers[0]) == first, "the sender who got no answer asks again"
    kill(up, SERVER)
    deliver(headers[1])  # while it is away
    kill(up, WORKER)
    deliver(headers[2])
    kill(up, GATEWAY)  # with what it may not have handed on yet

    def ended() -> bool:
        try:
            runs = flow_runs(up, ui, "hook:cost-guard")
        except httpx.TransportError:
            return False
        return len(runs) >= 3 and all(run["state"]["type"] in ENDED for run in runs)

    wait_for(ended, 200)
    rows = up.json("hooks", "deliveries")
    runs = flow_runs(up, ui, "hook:cost-guard")
    assert len(rows) == 3 and {row["state"] for row in rows} == {"started"}
    assert sorted(run["id"] for run in runs) == sorted(row["flow_run"] for row in rows)
    assert {run["state"]["type"] for run in runs} == {"COMPLETED"}


@pytest.mark.parametrize(
    ("kind", "named", "survives"),
    [
        ("program", PROGRAM, True),
        ("watchdog", "infra.compute.watchdog", True),
        ("server", SERVER, False),
        ("postgres", "bin/postgres -D", False),
        ("keeper", "infra.keeper infra.database.embedded", False),
        ("flow", "deployments.cli run build-preferences", False),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
def test_a_run_is_carried_through_though_one_of_its_processes_dies(
    up: User, kind: str, named: str, survives: bool
) -> None:
    command = f"run build-preferences --name {kind} --dataset many.jsonl".split()
    process = up.start(*command, "--json")
    with up.held(PROGRAM):
        kill(up, named)
        if not survives and kind != "flow":
            # whatever was killed is started anew
            wait_for(lambda: up.run_here("status")[0] == 0, 100)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 or not survives, out + err
    if process.returncode == 0:
        notice = json.loads(out)
    else:
        assert "Traceback" not in err, err
        notice = up.json(*command)
        assert notice["resumed"], "the same command goes on"
    assert notice["dataset"]["sha256"]
    jobs = {job["key"]: job["state"] for job in up.json("jobs", "list")}
    assert jobs[f"{notice['run']}/preferences"] == "succeeded"
    up.wait_until_nothing_runs(PROGRAM)
    check_books(up)


def check_books(user: User) -> None:
    """Nothing is reserved any more, and the counters are their sums."""
    server = Postgres(user.home / "postgres")
    address = keeper.use(server)
    try:
        where = {**address, "dbname": "nightshift"}
        with psycopg.connect(**where) as connection:
            assert connection.execute("SELECT * FROM ledger_audit()").fetchall() == []
            live = "SELECT key FROM reservations WHERE closed_at IS NULL"
            assert connection.execute(live).fetchall() == []
            charged = connection.execute("SELECT coalesce(sum(amount), 0) FROM charges").fetchone()
            spent = connection.execute(
                "SELECT coalesce(sum(spent), 0) FROM reservations"
            ).fetchone()
            assert charged and spent and charged[0] == spent[0] > Decimal(0)
    finally:
        keeper.release(server)
