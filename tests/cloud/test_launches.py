"""Launches on a real cluster through the real SDK; `purse` sees to it that nothing is left.

A launch costs much, so that most prove several things. The last tests leave a machine to itself,
and look what becomes of it. No other machine may be there then: here all nodes have one network, so
that SkyPilot's word to one of them may reach another one's fuse.
"""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

import infra.compute.sky.task
from infra import database as db
from infra import ledger, objects
from infra.compute import attempts, jobs
from infra.compute.mirror import Mirror
from infra.compute.sky import api, gates
from infra.compute.sky.launcher import SkyLauncher
from infra.compute.sky.task import LABEL, RESERVATION_LABEL
from infra.contract import JobSpec, Progress, Resources
from infra.errors import BudgetExceeded, JobFailed, JobStopped, LaunchError
from infra.records import runs
from infra.settings import settings
from tasks.runs import charge, launch, offers
from tasks.runs.purse import Purse, fill
from tasks.runs.reconcile import reconcile
from tests.cloud.lab import (
    cancel,
    job,
    kill_api_server,
    launcher,
    queue,
    set_clock,
    start_night,
    stop_api_server,
    together,
    until,
)


@dataclass
class Unattended:
    """A job whose flow is dead, as is the API server that rented its machine."""

    purse: Purse
    spec: JobSpec
    gone_at: datetime | None = None

    @property
    def attempt(self) -> attempts.Attempt:
        (attempt,) = attempts.of_job(self.purse.pool, self.spec.key)
        return attempt

    def watch(self, place: str) -> None:
        """Note when Slurm no longer lists the machine."""
        while self.gone_at is None:
            time.sleep(2)
            listed = subprocess.run(["squeue", "-h", "-o", "%j"], capture_output=True, text=True)
            if listed.returncode == 0 and place not in listed.stdout:
                self.gone_at = datetime.now(UTC)


@pytest.fixture(scope="session")
def unattended(store: None, postgres: str) -> Iterator[Unattended]:
    """The flow and the API server are killed in mid-run, and nothing of theirs comes back.

    The clock of its machine is set besides, which puts the fuse out that SkyPilot has lit.
    They are of another installation, so that no sweep of the other tests' knows its machine.
    """
    stop_api_server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTSHIFT_DATABASE_URL", postgres.format("unattended"))
        settings.cache_clear()
        pool = db.pool.__wrapped__()
        purse = fill(Purse(pool, runs.begin(pool, "test-flow", {}), "sky"), Decimal(10))
        left = Unattended(purse, job(purse, hours=2.5 / 60, steps=9999, seconds=0.1))
        night = start_night(purse, left.spec)
        until(lambda: (known := jobs.find(pool, left.spec.key)) and known.handle)  # its fuse is set
        until(Mirror(left.spec.output).progress)
        night.kill()
        night.wait()
        kill_api_server()
        set_clock(left.attempt.place)
    settings.cache_clear()
    watching = threading.Thread(target=left.watch, args=[left.attempt.place], daemon=True)
    watching.start()
    yield left
    watching.join(400)
    pool.close()
    with psycopg.connect(postgres.format("postgres"), autocommit=True) as connection:
        connection.execute("DROP DATABASE unattended WITH (FORCE)")


