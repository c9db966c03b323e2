"""Prefect's hooks: a courtesy, not a guarantee. They run in another process, seconds later.

Prefect calls hooks by keyword, so the parameters must be named flow, flow_run and state.
"""

import logging
from typing import Any

from prefect.client.schemas.objects import FlowRun, State

from infra import database
from infra.compute import jobs
from tasks.runs import offers
from tasks.runs.charge import halt, reservations

log = logging.getLogger("nightshift")


def release_compute(flow: Any, flow_run: FlowRun, state: State) -> None:  # noqa: ARG001
    """Stop the jobs of a cancelled or crashed flow run and settle what they cost."""
    pool = database.pool()
    for job in jobs.of_flow_run(pool, str(flow_run.id)):
        launcher = offers.launchers("auto").get(job.launcher)
        if launcher is None:
            log.warning("%s runs on %s, which this process cannot reach", job.key, job.launcher)
            continue
        live = [r for r in reservations(pool, job.key) if not r.closed]
        for handle in launcher.attempts(job.key)[-1:]:
            halt(pool, job, launcher, handle, live[-1] if live else None)
        jobs.record_interruption(pool, job.key)
