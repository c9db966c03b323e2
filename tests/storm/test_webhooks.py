"""Every 202 becomes exactly one flow run, whatever is killed while deliveries come in.

Prefect stays away for two seconds a kill: with --kills 30 a minute.
"""

import asyncio
import json
import threading
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from infra.database import Pool
from infra.hooks import deliveries
from infra.services.prefect_server import PrefectServer
from tests.helpers.doors import Door, make_hook, open_door, signed

pytestmark = pytest.mark.timeout(0)
SENDERS = 2
Auth = tuple[str, str]


class Sender(threading.Thread):
    """Delivers until told to stop; asks again, with the same id, until it is told 202."""

    def __init__(self, door: Door, path: str, secret: str, stop: threading.Event) -> None:
        super().__init__()
        self.door, self.path, self.secret, self.stop = door, path, secret, stop
        self.accepted: dict[str, str] = {}
        self.client = httpx.Client()

    def run(self) -> None:
        while not self.stop.is_set():
            body = json.dumps({"data": {"name": f"n{len(self.accepted)}"}})
            headers = signed(self.secret, body)
            while (answer := self._post(body, headers)) is None:
                time.sleep(0.05)
            self.accepted[headers["webhook-id"]] = answer
            time.sleep(0.15)
        self.client.close()

    def _post(self, body: str, headers: dict[str, str]) -> str | None:
        try:
            answer = self.client.post(f"{self.door.url}{self.path}", content=body, headers=headers)
        except httpx.TransportError:
            return None
        return answer.json()["delivery"] if answer.status_code == 202 else None


async def deploy(api: str, auth: Auth) -> None:
    """The deployment that the hook's runs are of; no worker takes them."""
    async with httpx.AsyncClient(base_url=api, auth=auth) as client:
        flow = (await client.post("/flows/", json={"name": "build-preferences"})).json()["id"]
        made = await client.post(
            "/deployments/", json={"name": "build-preferences", "flow_id": flow}
        )
        assert made.status_code == 201, made.text


def flow_runs(api: str, auth: Auth) -> list[dict]:
    found: list[dict] = []
    while True:
        page = httpx.post(
            f"{api}/flow_runs/filter",
            json={"limit": 200, "offset": len(found)},
            timeout=30,
            auth=auth,
        ).json()
        found += page
        if len(page) < 200:
            return found


def test_gateway_killed_and_prefect_away_under_load(
    database: Pool,
    tmp_path: Path,
    home: Path,
    kills: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = PrefectServer(tmp_path / "prefect")
    server.folder.mkdir()
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", server.password())  # of the gateway
    name, _, word = server.password().partition(":")
    auth = (name, word)
    process = server.start()
    try:
        wait_until(lambda: server.address() is not None, 90)
        api = f"http://127.0.0.1:{server.port}/api"
        asyncio.run(deploy(api, auth))
        hook = make_hook(database, per_minute=10**6)
        burst = make_hook(database, per_minute=10**6, debounce=timedelta(seconds=2))
        with open_door(tmp_path, api) as door:
            stop = threading.Event()
            senders = [
                Sender(door, f"/hooks/{one.name}", one.secret.get_secret_value(), stop)
                for one in [hook] * SENDERS + [burst]
            ]
            for sender in senders:
                sender.start()
            time.sleep(2)
            door.kill()
            door.start()
            process.kill()
            process.wait()
            for _ in range(kills):
                time.sleep(2)
                door.kill()
                door.start()
            process = server.start()
            wait_until(lambda: server.address() is not None, 90)
            door.kill()
            door.start()
            stop.set()
            for sender in senders:
                sender.join(timeout=30)
                assert not sender.is_alive()
            rows = lambda: deliveries.newest(database, None, 100_000)  # noqa: E731
            wait_until(lambda: all(row["state"] == "started" for row in rows()), 120)
            runs = flow_runs(api, auth)
    finally:
        process.terminate()
        process.wait(timeout=30)
    stored = rows()
    accepted = {key: id_ for sender in senders for key, id_ in sender.accepted.items()}
    assert {row["key"]: str(row["id"]) for row in stored} == accepted, "each 202 is one delivery"
    assert len(accepted) > 30
    ours = {str(row["flow_run"]) for row in stored}
    assert sorted(run["id"] for run in runs) == sorted(ours), "no run is lost, none is doubled"
    single = [row for row in stored if row["hook"] == hook.name]
    assert len({row["flow_run"] for row in single}) == len(single)
    grouped = [row for row in stored if row["hook"] == burst.name]
    assert 0 < len({row["flow_run"] for row in grouped}) < len(grouped)


def wait_until(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)