def test_success_is_charged_for_the_time_of_the_machine(
    sky: SkyLauncher, purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, rented, queued = [], [], {}

    def watch(progress: Progress) -> None:
        seen.append(progress.step)
        if not rented:
            rented.append(api.record(attempts.of_job(purse.pool, wanted.key)[-1].place))
            queued.update(api.call(lambda sky: sky.job_status(rented[0].name, None)))

    wanted = job(purse, steps=4, seconds=2.5)  # it is seen while it runs
    result = launch.run_job(wanted, purse, watch)
    assert result.metrics == {"total": 6.0} and seen[-1] == 4
    assert objects.describe(f"{wanted.output}/total") == result.artifacts["total"]
    assert queue() == [], "the machine goes with its job"
    (state,) = (one.name for one in queued.values())
    assert state in ("RUNNING", "SUCCEEDED"), "what is paid does not wait"
    (reservation,) = charge.reservations(purse.pool, wanted.key)
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.place.endswith(f"-{reservation.id}-1") and attempt.region == "slurm/local/spot"
    assert attempt.started_at and attempt.gone_at
    # not before it was asked for; and then at once, where processes of ours were there before
    assert attempt.requested_at <= attempt.started_at < attempt.gone_at
    assert abs(reservation.spent - attempt.cost) <= Decimal("0.0002")
    handle = sky.attempts(wanted.key)[-1]
    assert any("from step 0" in line for line in sky.logs(handle))
    assert [one.step for one in sky.progress(wanted.key)] == [1, 2, 3, 4]
    assert launch.run_job(wanted, purse) == result
    sky.note_costs()
    (attempt,) = attempts.of_job(purse.pool, wanted.key)
    assert attempt.provider_usd and attempt.provider_usd > 0

    machine = rented[0]
    assert machine.labels[LABEL] == attempts.installation(purse.pool)
    assert machine.labels[RESERVATION_LABEL] == str(reservation.id)
    assert machine.to_down and 1 <= machine.autostop <= 6, "its fuse, for six minutes of hours"
    monkeypatch.setattr(api, "record", lambda _place: machine)
    for networks, stranger in (("127.0.0.0/8", False), ("10.0.0.0/8", True)):
        monkeypatch.setenv("NIGHTSHIFT_ALLOWED_NETWORKS", networks)
        settings.cache_clear()
        with pytest.raises(LaunchError, match=attempt.place) if stranger else nullcontext():
            gates.require_network(attempt.place)
    monkeypatch.undo()
    settings.cache_clear()


def test_failures_are_red_with_their_own_errors(
    purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the program and one of its environment, side by side."""
    broken = "test {environment} != train || {{ echo no such package {environment}; exit 3; }}\n"
    monkeypatch.setattr(infra.compute.sky.task, "SETUP", broken + infra.compute.sky.task.SETUP)
    failing = job(purse, "failing", fail="the reward is NaN")
    unmade = job(purse, "unmade").model_copy(update={"environment": "train"})
    program, setup = together(purse, failing, unmade)
    assert isinstance(program, JobFailed) and "the reward is NaN" in str(program)
    assert isinstance(setup, JobFailed) and "no such package train" in str(setup)
    assert queue() == []
    assert {one.state for one in jobs.of_run(purse.pool, purse.run.id)} == {"failed"}
    for wanted in (failing, unmade):
        assert all(one.gone_at for one in attempts.of_job(purse.pool, wanted.key))
        (paid,) = charge.reservations(purse.pool, wanted.key)
        assert paid.state == "settled" and 0 < paid.spent < paid.amount


def test_nodes_that_are_taken_away_cost_one_interval_and_reserve_again(purse: Purse) -> None:
    """The first while it is made, the second in mid-run."""
    taken = []

    def take(progress: Progress) -> None:
        if progress.step >= 10 and not taken:
            taken.append(progress.step)
            cancel()

    wanted = job(purse, steps=40, seconds=0.2, hold=20)
    taking = threading.Thread(target=lambda: (until(lambda: "RUNNING" in str(queue())), cancel()))
    taking.start()
    result = launch.run_job(wanted, purse, take)
    taking.join()
    assert result.metrics == {"total": float(sum(range(40)))}
    # One interval of the checkpoints, one of the state that we saw.
    assert result.resumed_from and result.resumed_from >= taken[0] - 6
    unmade, lost, last = attempts.of_job(purse.pool, wanted.key)
    assert unmade.submitted_at is None and unmade.gone_at and last.error is None
    assert lost.started_at and lost.gone_at
    states = [one.state for one in charge.reservations(purse.pool, wanted.key)]
    assert states == ["settled"] * len(states) and len(states) >= 2


def test_a_flow_killed_while_its_machine_is_made_is_taken_up_and_stopped_by_a_person(
    sky: SkyLauncher, purse: Purse
) -> None:
    """Stopped, it checkpoints, and its machine goes."""
    wanted = job(purse, steps=9999, seconds=0.1)
    night = start_night(purse, wanted)
    until(queue)
    night.kill()
    night.wait()
    assert attempts.of_job(purse.pool, wanted.key)[0].submitted_at is None

    def stop(_progress: Progress) -> None:
        jobs.record_end(purse.pool, wanted.key, "stopped", error="stopped by a person")
        sky.stop(sky.attempts(wanted.key)[-1])
        assert queue() == []

    with pytest.raises(JobStopped, match="stopped by a person"):
        launch.run_job(wanted, purse, stop)
    assert len(attempts.of_job(purse.pool, wanted.key)) == 1
    said = Mirror(wanted.output).status(1)
    assert said and said.state == "continue" and said.progress
    stored = objects.list_artifacts(f"{wanted.output}/node/checkpoints")
    assert stored[-1].uri.endswith(f"step-{said.progress.step:08d}")


def test_an_api_server_that_is_killed_while_a_machine_is_made(purse: Purse) -> None:
    """Reproduces a leak of SkyPilot's: the allocation goes on, the server cannot start again."""
    wanted = job(purse, steps=4, seconds=0.1)
    killing = threading.Thread(target=lambda: (until(queue), kill_api_server()))
    killing.start()
    assert launch.run_job(wanted, purse).metrics == {"total": 6.0}
    killing.join()
    assert len({one.place for one in attempts.of_job(purse.pool, wanted.key)}) >= 1


def test_orphans_are_ended_strangers_left_and_launches_without_money_refused(
    sky: SkyLauncher, purse: Purse
) -> None:
    import sky as sdk

    if not attempts.any_ever(purse.pool):  # nobody looks for machines before there was one
        launch.run_job(job(purse, steps=1), purse)

    wanted = job(purse, "by-hand")
    quote = offers.cheapest(wanted.resources, "sky")

    def by_hand(labels: dict[str, str] | None, place: str = "by-hand") -> None:
        task = sdk.Task(run="sleep 900")
        wish = sdk.Resources(
            infra=quote.region,
            instance_type=quote.instance_type,
            accelerators=quote.accelerators,
            use_spot=quote.spot,
            labels=labels,
        )
        task.set_resources(wish)
        api.call(lambda sky: sky.launch(task, cluster_name=place))

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
    labels["nightshift-reservation"] = str(paid.id)
    with pytest.raises(Exception, match="not for by-hand"):
        by_hand(labels)
    attempt = attempts.begin(purse.pool, wanted, paid, quote, api.server())
    by_hand(labels, attempt.place)
    with pytest.raises(Exception, match="launched already"):
        by_hand(labels, attempt.place)
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


def test_two_flows_race_for_the_last_dollar(purse: Purse) -> None:
    specs = [job(purse, step, steps=3) for step in ("a", "b")]
    quote = offers.cheapest(specs[0].resources, "sky")
    due = offers.price(quote, specs[0].max_hours)  # and there is room for one and a half
    used = next(one for one in ledger.budgets(purse.pool) if one.scope == "project")
    ledger.set_budget(purse.pool, "project", "day", (used.charged + due * 3 / 2).quantize(due))
    try:
        outcomes = together(purse, *specs)
    finally:
        ledger.set_budget(purse.pool, "project", "day", settings().budget_usd_per_day)
    assert {"total": 3.0} in outcomes
    assert [type(one) for one in outcomes if isinstance(one, Exception)] == [BudgetExceeded]
    asked = [one for spec in specs for one in attempts.of_job(purse.pool, spec.key)]
    assert len(asked) == 1


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


def test_a_machine_goes_on_without_the_flow_and_the_api_server_that_rented_it(
    unattended: Unattended,
) -> None:
    mirror = Mirror(unattended.spec.output)
    before = len(mirror.progress())
    until(lambda: len(mirror.progress()) > before)
    assert unattended.gone_at is None


def test_the_node_ends_it_all_when_nobody_is_left(
    unattended: Unattended, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only Slurm was asked whether the machine goes; nobody of ours looked at it meanwhile."""
    pool, spec = unattended.purse.pool, unattended.spec
    until(lambda: unattended.gone_at, 400)
    assert unattended.gone_at and unattended.attempt.gone_at is None
    (reservation,) = charge.reservations(pool, spec.key)
    late = unattended.gone_at - reservation.expires_at
    assert late < timedelta(seconds=180), late
    said = Mirror(spec.output).status(1)
    assert said and said.state == "continue" and said.seen <= reservation.expires_at
    monkeypatch.setattr(offers, "launchers", lambda _target: {"sky": launcher(pool)})
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", pool.conninfo)
    settings.cache_clear()
    reconcile(pool, "")
    settings.cache_clear()
    (reservation,) = charge.reservations(pool, spec.key)
    assert reservation.state == "settled" and 0 < reservation.spent <= reservation.amount
    assert ledger.audit(pool) == []
