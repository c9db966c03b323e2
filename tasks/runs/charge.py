"""What a job's machine has cost so far, charged into the day it falls in; and its end."""

import contextlib
from datetime import timedelta
from decimal import ROUND_DOWN, Decimal
from itertools import count

import psycopg

from infra import ledger
from infra.compute import jobs
from infra.compute.launcher import Handle, JobStatus, Launcher
from infra.database import Pool
from infra.errors import ReservationConflict
from infra.ledger import Reservation

PLACES = Decimal("0.0001")


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
    are known to be charged; returns how many are now. A minute that was charged stays, though a
    later look knows better when the machine began, or saw it live less long.
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
            with contextlib.suppress(ReservationConflict):
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
    """Charge what attempts that nobody watched have cost; the last one's status, if any.

    What has ended is stopped first: it may have its machine still. What ran on under a reservation
    that somebody had closed is a late bill. What another home ran, only that home knows: the whole
    reservation is charged.
    """
    status = None
    money = {r.id: r for r in reservations(pool, job.key)}
    if job.is_elsewhere:
        for reservation in money.values():
            _charge_whole(pool, reservation)
        return None
    known = launcher.attempts(job.key)
    for handle in known:
        status = launcher.poll(handle)
        if handle == known[-1] and status.state != "running":
            launcher.stop(handle)
            status = launcher.poll(handle)
        paid_by = money.get(handle.reservation)
        if paid_by and (paid_by.closed_at is None or paid_by.closed_at < status.seen):
            accrue(pool, paid_by, job.hourly_usd, handle, status)
    return status


def _charge_whole(pool: Pool, reservation: Reservation) -> None:
    """Charge all that is left of an open reservation."""
    left = reservation.amount - reservation.spent
    if reservation.closed or left <= 0:
        return
    with contextlib.suppress(ReservationConflict):  # by another that came to it at the same time
        ledger.charge(
            pool,
            reservation.id,
            f"{reservation.key}/whole",
            left,
            reservation.created_at,
            reservation.expires_at,
        )
