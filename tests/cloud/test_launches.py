"""Launches on a real cluster through the real SDK; `purse` sees to it that nothing is left."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

import infra.compute.sky.task
from infra import jobs, ledger, objects
from infra.compute import attempts
from infra.compute.mirror import Mirror
from infra.compute.sky import api
from infra.compute.sky.launcher import SkyLauncher
from infra.database import Pool
from infra.errors import EnvironmentBuildError, JobFailed, JobStopped, LaunchError
from infra.settings import settings
from jobs.contract import Resources
from tasks import launch
from tasks.purse import Purse
from tasks.reconcile import reconcile
from tests.cloud.lab import cancel, job, kill_api_server, queue, start_night, until

TOTAL = float(sum(range(60)))
"""What the program sums up in 60 steps."""


def test_success_is_charged_for_the_time_of_the_machine(sky: SkyLauncher, purse: Purse) -> None:
    seen = []
    wanted = job(purse, steps=4, seconds=0.5)
    result = launch.run_job(wanted, purse, lambda progress: seen.append(progress.step))
    assert result.metrics == {"total": 6.0} and seen[-1] == 4
    assert objects.describe(f"{wanted.output}/total") == result.artifacts["total"]
    assert queue() == []
    (reservation,) = launch.reservations(purse.pool, wanted.key)
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.place.endswith(f"-{reservation.id}-1") and attempt.region == "slurm/local/spot"
    assert attempt.started_at and attempt.gone_at
    assert attempt.requested_at < attempt.started_at < attempt.gone_at
    assert abs(reservation.spent - attempt.cost) <= Decimal("0.0002")
    handle = sky.attempts(wanted.key)[-1]
    assert any("from step 0" in line for line in sky.logs(handle))
    assert [one.step for one in sky.progress(wanted.key)] == [1, 2, 3, 4]
    assert launch.run_job(wanted, purse) == result
    sky.note_costs()
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.provider_usd and attempt.provider_usd > 0


def test_a_failing_job_is_red_with_its_own_error(purse: Purse) -> None:
    with pytest.raises(JobFailed, match="the reward is NaN"):
        launch.run_job(job(purse, fail="the reward is NaN"), purse)
    assert queue() == []
    assert jobs.of_run(purse.pool, purse.run.id)[0].state == "failed"


def test_a_failing_setup_is_red_with_its_last_lines(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        infra.compute.sky.task, "SETUP", "echo no such package {environment}; exit 3"
    )
    with pytest.raises(JobFailed, match="no such package node"):
        launch.run_job(job(purse), purse)
    assert queue() == []


def test_a_node_that_is_taken_away_costs_one_interval_and_reserves_again(purse: Purse) -> None:
    taken = []

    def take(progress) -> None:
        if progress.step >= 10 and not taken:
            taken.append(progress.step)
            cancel()

    wanted = job(purse, steps=60, seconds=0.5)
    result = launch.run_job(wanted, purse, take)
    assert result.metrics == {"total": TOTAL}
    # One interval of the checkpoints, one of the state that we saw.
    assert result.resumed_from and result.resumed_from >= taken[0] - 6
    assert len(attempts.of_job(purse.pool, wanted.key)) == 2
    assert [one.state for one in launch.reservations(purse.pool, wanted.key)] == ["settled"] * 2


def test_a_flow_killed_while_its_machine_is_made_is_taken_up(purse: Purse) -> None:
    wanted = job(purse, steps=60, seconds=0.1)
    night = start_night(purse, wanted)
    until(queue)
    night.kill()
    night.communicate()
    assert attempts.of_job(purse.pool, wanted.key)[0].submitted_at is None
    assert launch.run_job(wanted, purse).metrics == {"total": TOTAL}
    assert len(attempts.of_job(purse.pool, wanted.key)) == 1


def test_a_node_that_is_taken_away_while_it_is_made_is_asked_for_again(purse: Purse) -> None:
    wanted = job(purse, steps=4, seconds=0.1)
    taking = threading.Thread(target=lambda: (until(lambda: "RUNNING" in str(queue())), cancel()))
    taking.start()
    assert launch.run_job(wanted, purse).metrics == {"total": 6.0}
    taking.join()
    first, second = attempts.of_job(purse.pool, wanted.key)
    assert first.error and first.submitted_at is None and second.error is None


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


def test_stopped_by_a_person_it_checkpoints_and_its_machine_goes(
    sky: SkyLauncher, purse: Purse
) -> None:
    wanted = job(purse, steps=9999, seconds=0.1)

    def stop(_progress) -> None:
        jobs.record_end(purse.pool, wanted.key, "stopped", error="stopped by a person")
        sky.stop(sky.attempts(wanted.key)[-1])
        assert queue() == []

    with pytest.raises(JobStopped, match="stopped by a person"):
        launch.run_job(wanted, purse, stop)
    said = Mirror(wanted.output).status(1)
    assert said and said.state == "continue" and said.progress
    stored = objects.list_artifacts(f"{wanted.output}/node/checkpoints")
    assert stored[-1].uri.endswith(f"step-{said.progress.step:08d}")


def test_the_node_ends_it_all_when_nobody_is_left(purse: Purse) -> None:
    """Flow and API server are killed in mid-run; only Slurm is asked whether the machine goes."""
    wanted = job(purse, hours=2.5 / 60, steps=9999, seconds=0.1)
    night = start_night(purse, wanted)
    mirror = Mirror(wanted.output)
    until(lambda: mirror.progress())
    until(lambda: attempts.of_job(purse.pool, wanted.key)[0].submitted_at)
    time.sleep(8)  # until the fuse is lit
    night.kill()
    night.communicate()
    kill_api_server()
    (reservation,) = launch.reservations(purse.pool, wanted.key)
    until(lambda: not queue(), 400)
    late = datetime.now(UTC) - reservation.expires_at
    assert late < timedelta(seconds=180), late
    said = mirror.status(1)
    assert said and said.state == "continue" and said.seen <= reservation.expires_at
    reconcile(purse.pool, "")
    (reservation,) = launch.reservations(purse.pool, wanted.key)
    assert reservation.state == "settled" and 0 < reservation.spent <= reservation.amount


def test_orphans_are_ended_strangers_left_and_launches_without_money_refused(
    sky: SkyLauncher, purse: Purse
) -> None:
    import sky as sdk

    if not attempts.any_ever(purse.pool):  # nobody looks for machines before there was one
        launch.run_job(job(purse, steps=1), purse)

    def by_hand(labels: dict[str, str] | None) -> None:
        task = sdk.Task(run="sleep 900")
        task.set_resources(sdk.Resources(infra="slurm/local/spot", cpus="1", labels=labels))
        api.call(lambda sky: sky.launch(task, cluster_name="by-hand"))

    with pytest.raises(Exception, match="has no reservation"):
        by_hand(None)
    ours = attempts.installation(purse.pool)
    until_then = datetime.now(UTC) + timedelta(hours=1)
    forgotten = ledger.reserve(purse.pool, "by-hand#1", [], Decimal(1), until_then)
    labels = {"nightshift": ours, "nightshift-reservation": str(forgotten.id)}
    ledger.release(purse.pool, forgotten.id)
    with pytest.raises(Exception, match=r"closed or has expired"):
        by_hand(labels)
    paid = ledger.reserve(purse.pool, "by-hand#2", [], Decimal(1), until_then)
    by_hand(labels | {"nightshift-reservation": str(paid.id)})
    user = os.environ["LAB_USER"]
    stranger = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
    subprocess.run(
        [*stranger, "sbatch", "--chdir=/tmp", "--output=/dev/null", "--wrap=sleep 900", "-Jother"],
        check=True,
    )
    ledger.settle(purse.pool, paid.id)
    try:
        until(lambda: [line.split()[1] for line in queue()] == ["RUNNING"] * 2)
        present = queue()
        assert any("by-hand" in line for line in reconcile(purse.pool, "", dry_run=True))
        assert queue() == present, "a dry run does nothing"
        assert any("by-hand" in line for line in reconcile(purse.pool, ""))
        assert queue() == ["other RUNNING"]
    finally:
        cancel("other")
        until(lambda: not queue())


def test_every_kind_of_launch_needs_a_reservation(pool: Pool) -> None:
    """Those of SkyPilot's managed jobs when they recover, too."""
    from sky.server.requests.request_names import AdminPolicyRequestName

    from infra.compute.policy import RequireReservation

    resources = SimpleNamespace(labels={})
    refused = []
    for kind in AdminPolicyRequestName:
        request = SimpleNamespace(
            request_name=kind,
            request_options=None,
            task=SimpleNamespace(resources=[resources]),
            skypilot_config=None,
        )
        try:
            RequireReservation.validate_and_mutate(request)
        except PermissionError:
            refused.append(kind.value)
    assert {"launch", "jobs.launch", "jobs.launch_cluster", "serve.launch_replica"} <= set(refused)
    assert len(refused) == len(AdminPolicyRequestName) - 3


