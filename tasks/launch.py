"""Run a job under a budget: quote, reserve, launch, watch, charge, settle.

Safe to kill at any instruction: the job's key finds its row, its reservation and its process
again, so a second call re-attaches and never launches twice.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from itertools import count

import psycopg

from infra import database, interruption, jobs, ledger
from infra.compute.launcher import Handle, JobStatus, Launcher, Quote
from infra.compute.local import LocalLauncher
from infra.compute.sky.launcher import SkyLauncher
from infra.database import Pool
from infra.errors import (
    REMEDY_MARK,
    InputError,
    JobFailed,
    JobStopped,
    LaunchError,
    MachineLeft,
    NoCapacity,
    ObjectError,
    ProviderUnavailable,
    ReservationConflict,
    ReservationExpired,
)
from infra.ledger import Reservation
from infra.settings import settings
from jobs.contract import JobResult, JobSpec, Progress, Resources
from tasks.purse import Purse, Target

log = logging.getLogger("nightshift")

PLACES = Decimal("0.0001")
RENEWALS = 3
"""How often a job that ran into its deadline may reserve its hours again."""
FRUITLESS_ATTEMPTS = 5
"""A job that dies this often without a new progress step is given up."""

Watcher = Callable[[Progress], None]


def launchers(target: Target) -> dict[str, Launcher]:
    """The launchers that `--target` allows, by name."""
    found: dict[str, Launcher] = {}
    if target != "sky":
        found["local"] = LocalLauncher(settings().home)
    if target != "local":
        found["sky"] = SkyLauncher(database.pool())
    return found


def offers(resources: Resources, target: Target) -> list[Quote]:
    """Every offer for these resources, the cheapest first. Raises LaunchError: why none is."""
    quotes: list[Quote] = []
    refusals: list[LaunchError] = []
    for name, launcher in launchers(target).items():
        try:
            quotes += launcher.quotes(resources)
        except LaunchError as refusal:
            refusals.append(LaunchError(f"{name}: {refusal.message}", refusal.remedy))
    if not quotes:
        raise LaunchError(
            "no launcher can run this job: " + "; ".join(one.message for one in refusals),
            " ".join(one.remedy for one in refusals),
        )
    return sorted(quotes, key=lambda quote: quote.hourly_usd)


def cheapest(resources: Resources, target: Target) -> Quote:
    """The best offer for these resources. Raises LaunchError with every refusal."""
    if target != "local" and not settings().objects_uri.startswith("s3://"):
        if target == "sky":
            raise InputError(
                f"--target sky: a machine elsewhere cannot reach {settings().objects_uri}",
                "Set NIGHTSHIFT_OBJECTS to an s3:// bucket.",
            )
        target = "local"
    return offers(resources, target)[0]


def price(quote: Quote, hours: float) -> Decimal:
    """What `hours` cost at most, rounded up to the ledger's four places, and never nothing.

    With the time that it takes to make the machine ready and to end it.
    """
    due = quote.hourly_usd * (Decimal(str(hours)) + quote.overhead_hours)
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
        job = jobs.record_launch(purse.pool, purse.run, spec, quote, purse.flow_run)
    if job.state == "succeeded" and job.result is not None:
        return job.result
    if job.state in jobs.ENDED:
        kind = JobStopped if job.state == "stopped" else JobFailed
        raise kind(f"job {spec.key} {job.state}: {job.error}", "Start a new run.")
    jobs.record_return(purse.pool, job.key)
    try:
        return _carry_through(job, launchers("auto")[job.launcher], purse, watch)
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            jobs.record_interruption(purse.pool, job.key)  # unless it has ended
        raise


def _carry_through(
    job: jobs.JobRecord, launcher: Launcher, purse: Purse, watch: Watcher
) -> JobResult:
    """Attempt the job until it has succeeded, failed, or must not go on."""
    renewals, fruitless, furthest = 0, 0, -1
    full: set[str] = set()
    while True:
        job, reservation = _reservation(job, launcher, purse, full)
        try:
            status = _attend(job, launcher, reservation, purse.pool, watch)
        except NoCapacity as refusal:
            log.warning("%s; trying the next offer", refusal.message)
            full.add(job.quote.region)
            continue
        except ProviderUnavailable:
            raise
        except LaunchError as refusal:
            jobs.raise_if_stopped(purse.pool, job.key)
            renewals += isinstance(refusal, ReservationExpired)
            if isinstance(refusal, ReservationExpired) and renewals <= RENEWALS:
                log.warning("%s; reserving again", refusal.message)
                continue
            jobs.record_end(purse.pool, job.key, "failed", error=refusal.message)
            raise
        ledger.settle(purse.pool, reservation.id)
        if status.state == "succeeded" and status.result is not None:
            jobs.record_end(purse.pool, job.key, "succeeded", status.result)
            return status.result
        jobs.raise_if_stopped(purse.pool, job.key)
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
        jobs.raise_if_stopped(pool, job.key)
        handle = launcher.launch(job.spec, reservation, job.quote)
    except MachineLeft:  # its money stays reserved until somebody sees it gone
        raise
    except BaseException:
        with contextlib.suppress(psycopg.Error):  # the next reconciliation does it
            settle_past(pool, job, launcher)
            ledger.settle(pool, reservation.id)
        raise
    try:
        jobs.record_handle(pool, job.key, handle.model_dump(mode="json"))
        jobs.raise_if_stopped(pool, job.key)  # by somebody who found no attempt yet
        seen: Progress | None = None
        charged = 0
        while True:
            interruption.check()
            status = launcher.poll(handle)
            if status.progress is not None and status.progress != seen:
                seen = status.progress
                watch(seen)
            if status.state != "running":
                break
            with contextlib.suppress(psycopg.OperationalError):  # the next look charges it
                charged = accrue(pool, reservation, job.hourly_usd, handle, status, charged)
            time.sleep(launcher.poll_seconds)
        launcher.stop(handle)  # what has ended may have its machine still
        status = settle_past(pool, job, launcher)  # with the machines that a launch lost before
        assert status is not None
        if status.progress not in (None, seen):  # it ended between two looks
            watch(status.progress)
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
            try:
                ledger.charge(
                    pool,
                    reservation.id,
                    f"{reservation.key}/{handle.attempt}/{number}",
                    due - paid,
                    status.started + timedelta(minutes=begun),
                    status.started + timedelta(minutes=end),
                )
            except ReservationConflict:  # an earlier look saw it live longer: that is charged
                if end == int(end):
                    raise
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
    """Charge what attempts that nobody watched have cost; the last one's status, if any.

    What has ended is stopped first: it may have its machine still.
    """
    status = None
    live = {r.id: r for r in reservations(pool, job.key) if not r.closed}
    known = launcher.attempts(job.key)
    for handle in known:
        status = launcher.poll(handle)
        if handle == known[-1] and status.state != "running":
            launcher.stop(handle)
            status = launcher.poll(handle)
        if handle.reservation in live:
            accrue(pool, live[handle.reservation], job.hourly_usd, handle, status)
    return status


def _reservation(
    job: jobs.JobRecord, launcher: Launcher, purse: Purse, full: Collection[str] = ()
) -> tuple[jobs.JobRecord, Reservation]:
    """The job's live reservation, or a new one at today's price: a recovery pays like a start.

    Regions that are `full` are not asked again. Raises LaunchError when no other is left.
    """
    known = reservations(purse.pool, job.key)
    if known and not known[-1].closed:
        settle_past(purse.pool, job, launcher)
        if known[-1].expires_at > datetime.now(UTC):
            return job, known[-1]
        ledger.settle(purse.pool, known[-1].id)
    if known:
        quotes = [q for q in launcher.quotes(job.spec.resources) if q.region not in full]
        if not quotes:
            raise LaunchError(
                f"no place has room for the job {job.key}: asked were {', '.join(sorted(full))}",
                "Raise a quota there, ask for other resources, or try later.",
            )
        job = jobs.record_quote(purse.pool, job.key, quotes[0])
    reservation = ledger.reserve(
        purse.pool,
        f"{job.key}#{len(known) + 1}",
        purse.scopes,
        price(job.quote, job.spec.max_hours),
        datetime.now(UTC) + timedelta(hours=job.spec.max_hours),
    )
    return job, reservation


def _last_lines(job: jobs.JobRecord, launcher: Launcher, lines: int = 15) -> str:
    attempts = launcher.attempts(job.key)
    return "\n".join(list(launcher.logs(attempts[-1]))[-lines:]) if attempts else ""
