"""Machines that are lost, stopped or out of reach, with a SkyPilot that is played."""

import time
from decimal import Decimal
from typing import Any

import pytest

from infra import ledger, objects
from infra.compute import attempts, jobs
from infra.compute.sky import api
from infra.compute.sky.launcher import SkyLauncher
from infra.contract import JobSpec
from infra.errors import (
    JobFailed,
    JobStopped,
    LaunchError,
    ObjectAccessDenied,
    ProviderUnavailable,
    ReservationExpired,
)
from infra.settings import settings
from tasks.runs import charge, launch, reconcile
from tasks.runs.purse import Purse
from tests.helpers.providers import QUOTE, Provider, ago, date_back, machine, rent, say


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
    (paid,) = charge.reservations(purse.pool, wanted.key)
    asked = attempts.of_job(purse.pool, wanted.key)
    assert [bool(one.gone_at) for one in asked] == [True, True]
    due = sum(one.cost for one in asked)
    assert paid.spent >= Decimal("0.3") and 0 <= due - paid.spent < 2 * charge.PLACES


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
    (paid,) = charge.reservations(purse.pool, wanted.key)
    gone = attempts.at(purse.pool, attempt.place)
    assert Decimal("0.65") < paid.spent < Decimal("0.75") and gone and gone.gone_at


def test_a_node_whose_clock_is_ahead_is_charged_from_when_it_was_there(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    attempt = rent(purse, wanted, 30, submitted_at=ago(28))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    say(wanted, 1, "running", 25, -4)
    status = sky.poll(attempt.handle)
    assert status.state == "running" and status.started == attempt.submitted_at


def test_a_node_whose_clock_is_far_ahead_fails_its_job_at_once(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would end each attempt too early, and be paid for all of them."""
    monkeypatch.setenv("NIGHTSHIFT_STOP_GRACE_SECONDS", "0.1")
    monkeypatch.setenv("NIGHTSHIFT_SKY_SYNC_SECONDS", "0.1")
    settings.cache_clear()
    provider.launches = [lambda _: say(wanted, 1, "running", 0, -6)] * 5
    with pytest.raises(JobFailed, match=r"clock .* 6 minutes ahead"):
        launch.run_job(wanted, purse)
    assert len(attempts.of_job(purse.pool, wanted.key)) == 1 and provider.machines == {}
    assert ledger.open_reservations(purse.pool) == []
