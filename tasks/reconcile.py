"""Put right what a killed process left: no process without money, no money without a process.

Compares the jobs table, the ledger and what really runs. Runs of live processes are left alone,
as long as their money lasts: each holds the lock of its run.
"""

import contextlib
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from infra import database, jobs, ledger
from infra.compute.launcher import Handle, Launcher
from infra.database import Pool
from infra.errors import AlreadyRunning, LaunchError, NightshiftError
from tasks.launch import launchers, settle_past

log = logging.getLogger("nightshift")

OVERDUE = timedelta(seconds=60)
"""How long after its reservation a job may still be seen, since ending it takes a moment."""


def run_lock(run_id: str) -> contextlib.AbstractContextManager[None]:
    """Held by the process that works at a run; AlreadyRunning for everybody else."""
    return database.exclusive(f"run {run_id}")


def reconcile(pool: Pool, own_run: str, dry_run: bool = False) -> list[str]:
    """What was done, or with `dry_run` would be, a line each; the last may say what cannot be told.

    `own_run` is the caller's, whose lock it holds.
    """
    done: list[str] = []
    present: list[tuple[Launcher, Handle]] = []
    unknown: list[str] = []
    for name, launcher in launchers("auto").items():
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
    launcher = launchers("auto")[job.launcher]
    live = [r for r in ledger.open_reservations(pool) if r.key.startswith(f"{job.key}#")]
    if dry_run:
        known = launcher.attempts(job.key)
        over = not known or launcher.poll(known[-1]).state != "running"
        return [f"{job.key} is no longer running; its cost is to be settled"] * bool(live and over)
    status = settle_past(pool, job, launcher)
    if status is not None and status.state == "running":
        return []
    for reservation in live:
        ledger.settle(pool, reservation.id)
    if status is not None and status.state in ("succeeded", "failed"):
        error = status.result.error if status.result else None
        jobs.record_end(pool, job.key, status.state, status.result, error)
        return [f"{job.key} had {status.state}; its cost is settled"]
    jobs.record_interruption(pool, job.key)
    return [f"{job.key} is no longer running; its reservation is freed"] if live else []


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
            try:
                if not dry_run:
                    if job:
                        settle_past(pool, job, launchers("auto")[job.launcher])
                    ledger.settle(pool, reservation.id)
                why = f"its job has {job.state}" if job and job.ended_at else "never launched"
                freed.append(f"{reservation.key}: {why}; freed")
            except NightshiftError as error:
                freed.append(f"{reservation.key} cannot be settled: {error.message}")
    return freed


def _stop_unpaid(pool: Pool, launcher: Launcher, handle: Handle, dry_run: bool) -> list[str]:
    """End what runs under our label without a live reservation, or past its end."""
    reservation = next(
        (one for one in ledger.open_reservations(pool) if one.id == handle.reservation), None
    )
    if reservation and reservation.expires_at + OVERDUE > datetime.now(UTC):
        return []
    if not dry_run:
        launcher.stop(handle)
        job = jobs.find(pool, handle.key)
        if reservation and job:
            settle_past(pool, job, launcher)
            ledger.settle(pool, reservation.id)
    why = "is past its reservation" if reservation else "ran without a reservation"
    return [f"{handle.key} {why}; stopped"]
