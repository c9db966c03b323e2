"""How a flow starts through the Prefect server, and how its run is followed from here.

nightshift submit dpo-training --feedback-since 24h --wait
"""

import logging
import math
import re
import shlex
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
from pydantic import BaseModel

import infra.errors
from deployments import options
from deployments.catalogue import capability
from deployments.commands.shared import tell
from deployments.commands.terminal import Terminal, show_report
from infra import interruption
from infra.errors import (
    REMEDY_MARK,
    InputError,
    JobFailed,
    JobStopped,
    NightshiftError,
    ServiceUnavailable,
)
from infra.services import prefect_server
from tasks.runs.artifacts import without_plots
from tasks.runs.capability import REFUSED

POLL_SECONDS = 1.0
AWAY_SECONDS = 60.0
"""For how long the server may not answer while its run is followed."""
LATE = timedelta(seconds=15)
"""Lines of a log may reach the server in another order than that of their times."""
LAST_SECONDS = 5.0
"""The last lines reach the server after the final state."""
LAST_LINE = "Finished in state"
INTERRUPTED = 130
ENGINE = ("prefect.flow_runs", "prefect.task_runs")
RAISED = re.compile(r"exception: (?:\w+\.)*(\w+): (.*)", re.DOTALL)

errors = Terminal(stderr=True, soft_wrap=True)
console = Terminal(soft_wrap=True)


def submit(flow: str, parameters: BaseModel, wait: bool, as_json: bool) -> None:
    """Create a run of the deployment of `flow` and tell its name and URL; `wait` follows it.

    Raises ServiceUnavailable without a server, a deployment or a worker, InputError for a file that
    the worker of this home would not find, and what the flow raised.
    """
    ui = prefect_server.find()
    if prefect_server.is_own() and (fault := options.absent(type(parameters), parameters)):
        raise fault  # its worker is here, and would not find it either
    from prefect.client.orchestration import get_client
    from prefect.context import refresh_global_settings_context
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.utilities.urls import url_for

    refresh_global_settings_context()
    try:
        with get_client(sync_client=True) as client:
            created = _create(client, flow, parameters)
            url = url_for("flow-run", obj_id=created.id) or ""
            told: dict[str, Any] = {"id": str(created.id), "name": created.name, "url": url}
            (errors if as_json else console).print(f"{created.name}  {url}")
            if wait:
                told |= _follow(client, created.id, url)
            elif not as_json:
                console.print(f"  → {_cancelling(created.id)} stops it.")
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        raise ServiceUnavailable(
            f"the Prefect server at {ui} does not answer: {str(error).splitlines()[0]}",
            "See `nightshift status`, PREFECT_API_URL and PREFECT_API_AUTH_STRING.",
        ) from None
    if as_json:
        tell(told)
    elif wait:
        show_report(console, told["report"])


def _create(client: Any, flow: str, parameters: BaseModel) -> Any:
    from prefect.exceptions import ObjectNotFound

    try:
        deployment = client.read_deployment_by_name(f"{flow}/{flow}")
    except ObjectNotFound:
        raise ServiceUnavailable(
            f"the Prefect server has no deployment of {flow}", "`nightshift up` makes them all."
        ) from None
    pool = deployment.work_pool_name
    status = client.request("GET", "/work_pools/{name}", path_params={"name": pool}).json()
    if status["status"] != "READY":
        raise ServiceUnavailable(
            f"no worker takes the runs of the work pool {pool!r} ({status['status']})",
            "`nightshift up` runs one; a paused pool is resumed in the Prefect UI.",
        )
    return client.create_flow_run_from_deployment(
        deployment.id,
        parameters={"parameters": parameters.model_dump(mode="json", exclude_unset=True)},
        name=capability(flow).run_name(parameters),
        tags=["submit"],
        idempotency_key=uuid4().hex,  # a request whose answer was lost is sent again
    )


