"""Tell the Prefect server of flow runs whose process was killed together with their worker.

A worker reports the end of the processes that it started. Where it was killed too, or there was
none, the run would be `Running` in the UI for ever. The lock of a run tells: a process that lives
holds it, and one that ends by itself takes its name off the run. Before it has begun a run, and in
a flow that begins none, the lock on a file of this machine tells, which a hook takes as soon as the
flow run is `Running`. One that never was is `Pending` for ever; or `Crashed`, where the server was
away when its process began.
"""

import contextlib
import fcntl
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import IO, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed, Scheduled

from infra.database import Pool
from infra.records import runs
from infra.services.flows import flow_names
from infra.services.prefect_server import HERE, POOL, flow_run_locks
from tasks.runs.reconcile import is_dead

log = logging.getLogger("nightshift")

PENDING = timedelta(minutes=10)
"""A process that has not begun after this will not: it takes seconds."""
RECENT = timedelta(hours=1)
"""For how long after its time a flow run that crashed before it began is begun anew, once."""
ANEW = "Its process ended before it began, as it does where the server is away."
_held: list[IO[str]] = []


def hold_lock(flow: Any, flow_run: FlowRun, state: State) -> None:  # noqa: ARG001
    """A hook `on_running`: hold the file of this flow run until this process ends, however."""
    file = flow_run_locks() / f"{flow_run.id}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    unseen = file.with_suffix(".new")
    stream = unseen.open("w")
    fcntl.flock(stream, fcntl.LOCK_EX)
    stream.write(str(state.id))
    stream.flush()
    unseen.replace(file)
    _held.append(stream)


def report_crashes(pool: Pool, dry_run: bool) -> list[str]:
    """What was told of all runs, or with `dry_run` would be, a line each."""
    told = []
    for run in runs.begun_by_flow_runs(pool):
        with is_dead(run["id"], "") as dead:
            if dead and report_crash(run["id"], run["flow"], run["flow_run"], dry_run):
                told.append(f"{run['id']}: its process was killed; its flow run has crashed")
    with get_client(sync_client=True) as client:
        told += _unattended(client, dry_run) + _never_begun(client, dry_run)
        told += _crashed_unbegun(client, dry_run)
    for line in told:
        log.info("%s: %s", "would be told" if dry_run else "told", line)
    return told


def report_crash(run: str, flow: str, flow_run: str, dry_run: bool = False) -> bool:
    """Whether Prefect took a flow run for running whose process is dead; it is crashed then."""
    with get_client(sync_client=True) as client:
        found = _running(client, flow_run)
        if found and not dry_run:
            said = f"Its process was killed. Start {flow} once more with the same values: "
            goes_on = f"{run} then goes on from its last checkpoint."
            client.set_flow_run_state(found.id, Crashed(message=said + goes_on))
    return found is not None


def _unattended(client: SyncPrefectClient, dry_run: bool) -> list[str]:
    """Flow runs whose file nobody holds, though they are as running as when it was written."""
    told = []
    for file in sorted(flow_run_locks().glob("*.lock")):
        # another sweep may have removed it, or hold it
        with contextlib.suppress(FileNotFoundError, BlockingIOError), file.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = _running(client, file.stem)
            if os.fstat(stream.fileno()).st_ino != file.stat().st_ino:
                continue  # somebody started it once more
            if found and str(found.state_id) == stream.read():
                told.append(f"flow run {found.name}: its process was killed; it has crashed")
                if not dry_run:
                    said = "Its process was killed. Start it once more with the same values."
                    client.set_flow_run_state(found.id, Crashed(message=said))
            if not dry_run:
                file.unlink()
    return told


def _never_begun(client: SyncPrefectClient, dry_run: bool) -> list[str]:
    """Flow runs that are `Pending` for long: the worker takes its own once more."""
    told = []
    for one in _ours(client, StateType.PENDING):
        if not one.state or datetime.now(UTC) - one.state.timestamp < PENDING:
            continue
        if one.work_pool_name == POOL:
            state: State = Scheduled(message="Whatever was to run it was killed before.")
            told.append(f"flow run {one.name}: no process has begun it; it is scheduled anew")
        elif HERE in one.tags and one.deployment_id is None:
            state = Crashed(message="Its process was killed before it had begun.")
            told.append(f"flow run {one.name}: its process was killed; it has crashed")
        else:
            continue
        if not dry_run:
            client.set_flow_run_state(one.id, state)
    return told


def _crashed_unbegun(client: SyncPrefectClient, dry_run: bool) -> list[str]:
    """Flow runs for our worker that crashed before they were `Running`: nothing has been done."""
    told = []
    since = {"after_": datetime.now(UTC) - RECENT}
    recent = FlowRunFilterExpectedStartTime.model_validate(since)
    for one in _ours(client, StateType.CRASHED, expected_start_time=recent):
        if one.work_pool_name != POOL or one.run_count:
            continue
        if ANEW in [state.message for state in client.read_flow_run_states(one.id)]:
            continue
        told.append(f"flow run {one.name}: it crashed before it began; it is scheduled anew")
        if not dry_run:
            client.set_flow_run_state(one.id, Scheduled(message=ANEW))
    return told


def _ours(client: SyncPrefectClient, kind: StateType, **wanted: Any) -> list[FlowRun]:
    """Runs of our flows in a kind of state: others' may be on the server, too."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[kind]))
    return client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=flow_names())),
        flow_run_filter=FlowRunFilter(state=state, **wanted),
        limit=200,
    )


def _running(client: SyncPrefectClient, flow_run: str) -> FlowRun | None:
    """The flow run, if Prefect takes it for running."""
    try:
        found = client.read_flow_run(UUID(flow_run))
    except ObjectNotFound:  # it was deleted, or is on another server
        return None
    return found if found.state and found.state.is_running() else None
