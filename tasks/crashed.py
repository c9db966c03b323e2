"""Tell the Prefect server of flow runs whose process was killed together with their worker.

A worker reports the end of the processes that it started. Where it was killed too, or there was
none, the run would be `Running` in the UI for ever. The lock of a run tells: a process that lives
holds it, and one that ends by itself takes its name off the run.
"""

import logging
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from infra import runs
from infra.database import Pool
from tasks.reconcile import is_dead

log = logging.getLogger("nightshift")


def tell_of_crashed(pool: Pool, dry_run: bool) -> list[str]:
    """What was told of all runs, or with `dry_run` would be, a line each."""
    told = []
    for run in runs.begun_by_flow_runs(pool):
        with is_dead(run["id"], "") as dead:
            if dead and tell(run["id"], run["flow"], run["flow_run"], dry_run):
                told.append(f"{run['id']}: its process was killed; its flow run has crashed")
    for line in told:
        log.info("%s: %s", "would be told" if dry_run else "told", line)
    return told


def tell(run: str, flow: str, flow_run: str, dry_run: bool = False) -> bool:
    """Whether Prefect took a flow run for running whose process is dead; it is crashed then."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(flow_run)).state
        except ObjectNotFound:  # it was deleted, or is on another server
            return False
        if state is None or not state.is_running():
            return False
        if not dry_run:
            said = f"Its process was killed. Start {flow} once more with the same values: "
            goes_on = f"{run} then goes on from its last checkpoint."
            client.set_flow_run_state(UUID(flow_run), Crashed(message=said + goes_on))
    return True
