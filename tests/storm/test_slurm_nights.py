"""A whole night as a user starts it, every job on a rented machine, one of which is taken away."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from infra import database as db
from infra import ledger, objects
from infra.compute import attempts, jobs
from infra.compute.local import LocalLauncher
from infra.compute.mirror import Mirror
from infra.compute.sky import api
from infra.compute.sky.launcher import SkyLauncher
from infra.contract import JobResult, JobSpec
from infra.settings import settings
from tasks.runs import charge
from tests.cloud.lab import cancel, queue, until
from tests.helpers.users import User, reachable_folder, settle_in
from tests.storm.record import StormLog

HOURS = ("--hours", "--collect-hours", "--transfer-hours", "--deploy-hours")


@dataclasses.dataclass
class Paid:
    """Stands for a reservation of a job that nobody pays for."""

    id: int
    expires_at: datetime


@pytest.fixture
def renter(pool: db.Pool, unseen_model: Path, train_python: Path) -> Iterator[User]:
    """A user with the bucket, the database and the SkyPilot of these tests."""
    api.call(lambda sky: sky.status())  # so that the server is not the user's to end
    with reachable_folder() as folder:
        user = settle_in(folder, unseen_model, train_python)
        user.settings = {k: v for k, v in os.environ.items() if k.startswith("NIGHTSHIFT_")}
        user.settings["NIGHTSHIFT_HOME"] = str(user.home)
        yield user
        user.wait_until_nothing_runs()


def test_a_night_whose_node_is_taken_away_ends_as_an_undisturbed_one(
    renter: User,
    cycle: list[str],
    sky: SkyLauncher,
    train_python: Path,
    tmp_path: Path,
    storm_log: StormLog,
) -> None:
    for option in HOURS:
        cycle[cycle.index(option) + 1] = "0.25"
    plan = renter.json(*cycle, "--target", "auto", "--plan")
    assert {step["launcher"] for step in plan["steps"]} == {"slurm/local/spot"}, "the cheaper one"

    night = renter.start(*cycle, "--target", "auto", "--json")
    pool = sky.pool
    until(lambda: (reached(pool, 2) and stored(pool)) or night.poll() is not None, 1200)
    kept = stored(pool)
    cancel()
    out, err = night.communicate(timeout=1200)
    assert night.returncode == 0, out + err
    report = json.loads(out)
    storm_log.kills = 1
    storm_log.count(pool, report["run"])
    assert report["candidate"] == "2" and report["verdict"]["confidence_interval"]
    assert queue() == [] and sky.running() == []

    done = jobs.of_run(pool, report["run"])
    assert [one.key.rpartition("/")[2] for one in done] == [
        "preflight",
        "collect",
        "train",
        "validate",
    ]
    assert {(one.launcher, one.state) for one in done} == {("sky", "succeeded")}
    machines = [len(attempts.of_job(pool, one.key)) for one in done]
    assert machines == [1, 1, 2, 1]
    paid = [one for job in done for one in charge.reservations(pool, job.key)]
    assert len(paid) == 5 and all(0 < one.spent <= one.amount for one in paid)
    assert ledger.open_reservations(pool) == [] and ledger.audit(pool) == []
    assert sum(Decimal(one["usd"]) for one in report["costs"]) == sum(one.spent for one in paid)

    disturbed = done[2].result
    assert disturbed and disturbed.resumed_from and disturbed.resumed_from >= kept
    undisturbed = here(done[2].spec, tmp_path, train_python)
    assert lasting(disturbed) == lasting(undisturbed)
    candidates = [result.artifacts["candidate"].sha256 for result in (disturbed, undisturbed)]
    assert candidates[0] == candidates[1], "the same run, the same bytes"


def reached(pool: db.Pool, step: int) -> int:
    """The step that the training has reached, 0 before `step`."""
    newest = jobs.newest(pool, 1)
    if not newest or not newest[0].key.endswith("/train"):
        return 0
    steps = [one.step for one in Mirror(newest[0].spec.output).progress()]
    return max([one for one in steps if one >= step], default=0)


def stored(pool: db.Pool) -> int:
    """The newest checkpoint of the training that is in the bucket."""
    checkpoints = f"{jobs.newest(pool, 1)[0].spec.output}/node/checkpoints"
    return max(
        (int(one.uri.rpartition("-")[2]) for one in objects.list_artifacts(checkpoints)), default=0
    )


def here(spec: JobSpec, folder: Path, python: Path) -> JobResult:
    """The same job done on this machine, without a fault."""
    spec = spec.model_copy(update={"key": "undisturbed", "output": f"{spec.output}-undisturbed"})
    local = LocalLauncher(folder / "home", python)
    handle = local.launch(spec, Paid(1, datetime.now(UTC) + timedelta(minutes=15)))
    while (status := local.poll(handle)).state == "running":
        time.sleep(settings().poll_seconds)
    assert status.result, list(local.logs(handle))
    return status.result


def lasting(result: JobResult) -> dict[str, float]:
    """What is no matter of time."""
    return {name: value for name, value in result.metrics.items() if "second" not in name}
