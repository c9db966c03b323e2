"""Jobs under a budget, with the real ledger and real processes."""

import contextlib
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from infra import interruption, ledger
from infra.compute import jobs
from infra.compute.launcher import Handle, JobStatus, Quote, Reserved
from infra.compute.local import LocalLauncher
from infra.contract import JobSpec, Progress, Resources
from infra.database import Pool
from infra.errors import (
    BudgetExceeded,
    InputError,
    JobError,
    JobFailed,
    JobStopped,
    LaunchError,
    ObjectError,
    ReservationExpired,
)
from tasks.runs import charge, launch, offers, reconcile
from tasks.runs.parameters import RunParameters
from tasks.runs.plan import Step, plan
from tasks.runs.purse import Purse, fill
from tests.helpers.launching import alive, fill_disk, job, launcher, wait, wait_until_none_is_alive


def spec(home: Path, purse: Purse, step: str = "step", seconds_at_most: float = 30, **config):
    return job(home, f"{purse.run.id}/{step}", **config).model_copy(
        update={"max_hours": seconds_at_most / 3600}
    )


def state(purse: Purse, key: str) -> str:
    found = jobs.find(purse.pool, key)
    assert found is not None
    return found.state


def budget(purse: Purse, scope: str):
    return next(b for b in ledger.budgets(purse.pool) if b.scope == scope)


def test_success_is_charged_for_its_seconds_and_done_once(home: Path, purse: Purse) -> None:
    steps = []
    wanted = spec(home, purse, steps=4, seconds=0.2)
    result = launch.run_job(wanted, purse, lambda progress: steps.append(progress.step))
    assert result.metrics == {"total": 6.0} and steps[-1] == 4
    (reservation,) = charge.reservations(purse.pool, wanted.key)
    assert reservation.state == "settled"
    assert Decimal("0.008") < reservation.spent < Decimal("0.1")
    assert launch.run_job(wanted, purse) == result
    assert len(launcher(home).attempts(wanted.key)) == 1
    assert ledger.charged(purse.pool, f"run:{purse.run.id}") == reservation.spent
    found = budget(purse, "project")
    assert (found.charged, found.reserved) == (reservation.spent, 0)


def test_no_room_launches_nothing(home: Path, purse: Purse) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        launch.run_job(spec(home, purse, seconds_at_most=3600), purse)
    assert purse.run.id in str(caught.value) and "--max-cost" in str(caught.value)
    assert alive(home) == [] and budget(purse, "project").reserved == 0


def test_failure_is_the_jobs_own_and_final(home: Path, purse: Purse) -> None:
    wanted = spec(home, purse, fail="the reward is NaN")
    for _ in range(2):
        with pytest.raises(JobFailed, match="the reward is NaN"):
            launch.run_job(wanted, purse)
    assert budget(purse, "project").reserved == 0
    assert len(launcher(home).attempts(wanted.key)) == 1


def test_deadline_reserves_again_and_goes_on(home: Path, purse: Purse) -> None:
    wanted = spec(home, purse, seconds_at_most=5, steps=60, seconds=0.1)
    result = launch.run_job(wanted, purse)
    assert result.metrics == {"total": float(sum(range(60)))}
    found = charge.reservations(purse.pool, wanted.key)
    assert len(found) >= 2 and {r.state for r in found} == {"settled"}
    assert budget(purse, "project").charged == sum(r.spent for r in found)


def test_what_a_plan_says_is_at_most_with_two_continuations(home: Path, purse: Purse) -> None:
    wanted = spec(home, purse, seconds_at_most=8, steps=3, holds=2)
    window = wanted.max_hours
    step = Step("step", wanted.name, "train", lambda _: window, wanted.resources)
    (planned,) = plan([step], RunParameters())
    launch.run_job(wanted, purse)
    found = charge.reservations(purse.pool, wanted.key)
    assert len(found) == 3, "it was continued twice"
    spent = sum((one.spent for one in found), Decimal(0))
    assert planned.usd_a_window < spent <= planned.usd_at_most


