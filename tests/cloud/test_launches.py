"""Launches on a real cluster through the real SDK."""

from decimal import Decimal

import pytest

from infra import jobs, objects
from infra.compute import attempts
from infra.compute.sky import SkyLauncher
from infra.errors import JobFailed
from infra.settings import settings
from jobs.contract import JobSpec, Resources
from tasks import launch
from tasks.purse import Purse
from tests.cloud.lab import queue


def spec(purse: Purse, step: str = "step", hours: float = 0.1, gpus: int = 2, **config) -> JobSpec:
    key = f"{purse.run.id}/{step}"
    return JobSpec(
        name="basic.steps",
        environment="node",
        config=config,
        output=f"{settings().objects_uri}/runs/{key}",
        max_hours=hours,
        key=key,
        resources=Resources(accelerators={"H100": gpus}),
    )


def test_success_is_charged_for_the_time_of_the_machine(sky: SkyLauncher, purse: Purse) -> None:
    seen = []
    wanted = spec(purse, steps=4, seconds=0.5)
    result = launch.run_job(wanted, purse, lambda progress: seen.append(progress.step))
    assert result.metrics == {"total": 6.0} and seen[-1] == 4
    assert objects.describe(f"{wanted.output}/total") == result.artifacts["total"]
    assert queue() == []
    (reservation,) = launch.reservations(purse.pool, wanted.key)
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.place.endswith(f"-{reservation.id}-1") and attempt.region == "slurm/local/spot"
    assert attempt.started_at and attempt.gone_at
    hours = (attempt.gone_at - attempt.started_at).total_seconds() / 3600
    due = attempt.hourly_usd * Decimal(str(hours))
    assert abs(reservation.spent - due) <= Decimal("0.0002") and reservation.state == "settled"
    assert attempt.started_at > attempt.requested_at
    handle = sky.attempts(wanted.key)[-1]
    assert any("from step 0" in line for line in sky.logs(handle))
    assert [one.step for one in sky.progress(wanted.key)] == [1, 2, 3, 4]
    assert launch.run_job(wanted, purse) == result


def test_a_failing_job_is_red_with_its_own_error(purse: Purse) -> None:
    with pytest.raises(JobFailed, match="the reward is NaN"):
        launch.run_job(spec(purse, fail="the reward is NaN"), purse)
    assert queue() == []
    assert jobs.of_run(purse.pool, purse.run.id)[0].state == "failed"
