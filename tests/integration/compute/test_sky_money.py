"""What the SkyPilot launcher believes and charges, with a SkyPilot that is played.

The real one is asked in tests/cloud; here are hours that nobody waits for.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from infra import ledger
from infra.compute import attempts
from infra.compute.sky import api, launcher
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.presence import TEARDOWN_LAG
from infra.contract import JobSpec
from infra.errors import (
    BudgetExceeded,
)
from tasks.runs import charge, launch, reconcile
from tasks.runs.purse import Purse
from tests.helpers.clocks import set_clock
from tests.helpers.providers import QUOTE, Provider, ago, date_back, forget, machine, rent, say


@pytest.mark.parametrize("state", ["succeeded", "continue", "running"])
def test_what_ended_while_nobody_watched_is_charged_to_its_last_sign_of_life(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec, state: str
) -> None:
    attempt = rent(purse, wanted, 480, submitted_at=ago(479))
    say(wanted, 1, state, 480, 479)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    gone = attempts.at(purse.pool, attempt.place)
    assert paid.state == "settled" and gone and gone.gone_at
    assert timedelta(0) < gone.gone_at - gone.requested_at < TEARDOWN_LAG + timedelta(minutes=1.1)
    assert Decimal("0.25") < paid.spent < Decimal("0.35"), "three minutes at 6 dollars an hour"


def test_a_silent_machine_is_charged_while_its_provider_lists_it(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    attempt = rent(purse, wanted, 30, submitted_at=ago(29))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    say(wanted, 1, "running", 30, 20)
    reservation = ledger.get(purse.pool, attempt.reservation_id)
    status = sky.poll(attempt.handle)
    assert status.state == "running" and status.seen >= ago(0.1)
    assert charge.accrue(purse.pool, reservation, QUOTE.hourly_usd, attempt.handle, status) == 30
    forget(sky, provider)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    assert Decimal("3") <= paid.spent < Decimal("3.1")
    assert ledger.audit(purse.pool) == [] and ledger.open_reservations(purse.pool) == []


def test_a_machine_that_never_reaches_its_bucket_is_charged_at_once(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    """From the moment that it was there; from the one that it was asked for once it has gone."""
    attempt = rent(purse, wanted, 30, submitted_at=ago(28))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    reservation = ledger.get(purse.pool, attempt.reservation_id)
    status = sky.poll(attempt.handle)
    charge.accrue(purse.pool, reservation, QUOTE.hourly_usd, attempt.handle, status)
    assert ledger.get(purse.pool, reservation.id).spent == Decimal("2.8")
    forget(sky, provider)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    assert Decimal("3") <= paid.spent < Decimal("3.1") and ledger.audit(purse.pool) == []


def test_the_providers_whole_list_is_proof_of_life_too(
    purse: Purse, sky: SkyLauncher, provider: Provider, wanted: JobSpec
) -> None:
    """A sweep of the guard while the bucket of the job is away."""
    attempt = rent(purse, wanted, 30, submitted_at=ago(28))
    provider.machines[attempt.place] = machine(purse, attempt.place)
    assert sky.running() == [attempt.handle]
    forget(sky, provider)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    assert Decimal("3") <= paid.spent < Decimal("3.1")


@pytest.mark.parametrize("state", ["succeeded", "continue", "running", None])
def test_what_its_fuse_took_while_nobody_watched_is_charged_to_the_reservations_end(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec, state: str | None
) -> None:
    """Whatever the job had said: its machine was there until then."""
    rent(purse, wanted, 480, expired=120, submitted_at=ago(479))
    if state:
        say(wanted, 1, state, 480, 479)
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    lag = QUOTE.hourly_usd * Decimal(TEARDOWN_LAG.total_seconds()) / 3600
    assert paid.state == "settled" and abs(paid.spent - 36 - lag) < Decimal("0.01")


def test_what_no_provider_took_costs_no_more_after_its_reservation(
    purse: Purse, sky: SkyLauncher, wanted: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed right before the launch was asked for; or it was, and did not come to a machine."""
    rent(purse, wanted, 480, expired=120)
    requested = [SimpleNamespace(name="sky.launch", status="FAILED")]
    monkeypatch.setattr(api, "launch_requests", lambda place=None: requested if place else [])
    assert reconcile.reconcile(purse.pool, "another-run")
    (paid,) = charge.reservations(purse.pool, wanted.key)
    assert paid.spent == Decimal("0.2")


def test_machines_that_reach_no_bucket_spend_no_more_than_the_purse_has(
    purse: Purse,
    sky: SkyLauncher,
    provider: Provider,
    wanted: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each is there for ten hours at 6 dollars, says nothing, and is taken by its fuse."""
    ledger.set_budget(purse.pool, "project", "day", Decimal(1000))
    ledger.set_budget(purse.pool, f"run:{purse.run.id}", "total", Decimal(65))
    fuse = [datetime.now(UTC)]

    def ten_hours(place: str) -> None:
        date_back(purse, place, 600)
        fuse[0] = datetime.now(UTC) + timedelta(seconds=0.5)
        with purse.pool.connection() as connection:
            connection.execute(
                "UPDATE reservations SET expires_at = %s WHERE closed_at IS NULL", fuse
            )

    def burn(names: list[str] | None = None, **_: object) -> list[Any]:
        if datetime.now(UTC) > fuse[0]:
            provider.machines.clear()
        return [one for name, one in provider.machines.items() if names is None or name in names]

    provider.launches = [ten_hours] * 6
    monkeypatch.setattr(provider, "status", burn)
    long = wanted.model_copy(update={"max_hours": 10})
    with pytest.raises(BudgetExceeded):
        launch.run_job(long, purse)
    rented = attempts.of_job(purse.pool, wanted.key)
    assert len(rented) == 1 and Decimal(60) <= ledger.charged(purse.pool, "project") < Decimal(61)


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
    set_clock(monkeypatch, launcher, sleep=lambda _: say(wanted, 1, "succeeded", 1, 0))
    assert list(sky.logs(attempt.handle, follow=True)) == []
    found = attempts.at(purse.pool, attempt.place)
    assert found and found.gone_at is None