@pytest.mark.parametrize("earlier", [3, 4])
def test_a_job_that_is_lost_again_and_again_costs_at_most_its_plan(
    home: Path, purse: Purse, earlier: int
) -> None:
    wanted = spec(home, purse, steps=2)
    quote = offers.cheapest(wanted.resources, "local")
    fill(purse, Decimal(3))
    jobs.record_launch(purse.pool, purse.run, wanted, quote, None)
    now, window = datetime.now(UTC), offers.price(quote, wanted.max_hours) / 2
    for number in range(1, earlier * 2):  # each was lost in the middle of its window
        held = ledger.reserve(
            purse.pool, f"{wanted.key}#{number}", purse.scopes, window * 2, now + timedelta(hours=1)
        )
        ledger.charge(purse.pool, held.id, f"{wanted.key}/{number}", window, now, now)
        ledger.settle(purse.pool, held.id)
    if earlier == 3:
        assert launch.run_job(wanted, purse).metrics == {"total": 1.0}
        return
    for _ in range(2):  # and for good
        with pytest.raises(JobError, match=r"could exceed its \$1\.4000 at most"):
            launch.run_job(wanted, purse)
    assert launcher(home).attempts(wanted.key) == []


def test_job_that_always_dies_is_given_up(home: Path, purse: Purse) -> None:
    wanted = spec(home, purse, seconds_at_most=3, steps=60, seconds=9, deaf=True)
    with pytest.raises(JobStopped, match=r"hours passed 4 times"):
        launch.run_job(wanted, purse)
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0


class LateLauncher(LocalLauncher):
    """Has no machine before the reservation expires, so many times."""

    late = 0

    def launch(self, spec: JobSpec, reservation: Reserved, quote: Quote | None = None) -> Handle:
        if self.late:
            self.late -= 1
            raise ReservationExpired("no machine in time")
        return super().launch(spec, reservation, quote)


@pytest.mark.parametrize(("late", "reserved"), [(1, 2), (9, 4)])
def test_a_machine_that_is_late_is_paid_from_a_new_reservation(
    home: Path, purse: Purse, monkeypatch: pytest.MonkeyPatch, late: int, reserved: int
) -> None:
    where = LateLauncher(home, Path(sys.executable), "tests.programs")
    where.late = late
    monkeypatch.setattr(offers, "launchers", lambda _target: {"local": where})
    wanted = spec(home, purse, steps=4)
    if late == 1:
        assert launch.run_job(wanted, purse).metrics == {"total": 6.0}
    else:
        with pytest.raises(ReservationExpired):
            launch.run_job(wanted, purse)
        assert jobs.of_run(purse.pool, purse.run.id)[0].state == "failed"
    found = charge.reservations(purse.pool, wanted.key)
    assert [one.state for one in found] == ["settled"] * reserved and found[0].spent == 0
    assert budget(purse, "project").reserved == 0


