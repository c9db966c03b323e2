"""Seconds from an accepted delivery to a RUNNING flow, while `nightshift up` runs.

    nightshift up --detach
    python -m benchmarks.starting

Delivers to the hook `benchmark` (made if it is not there) one after the other, a dry run of
cost-guard each, and reads from Prefect when the run was made, taken by the worker and RUNNING.
"""

import json
import statistics
import time
from contextlib import suppress
from datetime import datetime

import httpx
from pydantic import SecretStr

from deployments.server.services import services
from infra import database, hooks, keeper
from infra.errors import InputError
from infra.hooks import Hook, secrets
from infra.services import prefect_server
from tests.helpers.doors import signed

ROUNDS = 7


def start(gateway: str, api: str, secret: str) -> dict[str, float]:
    """Seconds from the 202 to each state of the run."""
    body = json.dumps({"data": {"dry_run": True}})
    answer = httpx.post(f"{gateway}/hooks/benchmark", content=body, headers=signed(secret, body))
    accepted = time.time()
    assert answer.status_code == 202, answer.text
    bearer = {"authorization": f"Bearer {secret}"}
    while (run := httpx.get(answer.json()["status"], headers=bearer).json()["flow_run"]) is None:
        time.sleep(0.1)
    name, _, password = prefect_server.own().password().partition(":")
    url, asked = f"{api}/flow_run_states/", {"flow_run_id": run}
    while True:
        states = httpx.get(url, params=asked, auth=(name, password)).json()
        if states[-1]["type"] == "COMPLETED":
            break
        time.sleep(0.5)
    return {
        state["type"].lower(): datetime.fromisoformat(state["timestamp"]).timestamp() - accepted
        for state in states
    }


def main() -> None:
    running = services()
    gateway, api = (keeper.address(running[name]) for name in ("gateway", "Prefect"))
    secret = secrets.fresh()
    with suppress(InputError):
        fields = {"name": "benchmark", "flows": ["cost-guard"], "per_minute": 600}
        hooks.create(database.pool(), Hook(**fields, secret=SecretStr(secret)))
    with database.pool().connection() as connection:
        query = f"SELECT {hooks.COLUMNS} FROM hooks WHERE name = 'benchmark'"  # noqa: S608
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    secret = hooks.from_row(row).secret.get_secret_value()
    time.sleep(2)  # until the gateway knows the hook
    rounds = [start(gateway["url"], api["api"], secret) for _ in range(ROUNDS)]
    result: dict[str, list[float]] = {}
    print(f"{'s after the 202':20}{'min':>8}{'median':>8}{'max':>8}")
    for name in ("scheduled", "pending", "running", "completed"):
        values = [one[name] for one in rounds]
        result[name] = [round(f(values), 2) for f in (min, statistics.median, max)]
        print(f"{name:20}" + "".join(f"{value:>8.2f}" for value in result[name]))
    print(json.dumps({"benchmark": "starting", "rounds": ROUNDS, **result}))


if __name__ == "__main__":
    main()
