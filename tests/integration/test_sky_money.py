"""What the SkyPilot launcher believes and charges, with a SkyPilot that is played.

The real one is asked in tests/cloud; here are hours that nobody waits for.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from infra import jobs, ledger, objects
from infra.compute import attempts
from infra.compute.launcher import JobStatus, Quote
from infra.compute.mirror import Mirror
from infra.compute.sky import api, gates
from infra.compute.sky.launcher import TEARDOWN_LAG, SkyLauncher
from infra.compute.sky.task import LABEL
from infra.errors import (
    JobStopped,
    LaunchError,
    ObjectAccessDenied,
    ProviderUnavailable,
    ReservationExpired,
)
from infra.settings import settings
from jobs.contract import JobSpec
from tasks import launch, reconcile
from tasks.purse import Purse

QUOTE = Quote(
    launcher="sky", hourly_usd=Decimal(6), accelerators={}, region="here", source="a test"
)


class Provider:
    """Machines by name; `launches` says what each launch comes to, in turn."""

    class StatusRefreshMode:
        FORCE = None

    def __init__(self) -> None:
        self.machines: dict[str, Any] = {}
        self.fuses: list[str] = []
        self.launches: list[Any] = []

    def status(self, names: list[str] | None = None, **_: object) -> list[Any]:
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
    monkeypatch.setattr(gates, "wall_clock", lambda: None)
    return played


@pytest.fixture
def sky(
    purse: Purse, home: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> SkyLauncher:
    sky = SkyLauncher(purse.pool)
    monkeypatch.setenv("NIGHTSHIFT_SKY_POLL_SECONDS", "0.01")
    settings.cache_clear()
    for module in (launch, reconcile):
        monkeypatch.setattr(module, "launchers", lambda _target: {"sky": sky})
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


def rent(purse: Purse, wanted: JobSpec, minutes: float, **noted: Any) -> attempts.Attempt:
    """An attempt that a process, which was killed since, began so many minutes ago."""
    jobs.record_launch(purse.pool, purse.run, wanted, QUOTE, None)
    reservation = ledger.reserve(
        purse.pool,
        f"{wanted.key}#1",
        purse.scopes,
        launch.price(QUOTE, wanted.max_hours),
        ago(-60),
    )
    attempt = attempts.begin(purse.pool, wanted, reservation, QUOTE)
    date_back(purse, attempt.place, minutes)
    return attempts.note(purse.pool, attempt.place, **noted)


def date_back(purse: Purse, place: str, minutes: float) -> None:
    with purse.pool.connection() as connection:
        connection.execute(
            "UPDATE attempts SET requested_at = %s WHERE place = %s", [ago(minutes), place]
        )


def say(wanted: JobSpec, number: int, state: str, started: float, seen: float) -> None:
    """What the node of an attempt says of itself in the bucket; minutes ago."""
    result = {"status": "succeeded", "metrics": {"total": 1.0}} if state == "succeeded" else None
    status = JobStatus.model_validate(
        {"state": state, "started": ago(started), "seen": ago(seen), "result": result}
    )
    Mirror(wanted.output)._write(f"{number}/status.json", status.model_dump_json())


@pytest.mark.parametrize("state", ["succeeded", "continue", "running"])
def test_what_ended_while_nobody_watched_is_charged_to_its_last_sign_of_life(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec, state: str
) -> None:
    attempt = rent(purse, wanted, 480, submitted_at=ago(479))
    say(wanted, 1, state, 480, 479)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = launch.reservations(purse.pool, wanted.key)
    gone = attempts.at(purse.pool, attempt.place)
    assert paid.state == "settled" and gone and gone.gone_at
    assert timedelta(0) < gone.gone_at - gone.requested_at < TEARDOWN_LAG + timedelta(minutes=1.1)
    assert Decimal("0.25") < paid.spent < Decimal("0.35"), "three minutes at 6 dollars an hour"


def test_a_silent_machine_is_charged_no_further_than_it_may_turn_out_to_have_lived(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    attempt = rent(purse, wanted, 30, submitted_at=ago(29))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    say(wanted, 1, "running", 30, 20)
    reservation = ledger.get(purse.pool, attempt.reservation_id)
    status = sky.poll(attempt.handle)
    assert status.state == "running" and status.seen <= ago(18) + timedelta(seconds=1)
    assert launch.accrue(purse.pool, reservation, QUOTE.hourly_usd, attempt.handle, status) == 12
    provider.machines.clear()
    sky._looked.clear()
    assert reconcile.reconcile(purse.pool, "another-run")
    assert ledger.audit(purse.pool) == [] and ledger.open_reservations(purse.pool) == []


def test_a_machine_that_is_listed_is_ended_though_it_was_noted_as_gone(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    attempt = rent(purse, wanted, 9, submitted_at=ago(8), gone_at=ago(5))
    ledger.settle(purse.pool, attempt.reservation_id)
    provider.machines[attempt.place] = machine(purse, attempt.place)
    assert "without a reservation" in " ".join(reconcile.reconcile(purse.pool, "another-run"))
    assert provider.machines == {}


def test_who_reads_a_log_does_not_note_that_a_machine_is_gone(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = rent(purse, wanted, 1)
    monkeypatch.setattr(
        "infra.compute.sky.launcher.time.sleep", lambda _: say(wanted, 1, "succeeded", 1, 0)
    )
    assert list(sky.logs(attempt.handle, follow=True)) == []
    found = attempts.at(purse.pool, attempt.place)
    assert found and found.gone_at is None


def lose(purse: Purse, minutes: float) -> Any:
    """A launch that SkyPilot's server dies over, so many minutes after it was asked for."""

    def begun(place: str) -> None:
        date_back(purse, place, minutes)
        raise api.RequestLost("the server died")

    return begun


