"""Losses on a real cluster, one at a time, at every moment: of nodes, API server and everything."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from infra.compute import attempts
from infra.compute.mirror import Mirror
from infra.compute.sky import api
from infra.contract import Progress
from infra.errors import LaunchError
from infra.settings import settings
from tasks.runs import charge, launch
from tasks.runs.purse import Purse
from tasks.runs.reconcile import reconcile
from tests.cloud.lab import cancel, job, kill_api_server, queue, start_night, until
from tests.storm.record import StormLog

TOTAL = float(sum(range(60)))
"""What the program sums up in 60 steps."""


@pytest.fixture(autouse=True)
def counted(purse: Purse, storm_log: StormLog) -> Iterator[None]:
    """What the run rented stands in the record."""
    yield
    storm_log.count(purse.pool, purse.run.id)


def test_a_node_that_is_taken_away_while_it_is_made_is_asked_for_again(purse: Purse) -> None:
    wanted = job(purse, steps=4, seconds=0.1)
    taking = threading.Thread(target=lambda: (until(lambda: "RUNNING" in str(queue())), cancel()))
    taking.start()
    assert launch.run_job(wanted, purse).metrics == {"total": 6.0}
    taking.join()
    first, second = attempts.of_job(purse.pool, wanted.key)
    assert first.error and first.submitted_at is None and second.error is None


def test_a_node_that_is_taken_away_again_and_again(
    purse: Purse, kills: int, storm_log: StormLog
) -> None:
    """Every ten steps: each loss costs one interval, and each recovery reserves anew."""
    taken: list[int] = []

    def take(progress: Progress) -> None:
        if len(taken) < kills and progress.step >= max(taken, default=0) + 10:
            taken.append(progress.step)
            cancel()

    steps = 20 * kills + 10
    wanted = job(purse, steps=steps, seconds=0.2)
    result = launch.run_job(wanted, purse, take)
    storm_log.kills = len(taken)
    assert result.metrics == {"total": float(sum(range(steps)))} and len(taken) == kills
    assert len(attempts.of_job(purse.pool, wanted.key)) > kills
    paid = charge.reservations(purse.pool, wanted.key)
    assert {one.state for one in paid} == {"settled"} and len(paid) > kills
    assert all(one.spent <= one.amount for one in paid)


@pytest.fixture(params=["SIGKILL", "SIGSTOP"])
def go_away(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """SkyPilot's API server dies, or hangs and is not waited for as long as elsewhere."""

    def die() -> None:
        monkeypatch.setattr(api, "READ_SECONDS", 8)
        monkeypatch.setattr(api, "SILENT_SECONDS", 8)
        kill_api_server(signal.Signals[request.param])

    return die


def test_an_api_server_that_goes_away_while_a_machine_is_made(
    purse: Purse, go_away: Callable[[], None]
) -> None:
    """Reproduces a leak of SkyPilot's: the allocation goes on, the server cannot start again."""
    wanted = job(purse, steps=60, seconds=0.1)
    killed = threading.Thread(target=lambda: (until(queue), go_away()))
    killed.start()
    assert launch.run_job(wanted, purse).metrics == {"total": TOTAL}
    killed.join()
    assert len({one.place for one in attempts.of_job(purse.pool, wanted.key)}) >= 1


def test_an_api_server_that_goes_away_while_a_job_runs(
    purse: Purse, go_away: Callable[[], None]
) -> None:
    killed = []

    def kill(progress) -> None:
        if not killed:
            killed.append(progress.step)
            go_away()

    wanted = job(purse, steps=60, seconds=0.1)
    assert launch.run_job(wanted, purse, kill).metrics == {"total": TOTAL} and killed
    assert len(attempts.of_job(purse.pool, wanted.key)) == 1


def test_the_node_ends_it_all_when_nobody_is_left(purse: Purse) -> None:
    """Flow and API server are killed in mid-run; only Slurm is asked whether the machine goes."""
    wanted = job(purse, hours=2.5 / 60, steps=9999, seconds=0.1)
    night = start_night(purse, wanted)
    mirror = Mirror(wanted.output)
    until(lambda: mirror.progress())
    until(lambda: attempts.of_job(purse.pool, wanted.key)[0].submitted_at)
    time.sleep(8)  # until the fuse is lit
    night.kill()
    night.wait()
    kill_api_server()
    (reservation,) = charge.reservations(purse.pool, wanted.key)
    until(lambda: not queue(), 400)
    late = datetime.now(UTC) - reservation.expires_at
    assert late < timedelta(seconds=180), late
    said = mirror.status(1)
    assert said and said.state == "continue" and said.seen <= reservation.expires_at
    reconcile(purse.pool, "")
    (reservation,) = charge.reservations(purse.pool, wanted.key)
    assert reservation.state == "settled" and 0 < reservation.spent <= reservation.amount


def test_a_machine_in_a_foreign_network_is_taken_down(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ALLOWED_NETWORKS", "10.0.0.0/8")
    settings.cache_clear()
    try:
        with pytest.raises(LaunchError, match="NIGHTSHIFT_ALLOWED_NETWORKS"):
            launch.run_job(job(purse), purse)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