def _follow(client: Any, run: UUID, url: str) -> dict[str, str]:
    """Show the run's log until it has ended; its state and report. Raises what it raised."""
    interruption.install()
    try:
        state = _wait(client, run)
    except KeyboardInterrupt:
        errors.print(f"The run goes on: {url}\n  → {_cancelling(run)} stops it.")
        raise SystemExit(INTERRUPTED) from None
    if not state.is_completed():
        kind = REFUSED if state.name == REFUSED else state.type.value
        raise failure(kind, state.message or "", url)
    reports = client.request(
        "POST",
        "/artifacts/filter",
        json={
            "artifacts": {"flow_run_id": {"any_": [str(run)]}, "type": {"any_": ["markdown"]}},
            "sort": "CREATED_DESC",
            "limit": 1,
        },
    ).json()
    report = without_plots(reports[0]["data"]) if reports else ""
    return {"state": state.name, "report": report}


def _cancelling(run: UUID) -> str:
    """The command that cancels a run, for a shell."""
    prefect = shlex.quote(str(Path(sys.executable).with_name("prefect")))
    return f"{prefect_server.for_a_shell()} {prefect} flow-run cancel {run}"


def _wait(client: Any, run: UUID) -> Any:
    """The final state, once every line of the log was shown."""
    known: set[UUID] = set()
    after = datetime.fromtimestamp(0, UTC)
    seen, answered = "", time.monotonic()
    ended, is_whole, told = math.inf, False, False
    while True:
        try:
            state = client.read_flow_run(run).state
            lines = [line for line in _lines(client, run, after) if line.id not in known]
            answered, told = time.monotonic(), False
        except httpx.TransportError:
            if time.monotonic() - answered > AWAY_SECONDS:
                raise
            if not told:
                now = f"{datetime.now():%H:%M:%S}"
                errors.print(f"{now} the server is away, waiting for it", style="dim")
            told = True
            time.sleep(POLL_SECONDS)
            continue
        for line in lines:
            known.add(line.id)
            after = max(after, line.timestamp - LATE)
            is_whole |= line.name == ENGINE[0] and line.message.startswith(LAST_LINE)
            if _is_shown(line):
                at = line.timestamp.astimezone()
                errors.print(f"{at:%H:%M:%S} {line.message.splitlines()[0]}")
        if state.is_final():
            ended = min(ended, time.monotonic())
        elif state.name != seen:
            seen = state.name
            errors.print(f"{datetime.now():%H:%M:%S} {seen}", style="dim")
        if state.is_final() and (is_whole or time.monotonic() - ended > LAST_SECONDS):
            errors.print(f"{datetime.now():%H:%M:%S} {state.name}", style="dim")
            return state
        time.sleep(POLL_SECONDS)


def _lines(client: Any, run: UUID, after: datetime) -> list[Any]:
    """Log lines since `after`, oldest first."""
    from prefect.client.schemas.filters import (
        LogFilter,
        LogFilterFlowRunId,
        LogFilterLevel,
        LogFilterTimestamp,
    )

    wanted = LogFilter(
        flow_run_id=LogFilterFlowRunId(any_=[run]),
        level=LogFilterLevel(ge_=logging.INFO),
        timestamp=LogFilterTimestamp.model_validate({"after_": after}),
    )
    found: list[Any] = []
    while page := client.read_logs(wanted, limit=200, offset=len(found)):
        found += page
    return [line for line in found if line.message.strip()]


def _is_shown(line: Any) -> bool:
    """Ours, and warnings of the worker; of an error the engine says no more than is raised."""
    if line.level >= logging.WARNING:
        return line.name not in ENGINE
    return line.name.startswith("nightshift")


def failure(state: str, message: str, url: str) -> NightshiftError:
    """The error that `nightshift run` would have ended with, as far as the state tells it."""
    if state == REFUSED:
        what, _, remedy = message.partition(REMEDY_MARK)
        return InputError(what, remedy)
    if state == "CANCELLED":
        return JobStopped("the run was cancelled", "Submit it again: it goes on where it ended.")
    raised = RAISED.search(message)
    kind = getattr(infra.errors, raised[1], None) if raised else None
    if raised and isinstance(kind, type) and issubclass(kind, NightshiftError):
        what, _, remedy = raised[2].partition(REMEDY_MARK)
        return kind(what, remedy)
    return JobFailed(f"the run ended as {state}: {message}", f"Its log: {url}")
