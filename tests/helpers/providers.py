"""A SkyPilot that is played, and machines of hours that nobody waits for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra import ledger
from infra.compute import attempts, jobs
from infra.compute.launcher import JobStatus, Quote
from infra.compute.mirror import Mirror
from infra.compute.sky import api, gates
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.task import LABEL
from infra.contract import JobSpec
from infra.settings import settings
from tasks.runs import offers
from tasks.runs.purse import Purse

QUOTE = Quote(
    launcher="sky", hourly_usd=Decimal(6), accelerators={}, region="here", source="a test"
)

HERE = "host:/home"
"""The API server of these tests."""


class Provider:
    """Machines by name; `launches` says what each launch comes to, in turn."""

    class StatusRefreshMode:
        FORCE = None

    def __init__(self) -> None:
        self.machines: dict[str, Any] = {}
        self.fuses: list[str] = []
        self.launches: list[Any] = []
        self.owner = self.user = "user"

    def status(
        self, names: list[str] | None = None, all_users: bool = False, **_: object
    ) -> list[Any]:
        if self.user != self.owner and not all_users:
            return []
        return [one for name, one in self.machines.items() if names is None or name in names]

    def down(self, name: str) -> None:
        self.machines.pop(name, None)

    def autostop(self, name: str, *_args: object, **_kwargs: object) -> None:
        self.fuses.append(name)

    def job_status(self, _name: str, _jobs: object) -> dict[int, Any]:
        return {}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    played = Provider()
    monkeypatch.setattr(api, "call", lambda request: request(played))
    monkeypatch.setattr(api, "launch_requests", lambda _place=None: [])
    monkeypatch.setattr(api, "server", lambda: HERE)
    monkeypatch.setattr(gates, "wall_clock", lambda: None)
    return played


@pytest.fixture
def sky(
    purse: Purse, home: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> SkyLauncher:
    sky = SkyLauncher(purse.pool)
    monkeypatch.setenv("NIGHTSHIFT_SKY_POLL_SECONDS", "0.01")
    settings.cache_clear()
    monkeypatch.setattr(offers, "launchers", lambda _target: {"sky": sky})
    monkeypatch.setattr(sky, "quotes", lambda _resources: [QUOTE])
    monkeypatch.setattr(sky, "_task", lambda *_: None)

    def request(place: str, _request: object) -> str:
        provider.launches.pop(0)(place)
        provider.machines[place] = machine(purse, place)
        return "request"

    monkeypatch.setattr(api, "request_launch", request)
    monkeypatch.setattr(api, "wait_for_launch", lambda *_: None)
    return sky


def machine(purse: Purse, place: str, address: str = "192.0.2.1") -> Any:
    return SimpleNamespace(
        name=place,
        status=SimpleNamespace(name="UP"),
        labels={LABEL: attempts.installation(purse.pool)},
        handle=SimpleNamespace(stable_internal_external_ips=[(address, address)]),
    )


@pytest.fixture
def wanted(home: Path, purse: Purse) -> JobSpec:
    key = f"{purse.run.id}/step"
    return JobSpec(
        name="basic.steps",
        environment="node",
        config={},
        output=f"{home.as_uri()}/objects/{key}",
        max_hours=0.1,
        key=key,
    )


def ago(minutes: float) -> datetime:
    return datetime.now(UTC) - timedelta(minutes=minutes)


def rent(
    purse: Purse,
    wanted: JobSpec,
    minutes: float,
    expired: float = -60,
    server: str = HERE,
    **noted: Any,
) -> attempts.Attempt:
    """An attempt that a process, which was killed since, began so many minutes ago; its reservation
    expired so many minutes ago, or will in an hour."""
    jobs.record_launch(purse.pool, purse.run, wanted, QUOTE, None)
    reservation = ledger.reserve(
        purse.pool,
        f"{wanted.key}#1",
        purse.scopes,
        offers.price(QUOTE, wanted.max_hours),
        ago(expired),
        now=ago(minutes),
    )
    attempt = attempts.begin(purse.pool, wanted, reservation, QUOTE, server)
    date_back(purse, attempt.place, minutes)
    return attempts.note(purse.pool, attempt.place, **noted)


def date_back(purse: Purse, place: str, minutes: float) -> None:
    with purse.pool.connection() as connection:
        connection.execute(
            "UPDATE attempts SET requested_at = %s WHERE place = %s", [ago(minutes), place]
        )


def forget(sky: SkyLauncher, provider: Provider) -> None:
    """The machines go, and so does what the launcher remembers of them and of the provider."""
    provider.machines.clear()
    sky.presence.looked.clear()
    sky.presence.heard.clear()


def say(wanted: JobSpec, number: int, state: str, started: float, seen: float) -> None:
    """What the node of an attempt says of itself in the bucket; minutes ago."""
    result = {"status": "succeeded", "metrics": {"total": 1.0}} if state == "succeeded" else None
    status = JobStatus.model_validate(
        {"state": state, "started": ago(started), "seen": ago(seen), "result": result}
    )
    Mirror(wanted.output)._write(f"{number}/status.json", status.model_dump_json())
