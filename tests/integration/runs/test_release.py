"""What Prefect calls when a flow run was cancelled or crashed, on jobs that really run."""

import time
import uuid
from pathlib import Path

from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled

from flows.nightly_ppo import nightly_ppo
from infra import ledger
from infra.compute import jobs
from infra.compute.launcher import Handle
from infra.records import runs
from tasks.runs import launch, offers
from tasks.runs.purse import Purse
from tasks.runs.release import release_compute
from tests.helpers.launching import alive, job, launcher, wait_until_none_is_alive


def begin_job(home: Path, purse: Purse, step: str, flow_run: uuid.UUID) -> Handle:
    """A job that runs for long, launched by that flow run, after its first step."""
    wanted = job(home, f"{purse.run.id}/{step}", steps=9999).model_copy(
        update={"max_hours": 30 / 3600}
    )
    quote = offers.cheapest(wanted.resources, "local")
    record = jobs.record_launch(purse.pool, purse.run, wanted, quote, str(flow_run))
    _, reservation = launch._reservation(record, launcher(home), purse)
    handle = launcher(home).launch(wanted, reservation)
    deadline = time.monotonic() + 30
    while not launcher(home).progress(handle.key):
        assert time.monotonic() < deadline, "the job takes no step"
        time.sleep(0.02)
    return handle


def test_only_the_cancelled_runs_jobs_stop_and_are_settled(home: Path, purse: Purse) -> None:
    cancelled = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4())
    elsewhere = job(home, f"{purse.run.id}/elsewhere")
    quote = offers.cheapest(elsewhere.resources, "local")
    theirs = quote.model_copy(update={"launcher": "theirs"})  # which this process does not have
    jobs.record_launch(purse.pool, purse.run, elsewhere, theirs, str(cancelled.id))
    never = job(home, f"{purse.run.id}/never")
    jobs.record_launch(purse.pool, purse.run, never, quote, str(cancelled.id))
    stopped = begin_job(home, purse, "stopped", cancelled.id)
    other = begin_job(home, purse, "other", uuid.uuid4())

    release_compute(flow=nightly_ppo, flow_run=cancelled, state=Cancelled())

    assert launcher(home).running() == [other]
    states = {job.key: job.state for job in jobs.newest(purse.pool, 9)}
    assert states[stopped.key] == states[never.key] == "interrupted"
    assert states[other.key] == "launching", "nobody said yet that it runs"
    assert launcher(home).poll(stopped).state == "continue", "it could checkpoint"
    paid = ledger.get(purse.pool, stopped.reservation)
    assert paid.state == "settled" and 0 < paid.spent < paid.amount
    assert [r.id for r in ledger.open_reservations(purse.pool)] == [other.reservation]

    release_compute(flow=nightly_ppo, flow_run=cancelled, state=Cancelled())
    assert ledger.get(purse.pool, stopped.reservation) == paid, "a second call changes nothing"
    later = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4())
    runs.swap_flow_run(purse.pool, purse.run, str(later.id))  # it took the run up
    release_compute(flow=nightly_ppo, flow_run=later, state=Cancelled())
    assert launcher(home).running() == []
    wait_until_none_is_alive(home)
    assert alive(home) == []
