"""Random kills of the flow, of SkyPilot's API server and of nodes, a bucket that denies writes for
a while, and sweeps by another user's guard: nothing is left, every dollar is explained, nothing is
overspent, and no machine ran longer than was charged. About 13 s for each kill.
"""

import itertools
import random
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from infra.compute import attempts, jobs
from infra.compute.sky.launcher import SkyLauncher
from infra.contract import JobSpec
from infra.errors import JobStopped, LaunchError
from tasks.runs import charge, launch
from tasks.runs.purse import Purse
from tasks.runs.reconcile import reconcile
from tests.cloud.lab import (
    Meter,
    cancel,
    job,
    kill_api_server,
    queue,
    start_night,
    sweep_as_another_user,
    writes_denied,
)
from tests.storm.record import StormLog

HARM = ("flow", "API server", "node", "bucket", "guard")
GIVEN_UP = ("without a step", "expired", "hours passed", "could exceed")


def test_random_kills_leave_nothing_and_overspend_nothing(
    sky: SkyLauncher, purse: Purse, kills: int, storm_log: StormLog, tmp_path: Path
) -> None:
    with Meter() as meter:
        wanted = strike(purse, kills, tmp_path)
        if not (known := jobs.find(purse.pool, wanted.key)) or known.state not in jobs.ENDED:
            finish(purse, wanted)
        reconcile(purse.pool, "")
    storm_log.count(purse.pool, purse.run.id)
    assert queue() == [] and sky.running() == []
    asked = [
        one
        for job in jobs.of_run(purse.pool, purse.run.id)
        for one in attempts.of_job(purse.pool, job.key)
    ]
    assert all(one.gone_at for one in asked)
    paid = [
        one
        for job in jobs.of_run(purse.pool, purse.run.id)
        for one in charge.reservations(purse.pool, job.key)
    ]
    assert all(one.closed and one.spent <= one.amount for one in paid)
    assert {one.reservation_id for one in asked} <= {one.id for one in paid}
    assert sum(meter.seconds(one.place) for one in asked) > 0
    for name in meter.seen:
        assert any(f"{name}-".startswith(f"{one.place}-") for one in asked), "nobody asked for it"
    for reservation in paid:
        mine = [one for one in asked if one.reservation_id == reservation.id]
        costs = [one.hourly_usd * Decimal(meter.seconds(one.place)) / 3600 for one in mine]
        ran, minute = sum(costs), sum(one.hourly_usd / 60 for one in mine)
        assert reservation.spent + minute >= ran, (reservation, mine, meter.seen)


def strike(purse: Purse, kills: int, other_home: Path) -> JobSpec:
    """Do harm `kills` times to whatever does the run's jobs; the last job that was begun."""
    chance = random.Random(kills)
    number, night = 0, None
    wanted = job(purse, "step-0", steps=60, seconds=0.2)
    began = time.monotonic()
    for victim in itertools.islice(victims(chance), kills):
        known = jobs.find(purse.pool, f"{purse.run.id}/step-{number}")
        if known and known.state in jobs.ENDED:
            assert known.state == "succeeded" or is_given_up(known.error), known.error
            number += 1
        wanted = job(purse, f"step-{number}", steps=60, seconds=0.2)
        if night is None or night.poll() is not None:
            night = start_night(purse, wanted)
        time.sleep(chance.random() * 25)
        print(f"{time.monotonic() - began:.0f} s, step-{number}: {victim}")
        if victim == "flow":
            night.kill()
            night.communicate()
        elif victim == "node":
            cancel()
        elif victim == "bucket":
            with writes_denied():
                time.sleep(chance.random() * 60)
        elif victim == "guard":
            sweep_as_another_user(other_home)
        else:
            kill_api_server()
    if night:
        night.kill()
        night.communicate()
    print(f"{time.monotonic() - began:.0f} s: the last one")
    return wanted


def finish(purse: Purse, wanted: JobSpec) -> None:
    try:
        assert launch.run_job(wanted, purse).metrics == {"total": float(sum(range(60)))}
    except (LaunchError, JobStopped) as error:  # on a busy machine its hours pass again and again
        assert is_given_up(error.message), error


def victims(chance: random.Random) -> Iterator[str]:
    """What is done harm to, without end; all of HARM, in another order, before any again."""
    while True:
        yield from chance.sample(HARM, len(HARM))


def is_given_up(why: str | None) -> bool:
    """Whether a job ended for good since its money or its patience did (docs/money.md)."""
    return any(one in (why or "") for one in GIVEN_UP)
