"""Put right what a killed process left: no process without money, no money without a process.

Compares the jobs table, the ledger and what really runs. Runs of live processes are left alone,
as long as their money lasts: each holds the lock of its run.
"""

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from infra import database, ledger
from infra.compute import jobs
from infra.compute.launcher import Handle, Launcher
from infra.database import Pool
from infra.errors import AlreadyRunning, LaunchError, NightshiftError, ProviderUnavailable
from infra.ledger import Reservation
from infra.models import tracking
from infra.records import runs
from tasks.runs import offers
from tasks.runs.charge import settle_past
from tasks.runs.curves import TRAINING, courtesy

log = logging.getLogger("nightshift")

OVERDUE = timedelta(seconds=60)
"""How long after its reservation a job may still be seen, since ending it takes a moment."""


def run_lock(run_id: str) -> contextlib.AbstractContextManager[None]:
    """Held by the process that works at a run; AlreadyRunning for everybody else."""
    return database.exclusive(runs.exclusive_right(run_id))


def keep_run_lock(run_id: str, seconds: float = 0) -> None:
    """Make sure that this process still holds the lock of a run; not again within `seconds`.

    Raises AlreadyRunning where the lock was lost and another process works at the run by now.
    """
    database.still_exclusive(runs.exclusive_right(run_id), seconds)


def reconcile(pool: Pool, own_run: str, dry_run: bool = False) -> list[str]:
    """What was done, or with `dry_run` would be, a line each; the last may say what cannot be told.

    `own_run` is the caller's, whose lock it holds.
    """
    done: list[str] = []
    present: list[tuple[Launcher, Handle]] = []
    unknown: list[str] = []
    for name, launcher in offers.launchers("auto").items():
        try:
            present += [(launcher, handle) for handle in launcher.running()]
        except LaunchError as error:  # its jobs are left as they are until it answers
            unknown.append(name)
            done.append(f"what {name} runs cannot be told: {error.message}")
    for job in jobs.unended(pool):
        if job.launcher in unknown:
            continue
        with is_dead(job.run_id, own_run) as dead:
            if dead:
                try:
                    done += _end_unwatched(pool, job, dry_run)
                except NightshiftError as error:  # its provider's or its bucket's
                    done.append(f"{job.key} cannot be ended: {error.message}")
    if not unknown:
        done += _release_forgotten(pool, own_run, {one.key for _, one in present}, dry_run)
    for launcher, handle in present:
        try:
            done += _stop_unpaid(pool, launcher, handle, dry_run)
        except NightshiftError as error:
            done.append(f"{handle.key} cannot be stopped: {error.message}")
    for line in done:
        log.info("%s: %s", "would be reconciled" if dry_run else "reconciled", line)
    return done


@contextlib.contextmanager
def is_dead(run_id: str, own_run: str) -> Iterator[bool]:
    """Whether nobody works at a run; while the block runs nobody can begin to."""
    if run_id == own_run:
        yield False
        return
    try:
        with run_lock(run_id):
            yield True
    except AlreadyRunning:
        yield False


def _end_unwatched(pool: Pool, job: jobs.JobRecord, dry_run: bool) -> list[str]:
    """Charge and settle an attempt that ended while nobody watched; a running one goes on."""
    launcher = offers.launchers("auto")[job.launcher]
    live = [r for r in ledger.open_reservations(pool) if r.key.startswith(f"{job.key}#")]
    if any(_runs_elsewhere(job, reservation) for reservation in live):
        return [f"{job.key} runs at {job.home}, which is not seen from here; left alone"]
    if dry_run:
        known = launcher.attempts(job.key)
        over = not known or launcher.poll(known[-1]).state != "running"
        return [f"{job.key} is no longer running; its cost is to be settled"] * bool(live and over)
    status = settle_past(pool, job, launcher)
    if status is not None and status.state == "running":
        return []
    keep_run_lock(job.run_id)  # to end a machine may have taken long
    for reservation in live:
        ledger.settle(pool, reservation.id)
    if status is not None and status.state in ("succeeded", "failed"):
        error = status.result.error if status.result else None
        jobs.record_end(pool, job.key, status.state, status.result, error)
        _close_curve(job, status.state)
        return [f"{job.key} had {status.state}; its cost is settled"]
    jobs.record_interruption(pool, job.key)
    if job.state != "interrupted":  # else it was closed before
        _close_curve(job, "interrupted")
    return [f"{job.key} is no longer running; its reservation is freed"] if live else []


def _close_curve(job: jobs.JobRecord, state: str) -> None:
    """No curve of a training that has ended seems to go on."""
    run_id, _, step = job.key.partition("/")
    if step == TRAINING:
        with courtesy("MLflow"):
            tracking.end(run_id, state)


def _release_forgotten(pool: Pool, own_run: str, running: set[str], dry_run: bool) -> list[str]:
    """Free reservations whose run nobody works at and whose job is not running."""
    freed = []
    for reservation in ledger.open_reservations(pool):
        job_key = reservation.key.rpartition("#")[0]
        run_id = job_key.partition("/")[0]
        with is_dead(run_id, own_run) as dead:
            if not dead or job_key in running:
                continue
            job = jobs.find(pool, job_key)
            if job and _runs_elsewhere(job, reservation):
                continue
            try:
                if not dry_run:
                    launcher = offers.launchers("auto")[job.launcher] if job else None
                    status = settle_past(pool, job, launcher) if job and launcher else None
                    if status and status.state == "running":  # though nobody lists it
                        continue
                    keep_run_lock(run_id)
                    ledger.settle(pool, reservation.id)
                why = f"its job has {job.state}" if job and job.ended_at else "never launched"
                freed.append(f"{reservation.key}: {why}; freed")
            except NightshiftError as error:
                freed.append(f"{reservation.key} cannot be settled: {error.message}")
    return freed


def take_over(pool: Pool, job: jobs.JobRecord) -> None:
    """Settle what another home has left of a job, so that it can be launched here.

    Raises ProviderUnavailable while that home's machine may be at it.
    """
    for reservation in ledger.open_reservations(pool):
        if reservation.key.rpartition("#")[0] != job.key:
            continue
        if _runs_elsewhere(job, reservation):
            raise ProviderUnavailable(
                f"{job.key} runs at {job.home}, which this home cannot reach",
                "Give the same command there (NIGHTSHIFT_HOME), where it goes on; here it can from "
                f"{reservation.expires_at + OVERDUE:%Y-%m-%d %H:%M} UTC on.",
            )
        settle_past(pool, job, offers.launchers("auto")[job.launcher])
        ledger.settle(pool, reservation.id)


def _runs_elsewhere(job: jobs.JobRecord, reservation: Reservation) -> bool:
    """Whether another home's machine may be at it. After the reservation its watchdog ended it."""
    return job.is_elsewhere and not _is_over(reservation)


def _is_over(reservation: Reservation) -> bool:
    return reservation.expires_at + OVERDUE <= datetime.now(UTC)


def _stop_unpaid(pool: Pool, launcher: Launcher, handle: Handle, dry_run: bool) -> list[str]:
    """End what runs under our label without a live reservation, or past its end."""
    reservation = next(
        (one for one in ledger.open_reservations(pool) if one.id == handle.reservation), None
    )
    if reservation and not _is_over(reservation):
        return []
    if not dry_run:
        launcher.stop(handle)
        job = jobs.find(pool, handle.key)
        if reservation and job:
            settle_past(pool, job, launcher)
            ledger.settle(pool, reservation.id)
    why = "is past its reservation" if reservation else "ran without a reservation"
    return [f"{handle.key} {why}; stopped"]