def test_interruption_stops_the_compute_and_settles(home: Path, purse: Purse) -> None:
    wanted = spec(home, purse, steps=40)

    def interrupt(_progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.run_job(wanted, purse, interrupt)
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0
    assert state(purse, wanted.key) == "interrupted" and not jobs.newest(purse.pool, 9, True)

    def again(_progress) -> None:
        assert state(purse, wanted.key) == "running"

    assert launch.run_job(wanted, purse, again).metrics == {"total": float(sum(range(40)))}
    assert state(purse, wanted.key) == "succeeded"
    assert budget(purse, "project").reserved == 0


def test_interruption_that_somebody_swallowed_stops_it_too(home: Path, purse: Purse) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interruption.install()

    def swallow(_progress) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        launch.run_job(spec(home, purse, steps=9999), purse, swallow)
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0


def test_full_object_store_costs_the_work_nothing(
    home: Path, purse: Purse, small_disk: Path
) -> None:
    ballast = fill_disk(small_disk)
    wanted = spec(home, purse, steps=5).model_copy(update={"output": small_disk.as_uri() + "/o"})
    with pytest.raises(ObjectError, match="NIGHTSHIFT_OBJECTS") as caught:
        launch.run_job(wanted, purse)
    assert wanted.key in caught.value.message and "same command" in caught.value.remedy
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0
    ballast.unlink()
    result = launch.run_job(wanted, purse)
    assert result.metrics == {"total": 10.0} and result.resumed_from == 5
    spent = sum(r.spent for r in charge.reservations(purse.pool, wanted.key))
    assert budget(purse, "project").charged == spent


@pytest.mark.parametrize("when", ["before", "during"])
def test_full_home_costs_the_work_nothing(
    purse: Purse, small_disk: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(offers, "launchers", lambda _: {"local": launcher(small_disk)})
    wanted = spec(small_disk, purse, steps=20)
    ballast = small_disk / "ballast"

    def fill_it(_progress: Progress) -> None:
        if not ballast.exists():
            fill_disk(small_disk)

    if when == "before":
        fill_disk(small_disk)
    with pytest.raises(ObjectError, match="NIGHTSHIFT_HOME"):
        launch.run_job(wanted, purse, fill_it)
    assert alive(small_disk) == [] and budget(purse, "project").reserved == 0
    ballast.unlink()
    assert launch.run_job(wanted, purse).metrics == {"total": float(sum(range(20)))}
    assert budget(purse, "project").reserved == 0


def test_stopped_by_a_person_stays_stopped(home: Path, purse: Purse) -> None:
    wanted = spec(home, purse, steps=9999)

    def stop(_progress) -> None:
        jobs.record_end(purse.pool, wanted.key, "stopped", error="stopped by a person")
        launcher(home).stop(launcher(home).attempts(wanted.key)[-1])

    for _ in range(2):
        with pytest.raises(JobStopped, match="stopped by a person"):
            launch.run_job(wanted, purse, stop)
    assert budget(purse, "project").reserved == 0


class StoppedMeanwhile(LocalLauncher):
    """A person stops the job before there is an attempt of it."""

    pool: Pool

    def launch(self, spec: JobSpec, reservation: Reserved, quote: Quote | None = None) -> Handle:
        jobs.record_end(self.pool, spec.key, "stopped", error="stopped by a person")
        return super().launch(spec, reservation, quote)


def test_stopped_by_a_person_while_it_is_launched(
    home: Path, purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = StoppedMeanwhile(home, Path(sys.executable), "tests.programs")
    where.pool = purse.pool
    monkeypatch.setattr(offers, "launchers", lambda _target: {"local": where})
    with pytest.raises(JobStopped, match="stopped by a person"):
        launch.run_job(spec(home, purse, steps=9999), purse)
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0


def abandon(home: Path, purse: Purse, **config) -> Handle:
    """A job whose flow is killed right after the launch."""
    wanted = spec(home, purse, "abandoned", **config)
    quote = offers.cheapest(wanted.resources, "local")
    record = jobs.record_launch(purse.pool, purse.run, wanted, quote, None)
    _, reservation = launch._reservation(record, launcher(home), purse)
    return launcher(home).launch(wanted, reservation)


@pytest.mark.parametrize("number", [1e300, 1e22, -0.0, 0.1, 1.0, 2**53])
def test_a_job_is_the_same_after_its_way_through_the_database(
    home: Path, purse: Purse, number: float
) -> None:
    wanted = spec(home, purse, number=number)
    quote = offers.cheapest(wanted.resources, "local")
    for _ in range(2):
        jobs.record_launch(purse.pool, purse.run, wanted, quote, None)
    other = wanted.model_copy(update={"config": {"number": 2.5}})
    with pytest.raises(LaunchError, match="other parameters"):
        jobs.record_launch(purse.pool, purse.run, other, quote, None)


def test_reconciling_settles_what_ended_unwatched(home: Path, purse: Purse) -> None:
    handle = abandon(home, purse, steps=2)
    wait(launcher(home), handle)
    assert reconcile.reconcile(purse.pool, "another-run")
    found = jobs.find(purse.pool, handle.key)
    assert found and found.state == "succeeded" and found.result
    assert budget(purse, "project").reserved == 0 < budget(purse, "project").charged
    assert reconcile.reconcile(purse.pool, "another-run") == []


def test_reconciling_leaves_live_runs_and_running_jobs_alone(home: Path, purse: Purse) -> None:
    handle = abandon(home, purse, steps=9999)
    assert reconcile.reconcile(purse.pool, "another-run") == []
    assert launcher(home).running() == [handle]
    launcher(home).stop(handle)
    with reconcile.run_lock(purse.run.id):
        assert reconcile.reconcile(purse.pool, "another-run") == []
    assert reconcile.reconcile(purse.pool, "another-run") != []
    assert budget(purse, "project").reserved == 0
    assert state(purse, handle.key) == "interrupted"


def test_reconciling_stops_what_has_no_money_and_frees_what_has_no_job(
    home: Path, purse: Purse
) -> None:
    handle = abandon(home, purse, steps=9999)
    ledger.settle(purse.pool, handle.reservation)
    ledger.reserve(
        purse.pool,
        f"{purse.run.id}/never#1",
        purse.scopes,
        Decimal("0.1"),
        datetime.now(UTC) + timedelta(hours=1),
    )
    done = " ".join(reconcile.reconcile(purse.pool, "another-run"))
    assert "without a reservation; stopped" in done and "never launched; freed" in done
    wait_until_none_is_alive(home)
    assert budget(purse, "project").reserved == 0


def test_minutes_are_charged_once_into_their_days(home: Path, purse: Purse) -> None:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(1)
    begun = midnight - timedelta(minutes=2)
    reservation = ledger.reserve(
        purse.pool, "k#1", ["project"], Decimal(10), midnight + timedelta(hours=1), now=begun
    )
    handle = Handle(launcher="local", key="k", reservation=reservation.id, place="", attempt=1)

    def at(minutes: float, state) -> JobStatus:
        return JobStatus(state=state, started=begun, seen=begun + timedelta(minutes=minutes))

    charged = 0
    for minutes in (0.5, 1.7, 3.2, 3.2):
        charged = charge.accrue(
            purse.pool, reservation, Decimal(36), handle, at(minutes, "running"), charged
        )
    assert ledger.get(purse.pool, reservation.id).spent == Decimal("1.8")
    for _ in range(2):
        charge.accrue(purse.pool, reservation, Decimal(36), handle, at(3.5, "succeeded"))
    assert ledger.get(purse.pool, reservation.id).spent == Decimal("2.1")
    # a look that saw it live less long, as after a power cut, changes nothing and fails nothing
    charge.accrue(purse.pool, reservation, Decimal(36), handle, at(2.5, "lost"))
    assert ledger.get(purse.pool, reservation.id).spent == Decimal("2.1")
    today = next(b for b in ledger.budgets(purse.pool, now=begun) if b.scope == "project")
    tomorrow = next(b for b in ledger.budgets(purse.pool, now=midnight) if b.scope == "project")
    assert (today.charged, tomorrow.charged) == (Decimal("1.2"), Decimal("0.9"))


def test_prices_and_places() -> None:
    quote = offers.cheapest(Resources(), "local")
    assert offers.price(quote, 1) == Decimal("0.1503")
    assert offers.price(quote.model_copy(update={"hourly_usd": 0}), 1) == Decimal("0.0001")
    with pytest.raises(LaunchError, match="GPUs"):
        offers.cheapest(Resources(accelerators={"H100": 64}), "local")
    with pytest.raises(LaunchError, match="spot"):
        offers.cheapest(Resources(use_spot=True), "local")


def test_purse_needs_money(purse: Purse) -> None:
    with pytest.raises(InputError, match="--max-cost"):
        fill(purse, Decimal(0))
    began = time.monotonic()
    assert fill(purse, Decimal(2)) is purse and time.monotonic() - began < 5