def test_two_flows_race_for_the_last_dollar(purse: Purse) -> None:
    specs = [job(purse, step, steps=3) for step in ("a", "b")]
    quote = launch.cheapest(specs[0].resources, "sky")
    due = launch.price(quote, specs[0].max_hours)  # and there is room for one and a half
    used = next(one for one in ledger.budgets(purse.pool) if one.scope == "project")
    ledger.set_budget(purse.pool, "project", "day", (used.charged + due * 3 / 2).quantize(due))
    try:
        outcomes: list[object] = []

        def race(spec) -> None:
            try:
                outcomes.append(launch.run_job(spec, purse).metrics)
            except Exception as error:
                outcomes.append(type(error).__name__)

        flows = [threading.Thread(target=race, args=(spec,)) for spec in specs]
        for flow in flows:
            flow.start()
        for flow in flows:
            flow.join()
    finally:
        ledger.set_budget(purse.pool, "project", "day", settings().budget_usd_per_day)
    assert sorted(map(str, outcomes)) == ["BudgetExceeded", "{'total': 3.0}"]
    asked = [one for spec in specs for one in attempts.of_job(purse.pool, spec.key)]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("NIGHTSHIFT_MAX_USD_PER_HOUR", "1", "above NIGHTSHIFT_MAX_USD_PER_HOUR"),
        ("NIGHTSHIFT_SKY_ALLOWED", "aws/eu-*", "NIGHTSHIFT_SKY_ALLOWED"),
        ("NIGHTSHIFT_NETWORK_CHECK", "sh -c 'echo no VPN; exit 3'", "exit code 3: no VPN"),
    ],
)
def test_what_a_setting_forbids_is_refused_before_a_machine_is_asked_for(
    purse: Purse, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    settings.cache_clear()
    try:
        with pytest.raises(LaunchError) as caught:
            launch.run_job(job(purse), purse)
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert says in str(caught.value)
    assert attempts.of_job(purse.pool, job(purse).key) == []


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


@pytest.mark.parametrize(
    ("resources", "says"),
    [
        (Resources(accelerators={"H10": 1}), "offers 1 × H10"),
        (Resources(accelerators={"H100": 16}), "offers 16 × H100"),
        (Resources(accelerators={"H100": 1}, use_spot=True), "spot"),
    ],
)
def test_what_nobody_offers_is_refused(
    purse: Purse, capfd: pytest.CaptureFixture[str], resources: Resources, says: str
) -> None:
    with pytest.raises(LaunchError) as caught:
        launch.run_job(job(purse).model_copy(update={"resources": resources}), purse)
    assert says in str(caught.value) and "sky check" in str(caught.value)
    assert "sky-payload" not in "".join(capfd.readouterr())


def test_an_unknown_environment_is_refused(purse: Purse) -> None:
    with pytest.raises(EnvironmentBuildError, match="nowhere"):
        launch.run_job(job(purse).model_copy(update={"environment": "nowhere"}), purse)
