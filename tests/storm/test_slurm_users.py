"""Two SkyPilot users of one API server on a real cluster: one's guard sees the other's machine."""

from pathlib import Path

from infra import ledger
from infra.compute import attempts, jobs
from infra.compute.mirror import Mirror
from tasks.runs import charge
from tasks.runs.purse import Purse
from tests.cloud.lab import job, queue, start_night, sweep_as_another_user, until


def test_a_second_users_guard_leaves_what_runs_and_ends_what_is_not_paid(
    purse: Purse, tmp_path: Path
) -> None:
    wanted = job(purse, hours=0.5, steps=9999, seconds=0.1)
    night = start_night(purse, wanted)
    try:
        until(lambda: (known := jobs.find(purse.pool, wanted.key)) and known.handle, 400)
        until(Mirror(wanted.output).progress)
        assert sweep_as_another_user(tmp_path) == ""
    finally:
        night.kill()
        night.wait()
    assert sweep_as_another_user(tmp_path) == "", "it runs on, though nobody works at it"
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.listed_at and attempt.gone_at is None and len(queue()) == 1
    (reservation,) = charge.reservations(purse.pool, wanted.key)
    ledger.settle(purse.pool, reservation.id)
    assert "without a reservation" in sweep_as_another_user(tmp_path)
    assert queue() == []
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.gone_at
