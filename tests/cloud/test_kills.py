"""Random kills of the flow, of SkyPilot's API server and of nodes: nothing is left, every dollar
is explained, nothing is overspent.

NIGHTSHIFT_TEST_KILLS sets how many (a few by default, hundreds by hand; about 13 s each).
"""

import os
import random
import time

import pytest

from infra import jobs
from infra.compute import attempts
from infra.compute.sky.launcher import SkyLauncher
from tasks import launch
from tasks.purse import Purse
from tasks.reconcile import reconcile
from tests.cloud.lab import cancel, job, kill_api_server, queue, start_night

KILLS = int(os.environ.get("NIGHTSHIFT_TEST_KILLS", "3"))


@pytest.mark.timeout(400 + 90 * KILLS)
def test_random_kills_leave_nothing_and_overspend_nothing(sky: SkyLauncher, purse: Purse) -> None:
    chance = random.Random(KILLS)
    number, night = 0, None
    counts = {"flow": 0, "API server": 0, "node": 0}
    for _ in range(KILLS):
        known = jobs.find(purse.pool, f"{purse.run.id}/step-{number}")
        if known and known.state in jobs.ENDED:
            given_up = "without a step" in (known.error or "") or "expired" in (known.error or "")
            assert known.state == "succeeded" or given_up, known.error
            number += 1
        wanted = job(purse, f"step-{number}", steps=60, seconds=0.2)
        if night is None or night.poll() is not None:
            night = start_night(purse, wanted)
        time.sleep(chance.random() * 25)
        victim = chance.choice(list(counts))
        counts[victim] += 1
        if victim == "flow":
            night.kill()
            night.communicate()
        elif victim == "node":
            cancel()
        else:
            kill_api_server()
    if night:
        night.kill()
        night.communicate()
    if not (known := jobs.find(purse.pool, wanted.key)) or known.state not in jobs.ENDED:
        assert launch.run_job(wanted, purse).metrics == {"total": float(sum(range(60)))}
    reconcile(purse.pool, "")
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
        for one in launch.reservations(purse.pool, job.key)
    ]
    assert all(one.closed and one.spent <= one.amount for one in paid)
    assert {one.reservation_id for one in asked} <= {one.id for one in paid}
    print(counts, f"{len(asked)} machines, {sum(one.spent for one in paid)} dollars")
