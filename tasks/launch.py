"""Run a job under a budget: quote, reserve, launch, watch, charge, settle.

Safe to kill at any instruction: the job's key finds its row, its reservation and its process
again, so a second call re-attaches and never launches twice.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from itertools import count

import psycopg

from infra import jobs, ledger
from infra.compute.launcher import Handle, JobStatus, Launcher, Quote
from infra.compute.local import LocalLauncher
from infra.database import Pool
from infra.errors import (
    REMEDY_MARK,
    InputError,
    JobFailed,
    JobStopped,
    LaunchError,
    ObjectError,
)
from infra.ledger import Reservation
from infra.settings import settings
from jobs.contract import JobResult, JobSpec, Progress, Resources
from tasks.purse import Purse, Target

log = logging.getLogger("nightshift")

PLACES = Decimal("0.0001")
ENDING_HOURS = Decimal(5) / 3600
RENEWALS = 3
"""How often a job that ran into its deadline may reserve its hours again."""
FRUITLESS_ATTEMPTS = 5
"""A job that dies this often without a new progress step is given up."""

Watcher = Callable[[Progress], None]


def launchers(target: Target) -> dict[str, Launcher]:
    """The launchers that `--target` allows, by name."""
    if target == "sky":
        raise InputError(
            "--target sky: launching through SkyPilot is not there yet",
            "Use --target local or --target auto.",
        )
    return {"local": LocalLauncher(settings().home)}


def cheapest(resources: Resources, target: Target) -> Quote:
    """The best offer for these resources. Raises LaunchError with every refusal."""
    quotes: list[Quote] = []
    refusals: list[str] = []
    for name, launcher in launchers(target).items():
        try:
            quotes.append(launcher.quote(resources))
        except LaunchError as refusal:
            refusals.append(f"{name}: {refusal.message}")
    if not quotes:
        raise LaunchError(
            "no launcher can run this job: " + "; ".join(refusals),
            "Ask for fewer resources, or allow another place with --target.",
        )
    return min(quotes, key=lambda quote: quote.hourly_usd)


def price(hourly_usd: Decimal, hours: float) -> Decimal:
    """What `hours` cost at most, rounded up to the ledger's four places, and never nothing.

    With a few seconds more, since ending a job at its deadline takes a moment.
    """
    due = hourly_usd * (Decimal(str(hours)) + ENDING_HOURS)
    return max(PLACES, due.quantize(PLACES, ROUND_UP))


def run_job(spec: JobSpec, purse: Purse, watch: Watcher = lambda _: None) -> JobResult:
    """Have the job done, once, and paid from `purse`; its result.

    Raises BudgetExceeded before anything is launched, JobFailed with the job's own error and
    last log lines, JobStopped when a person or the end of its money stopped it, ObjectError when
    its storage failed: a later call goes on.
    """
    job = jobs.find(purse.pool, spec.key)
    if job is None:
        quote = cheapest(spec.resources, purse.target)
        job = jobs.record_launch(
            purse.pool, purse.run, spec, quote.launcher, quote.hourly_usd, purse.flow_run
        )
    if job.state == "succeeded" and job.result is not None:
        return job.result
    if job.state in jobs.ENDED:
        kind = JobStopped if job.state == "stopped" else JobFailed
        raise kind(f"job {spec.key} {job.state}: {job.error}", "Start a new run.")
    return _carry_through(job, launchers("auto")[job.launcher], purse, watch)


def _carry_through(
    job: jobs.JobRecord, launcher: Launcher, purse: Purse, watch: Watcher
) -> JobResult:
    """Attempt the job until it has succeeded, failed, or must not go on."""
    renewals, fruitless, furthest = 0, 0, -1
    while True:
        reservation = _reservation(job, launcher, purse)
        status = _attend(job, launcher, reservation, purse.pool, watch)
        if status.state != "lost":
            ledger.settle(purse.pool, reservation.id)
        if status.state == "succeeded" and status.result is not None:
            jobs.record_end(purse.pool, job.key, "succeeded", status.result)
            return status.result
        stopped = jobs.find(purse.pool, job.key)
        if stopped is not None and stopped.state == "stopped":
            ledger.settle(purse.pool, reservation.id)
            raise JobStopped(f"job {job.key} was stopped: {stopped.error}", "Start a new run.")
        if status.state == "failed":
            error = status.result.error if status.result else None
            error = error or f"exit code {status.exit_code}\n{_last_lines(job, launcher)}"
            jobs.record_end(purse.pool, job.key, "failed", error=error)
            raise JobFailed(
                f"job {job.key} failed: {error}", f"`nightshift jobs logs {job.key}` has its log."
            )
        if status.state == "continue" and status.result is not None and status.result.error:
            message, _, remedy = status.result.error.partition(REMEDY_MARK)
            raise ObjectError(
                f"job {job.key}: {message}", f"{remedy} The same command then goes on."
            )
        renewals += status.state == "continue" or status.seen >= reservation.expires_at
        step = status.progress.step if status.progress else 0
        fruitless = 0 if step > furthest else fruitless + 1
        furthest = max(step, furthest)
        if fruitless == FRUITLESS_ATTEMPTS or renewals > RENEWALS:
            ledger.settle(purse.pool, reservation.id)
            error = (
                f"its {job.spec.max_hours:g} hours passed {renewals} times"
                if renewals > RENEWALS
                else f"it ended {fruitless} times without a step beyond {furthest}"
            )
            jobs.record_end(purse.pool, job.key, "failed", error=error)
            raise JobStopped(
                f"job {job.key}: {error}",
                f"Read `nightshift jobs logs {job.key}`; give it more --hours or memory.",
            )
        log.warning("%s: %s; starting it again from its checkpoint", job.spec.name, status.state)


def _attend(
    job: jobs.JobRecord, launcher: Launcher, reservation: Reservation, pool: Pool, watch: Watcher
) -> JobStatus:
    """Launch or re-attach, charge while it runs, and see it end. An exception ends it too."""
    try:
        handle = launcher.launch(job.spec, reservation)
    except BaseException:
        with contextlib.suppress(psycopg.Error):  # the next reconciliation does it
            ledger.settle(pool, reservation.id)
        raise
    try:
        jobs.record_handle(pool, job.key, handle.model_dump(mode="json"))
        seen: Progress | None = None
        charged = 0
        while True:
            status = launcher.poll(handle)
            if status.progress is not None and status.progress != seen:
                seen = status.progress
                watch(seen)
            if status.state != "running":
                break
            with contextlib.suppress(psycopg.OperationalError):  # the next look charges it
                charged = accrue(pool, reservation, job.hourly_usd, handle, status, charged)
            time.sleep(settings().poll_seconds)
        accrue(pool, reservation, job.hourly_usd, handle, status)
    except BaseException:
        halt(pool, job, launcher, handle, reservation)
        raise
    return status


def halt(
    pool: Pool,
    job: jobs.JobRecord,
    launcher: Launcher,
    handle: Handle,
    reservation: Reservation | None,
) -> None:
    """Stop the compute first, whatever else fails, then charge what it had and free the rest."""
    launcher.stop(handle)
    if reservation is not None:
        with contextlib.suppress(psycopg.Error):  # the next reconciliation does it
            accrue(pool, reservation, job.hourly_usd, handle, launcher.poll(handle))
            ledger.settle(pool, reservation.id)


def accrue(
    pool: Pool,
    reservation: Reservation,
    hourly_usd: Decimal,
    handle: Handle,
    status: JobStatus,
    charged: int = 0,
) -> int:
    """Charge the minutes that a job has had the machine, each once, into the day they fall in.

    While it runs whole minutes only, at its end the rest. What is due is rounded down over the
    whole attempt, so that rounding never exceeds what was reserved. The first `charged` minutes
    are known to be charged; returns how many are now.
    """
    if status.started is None or handle.reservation != reservation.id:
        return charged
    minutes = max(0.0, (status.seen - status.started).total_seconds() / 60)
    ends = [float(minute) for minute in range(1, int(minutes) + 1)]
    if status.state != "running" and minutes > int(minutes):
        ends.append(minutes)
    begun, paid = 0.0, Decimal(0)
    for number, end in enumerate(ends):
        due = (hourly_usd * Decimal(str(end)) / 60).quantize(PLACES, ROUND_DOWN)
        if due == paid:
            continue
        if number >= charged:
            ledger.charge(
                pool,
                reservation.id,
                f"{reservation.key}/{handle.attempt}/{number}",
                due - paid,
                status.started + timedelta(minutes=begun),
                status.started + timedelta(minutes=end),
            )
        begun, paid = end, due
    return len(ends)


def reservations(pool: Pool, job_key: str) -> list[Reservation]:
    """All reservations of a job, oldest first: the first, then one for each renewal."""
    found = []
    for number in count(1):
        known = ledger.find(pool, f"{job_key}#{number}")
        if known is None:
            return found
        found.append(known)
    raise AssertionError


def settle_past(pool: Pool, job: jobs.JobRecord, launcher: Launcher) -> JobStatus | None:
    """Charge what attempts that nobody watched have cost; the last one's status, if any."""
    status = None
    live = {r.id: r for r in reservations(pool, job.key) if not r.closed}
    for handle in launcher.attempts(job.key):
        status = launcher.poll(handle)
        if handle.reservation in live:
            accrue(pool, live[handle.reservation], job.hourly_usd, handle, status)
    return status


def _reservation(job: jobs.JobRecord, launcher: Launcher, purse: Purse) -> Reservation:
    """The job's live reservation, or a new one."""
    known = reservations(purse.pool, job.key)
    if known and not known[-1].closed:
        settle_past(purse.pool, job, launcher)
        if known[-1].expires_at > datetime.now(UTC):
            return known[-1]
        ledger.settle(purse.pool, known[-1].id)
    return ledger.reserve(
        purse.pool,
        f"{job.key}#{len(known) + 1}",
        purse.scopes,
        price(job.hourly_usd, job.spec.max_hours),
        datetime.now(UTC) + timedelta(hours=job.spec.max_hours),
    )


def _last_lines(job: jobs.JobRecord, launcher: Launcher, lines: int = 15) -> str:
    attempts = launcher.attempts(job.key)
    return "\n".join(list(launcher.logs(attempts[-1]))[-lines:]) if attempts else ""