def test_machines_that_were_lost_in_one_launch_are_charged(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    provider.launches = [lose(purse, 3), lambda _: say(wanted, 2, "succeeded", 0, 0)]
    assert launch.run_job(wanted, purse).metrics == {"total": 1.0}
    (paid,) = launch.reservations(purse.pool, wanted.key)
    asked = attempts.of_job(purse.pool, wanted.key)
    assert [bool(one.gone_at) for one in asked] == [True, True]
    due = sum(one.cost for one in asked)
    assert paid.spent >= Decimal("0.3") and 0 <= due - paid.spent < 2 * launch.PLACES


def test_three_machines_that_were_lost_in_a_row_end_no_job(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    provider.launches = [lose(purse, 0)] * 3
    with pytest.raises(ProviderUnavailable, match="3 machines in a row"):
        launch.run_job(wanted, purse)
    assert ledger.open_reservations(purse.pool) == [] and provider.machines == {}
    provider.launches = [lambda _: say(wanted, 4, "succeeded", 0, 0)]
    assert launch.run_job(wanted, purse).metrics == {"total": 1.0}


def test_a_kill_while_a_machine_is_cleared_away_that_was_lost_before_its_fuse_ends_no_job(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def taken(name: str, *_args: object, **_kwargs: object) -> None:
        provider.machines[name].status.name = "STOPPED"
        raise RuntimeError("the cluster is not up")

    def killed(_name: str) -> None:
        raise SystemExit

    provider.launches = [lambda _: None]
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(provider, "autostop", taken)
        patch.setattr(provider, "down", killed)
        launch.run_job(wanted, purse)
    provider.launches = [lambda _: say(wanted, 2, "succeeded", 0, 0)]
    assert launch.run_job(wanted, purse).metrics == {"total": 1.0}
    assert ledger.open_reservations(purse.pool) == [] and provider.machines == {}


def test_a_fuse_that_cannot_be_set_before_the_reservation_expires_is_not_the_jobs_error(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reservation = ledger.reserve(
        purse.pool, f"{wanted.key}#1", purse.scopes, Decimal("0.6"), ago(-1 / 30)
    )
    jobs.record_launch(purse.pool, purse.run, wanted, QUOTE, None)
    provider.launches = [lambda _: None]

    def slow(_name: str, *_args: object, **_kwargs: object) -> None:
        time.sleep(2.5)
        raise RuntimeError("it takes too long")

    with monkeypatch.context() as patch, pytest.raises(ReservationExpired):
        patch.setattr(provider, "autostop", slow)
        sky.launch(wanted, reservation, QUOTE)
    provider.launches = [lambda _: say(wanted, 2, "succeeded", 0, 0)]
    assert launch.run_job(wanted, purse).metrics == {"total": 1.0}
    assert ledger.open_reservations(purse.pool) == [] and provider.machines == {}


def test_a_job_that_is_stopped_while_its_machine_is_made_gets_no_other(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    def stopped(place: str) -> None:
        jobs.record_end(purse.pool, wanted.key, "stopped", error="stopped by a person")
        lose(purse, 0)(place)

    provider.launches = [stopped]
    with pytest.raises(JobStopped, match="stopped by a person"):
        launch.run_job(wanted, purse)
    assert ledger.open_reservations(purse.pool) == [] and provider.machines == {}


def test_a_provider_that_is_away_ends_no_job(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    def away(_place: str) -> None:
        raise ProviderUnavailable("SkyPilot's API server does not answer")

    provider.launches = [away]
    with pytest.raises(ProviderUnavailable):
        launch.run_job(wanted, purse)
    found = jobs.find(purse.pool, wanted.key)
    assert found and found.state == "interrupted"
    provider.launches = [lambda _: say(wanted, 2, "succeeded", 0, 0)]
    assert launch.run_job(wanted, purse).metrics == {"total": 1.0}
    assert ledger.open_reservations(purse.pool) == []


def test_who_takes_a_machine_up_again_looks_at_its_network_and_sets_its_fuse(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempt = rent(purse, wanted, 1, submitted_at=ago(1))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    say(wanted, 1, "running", 1, 0)
    reservation = ledger.get(purse.pool, attempt.reservation_id)
    assert sky.launch(wanted, reservation, QUOTE) == attempt.handle
    assert provider.fuses == [attempt.place]

    monkeypatch.setenv("NIGHTSHIFT_ALLOWED_NETWORKS", "10.0.0.0/8")
    monkeypatch.setenv("NIGHTSHIFT_STOP_GRACE_SECONDS", "0.1")
    monkeypatch.setenv("NIGHTSHIFT_SKY_SYNC_SECONDS", "0.1")
    settings.cache_clear()
    with pytest.raises(LaunchError, match="NIGHTSHIFT_ALLOWED_NETWORKS"):
        sky.launch(wanted, reservation, QUOTE)
    assert provider.machines == {}


def test_a_bucket_that_is_away_leaves_its_job_and_lets_the_others_be_settled(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    rent(purse, wanted, 9, submitted_at=ago(8))

    def away(uri: str) -> bytes:
        raise ObjectAccessDenied(f"{uri} cannot be used")

    with monkeypatch.context() as patch:
        patch.setattr(objects, "read", away)
        assert "cannot be ended" in reconcile.reconcile(purse.pool, "another-run")[0]
    assert ledger.open_reservations(purse.pool)
    assert reconcile.reconcile(purse.pool, "another-run")
    assert ledger.open_reservations(purse.pool) == []


def test_what_a_stopped_job_left_is_charged_before_it_is_freed(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec
) -> None:
    """Its machine could not be seen to be gone when a person stopped it."""
    attempt = rent(purse, wanted, 9, submitted_at=ago(8))
    say(wanted, 1, "continue", 9, 4)
    jobs.record_end(purse.pool, wanted.key, "stopped", error="stopped by a person")
    assert "its job has stopped; freed" in " ".join(reconcile.reconcile(purse.pool, "another-run"))
    (paid,) = launch.reservations(purse.pool, wanted.key)
    gone = attempts.at(purse.pool, attempt.place)
    assert Decimal("0.65") < paid.spent < Decimal("0.75") and gone and gone.gone_at
