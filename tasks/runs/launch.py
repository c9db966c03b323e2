"""Run a job under a budget: quote, reserve, launch, watch, charge, settle.

Safe to kill at any instruction: the job's key finds its row, its reservation and its process
again, so a second call re-attaches and never launches twice.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg

from infra import interruption, ledger
from infra.compute import jobs
from infra.compute.launcher import JobStatus, Launcher
from infra.contract import JobResult, JobSpec, Progress
from infra.database import Pool
from infra.errors import (
    REMEDY_MARK,
    AlreadyRunning,
    DatabaseUnavailable,
    JobFailed,
    JobStopped,
    LaunchError,
    MachineLeft,
    NightshiftError,
    NoCapacity,
    ObjectError,
    ProviderUnavailable,
    ReservationExpired,
)
from infra.ledger import Reservation
from tasks.runs import offers
from tasks.runs.charge import accrue, halt, reservations, settle_past
from tasks.runs.offers import cheapest, price
from tasks.runs.purse import Purse
from tasks.runs.reconcile import keep_run_lock, take_over
from tasks.runs.states import RENEWALS, Decision, History, Outcome, next_step

log = logging.getLogger("nightshift")

LOCK_SECONDS = 10
"""How often a process that waits for a job makes sure that it still holds the lock of the run."""

Watcher = Callable[[Progress], None]


def run_job(spec: JobSpec, purse: Purse, watch: Watcher = lambda _: None) -> JobResult:
    """Have the job done, once, and paid from `purse`; its result.

    Raises BudgetExceeded before anything is launched, JobFailed with the job's own error and
    last log lines, JobStopped when a person or the end of its money stopped it, ObjectError when
    its storage failed: a later call goes on. ProviderUnavailable while another home is at the job,
    AlreadyRunning where another process has the run now.
    """
    keep_run_lock(purse.run.id)
    job = jobs.find(purse.pool, spec.key)
    if job is None:
        quote = cheapest(spec.resources, purse.target)
        job = jobs.record_launch(purse.pool, purse.run, spec, quote, purse.flow_run)
    if job.state == "succeeded" and job.result is not None:
        return job.result
    if job.state in jobs.ENDED:
        kind = JobStopped if job.state == "stopped" else JobFailed
        raise kind(f"job {spec.key} {job.state}: {job.error}", "Start a new run.")
    if job.is_elsewhere:
        take_over(purse.pool, job)
    job = jobs.record_return(purse.pool, job.key)
    try:
        return _carry_through(job, offers.launchers("auto")[job.launcher], purse, watch)
    except AlreadyRunning:  # the job is another process's now
        raise
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            jobs.record_interruption(purse.pool, job.key)  # unless it has ended
        raise


@dataclass(frozen=True)
class Ended:
    """How an attempt came out. `error` is what the caller hears if nothing follows, `why` what is
    logged and recorded of it."""

    outcome: Outcome
    why: str = ""
    error: NightshiftError | None = None
    result: JobResult | None = None
    step: int = 0


def _carry_through(
    job: jobs.JobRecord, launcher: Launcher, purse: Purse, watch: Watcher
) -> JobResult:
    """Attempt the job until it has succeeded, failed, or must not go on, as `states` decides."""
    history, full = History(), set[str]()
    while True:
        job, reservation = _reservation(job, launcher, purse, full)
        ended = _attempt(job, launcher, reservation, purse.pool, watch)
        decision, history = next_step(history, ended.outcome, ended.step)
        match decision:
            case Decision.AGAIN:
                log.warning(
                    "%s: %s; starting it again from its checkpoint", job.spec.name, ended.why
                )
                continue
            case Decision.ELSEWHERE:
                log.warning("%s; trying the next offer", ended.why)
                full.add(job.quote.region)
                continue
            case Decision.SUCCEED:
                assert ended.result is not None
                jobs.record_end(purse.pool, job.key, "succeeded", ended.result)
                return ended.result
            case Decision.FAIL | Decision.GIVE_UP:
                if decision is Decision.GIVE_UP:
                    ended = _given_up(job, history)
                jobs.record_end(purse.pool, job.key, "failed", error=ended.why)
            case Decision.STOP | Decision.INTERRUPT:  # recorded by who stopped it, or by `run_job`
                pass
        assert ended.error is not None
        raise ended.error


def _attempt(
    job: jobs.JobRecord, launcher: Launcher, reservation: Reservation, pool: Pool, watch: Watcher
) -> Ended:
    """Attempt the job once; its reservation is settled, unless its machine may be there still."""
    try:
        status = _attend(job, launcher, reservation, pool, watch)
        ledger.settle(pool, reservation.id)
        ended = _ended(job, launcher, reservation, status)
    except NoCapacity as refusal:
        return Ended(Outcome.NO_ROOM, refusal.message, refusal)
    except (ProviderUnavailable, ObjectError) as refusal:
        return Ended(Outcome.AWAY, refusal.message, refusal)
    except ReservationExpired as refusal:
        ended = Ended(Outcome.LATE, refusal.message, refusal)
    except LaunchError as refusal:
        ended = Ended(Outcome.FAILED, refusal.message, refusal)
    except JobStopped as stop:
        return Ended(Outcome.STOPPED, stop.message, stop)
    if ended.outcome is not Outcome.SUCCEEDED and (stop := jobs.stopped(pool, job.key)):
        return Ended(Outcome.STOPPED, stop.message, stop)
    return ended


def _ended(
    job: jobs.JobRecord, launcher: Launcher, reservation: Reservation, status: JobStatus
) -> Ended:
    """What the last look at an attempt says of how it came out."""
    error = status.result.error if status.result else None
    if status.state == "succeeded" and status.result is not None:
        return Ended(Outcome.SUCCEEDED, result=status.result)
    if status.state == "failed":
        why = error or f"exit code {status.exit_code}\n{_last_lines(job, launcher)}"
        remedy = f"`nightshift jobs logs {job.key}` has its log."
        return Ended(Outcome.FAILED, why, JobFailed(f"job {job.key} failed: {why}", remedy))
    if status.state == "continue" and error:
        why, _, remedy = error.partition(REMEDY_MARK)
        storage = ObjectError(f"job {job.key}: {why}", f"{remedy} The same command then goes on.")
        return Ended(Outcome.AWAY, why, storage)
    is_late = status.state == "continue" or status.seen >= reservation.expires_at
    step = status.progress.step if status.progress else 0
    return Ended(Outcome.TO_CONTINUE if is_late else Outcome.LOST, status.state, step=step)


def _given_up(job: jobs.JobRecord, history: History) -> Ended:
    why = f"it ended {history.fruitless} times without a step beyond {history.furthest}"
    if history.renewals > RENEWALS:
        why = f"its {job.spec.max_hours:g} hours passed {history.renewals} times"
    remedy = f"Read `nightshift jobs logs {job.key}`; give it more --hours or memory."
    return Ended(Outcome.FAILED, why, JobStopped(f"job {job.key}: {why}", remedy))


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
            with contextlib.suppress(psycopg.OperationalError, DatabaseUnavailable):
                # the next look does what this one cannot
                keep_run_lock(job.run_id, LOCK_SECONDS)
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


def _reservation(
    job: jobs.JobRecord, launcher: Launcher, purse: Purse, full: Collection[str] = ()
) -> tuple[jobs.JobRecord, Reservation]:
    """The job's live reservation, or a new one at today's price: a recovery pays like a start.

    Regions that are `full` are not asked again. Raises LaunchError when no other is left,
    AlreadyRunning where the lock of the run was lost to another process, and JobStopped where the
    job could cost more than its plan said.
    """
    keep_run_lock(job.run_id)
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
    amount = price(job.quote, job.spec.max_hours)
    if known:
        _raise_beyond_plan(job, reservations(purse.pool, job.key), amount, purse.pool)
    reservation = ledger.reserve(
        purse.pool,
        f"{job.key}#{len(known) + 1}",
        purse.scopes,
        amount,
        datetime.now(UTC) + timedelta(hours=job.spec.max_hours),
    )
    return job, reservation


def _raise_beyond_plan(
    job: jobs.JobRecord, known: Sequence[Reservation], amount: Decimal, pool: Pool
) -> None:
    """End the job for good where `amount` dollars more could exceed what its plan said: its first
    reservation and each renewal of it, however often it was lost and whoever took it up."""
    spent = sum((one.spent for one in known), Decimal(0))
    planned = known[0].amount * (1 + RENEWALS)
    if spent + amount > planned:
        why = f"it has cost ${spent:f}; another attempt could exceed its ${planned:f} at most"
        jobs.record_end(pool, job.key, "failed", error=why)
        raise JobStopped(f"job {job.key}: {why}", "Start a new run, with more --hours if it needs.")


def _last_lines(job: jobs.JobRecord, launcher: Launcher, lines: int = 15) -> str:
    attempts = launcher.attempts(job.key)
    return "\n".join(list(launcher.logs(attempts[-1]))[-lines:]) if attempts else ""
