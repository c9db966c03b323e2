"""Put right what a killed process left: no process without money, no money without a process.

Compares the jobs table, the ledger and what really runs. Runs of live processes are left alone:
each holds the lock of its run.
"""

import contextlib
import logging
from collections.abc import Iterator

from infra import database, jobs, ledger
from infra.compute.launcher import Handle
from infra.database import Pool
from infra.errors import AlreadyRunning
from tasks.launch import launchers, settle_past

log = logging.getLogger("nightshift")


def run_lock(run_id: str) -> contextlib.AbstractContextManager[None]:
    """Held by the process that works at a run; AlreadyRunning for everybody else."""
    return database.exclusive(f"run {run_id}")


def reconcile(pool: Pool, own_run: str) -> list[str]:
    """What was done, a line each. `own_run` is the caller's, whose lock it holds."""
    done: list[str] = []
    for job in jobs.unended(pool):
        with _dead(job.run_id, own_run) as dead:
            if dead:
                done += _end_unwatched(pool, job)
    done += _release_forgotten(pool, own_run)
    done += _stop_unpaid(pool)
    for line in done:
        log.info("reconciled: %s", line)
    return done


@contextlib.contextmanager
def _dead(run_id: str, own_run: str) -> Iterator[bool]:
    """Whether nobody works at a run; while the block runs nobody can begin to."""
    if run_id == own_run:
        yield False
        return
    try:
        with run_lock(run_id):
            yield True
    except AlreadyRunning:
        yield False


def _end_unwatched(pool: Pool, job: jobs.JobRecord) -> list[str]:
    """Charge and settle an attempt that ended while nobody watched; a running one goes on."""
    status = settle_past(pool, job, launchers("auto")[job.launcher])
    if status is not None and status.state == "running":
        return []
    live = [r for r in ledger.open_reservations(pool) if r.key.startswith(f"{job.key}#")]
    for reservation in live:
        ledger.settle(pool, reservation.id)
    if status is not None and status.state in ("succeeded", "failed"):
        error = status.result.error if status.result else None
        jobs.record_end(pool, job.key, status.state, status.result, error)
        return [f"{job.key} had {status.state}; its cost is settled"]
    return [f"{job.key} is no longer running; its reservation is freed"] if live else []


def _release_forgotten(pool: Pool, own_run: str) -> list[str]:
    """Free reservations whose run nobody works at and whose job is not running."""
    running = {
        handle.key for launcher in launchers("auto").values() for handle in launcher.running()
    }
    freed = []
    for reservation in ledger.open_reservations(pool):
        job_key = reservation.key.rpartition("#")[0]
        run_id = job_key.partition("/")[0]
        with _dead(run_id, own_run) as dead:
            if dead and job_key not in running:
                ledger.settle(pool, reservation.id)
                freed.append(f"{reservation.key}: reserved, never launched; freed")
    return freed


def _stop_unpaid(pool: Pool) -> list[str]:
    """End what runs under our label without a live reservation."""
    stopped = []
    for launcher in launchers("auto").values():
        for handle in launcher.running():
            if not _is_paid(pool, handle):
                launcher.stop(handle)
                stopped.append(f"{handle.key} ran without a reservation; stopped")
    return stopped


def _is_paid(pool: Pool, handle: Handle) -> bool:
    return any(r.id == handle.reservation for r in ledger.open_reservations(pool))
