"""How a flow starts by hand: the Prefect server, readable log lines, the plan and the report."""

import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.logging import RichHandler
from rich.markdown import Markdown
from rich.table import Table

from deployments import gateway, mqtt
from deployments.catalogue import flow_function, flow_module
from infra import database, interruption, keeper, prefect_server
from infra.errors import ServiceUnavailable
from infra.settings import settings

errors = Console(stderr=True)
console = Console()


def run(name: str, parameters: BaseModel, as_json: bool) -> None:
    """Run the flow `name` in this process and print its report.

    SIGTERM ends it like Ctrl-C: the job checkpoints, its cost is settled.
    """
    interruption.install()
    _prepare_logging()
    database.pool()
    prefect_server.ensure()
    from prefect import tags
    from prefect.context import refresh_global_settings_context

    refresh_global_settings_context()
    with tags(prefect_server.HERE):
        report = flow_function(name)(parameters)
    if as_json:
        sys.stdout.write(report.model_dump_json() + "\n")
    else:
        console.print(Markdown(Path(report.files["markdown"]).read_text()))


def show_plan(name: str, parameters: BaseModel, as_json: bool) -> None:
    """What would run, where, at which price; nothing is run or reserved."""
    steps = flow_module(name).plan(parameters)
    total = sum(step.usd_at_most for step in steps)
    if as_json:
        rows = [step.model_dump(mode="json") for step in steps]
        _json({"steps": rows, "usd_at_most": str(total)})
        return
    if not steps:
        console.print(f"{name} launches no jobs and costs nothing.")
        return
    table = Table(title=f"{name}: what would run", title_justify="left", box=None)
    for column in ("step", "environment", "where", "resources", "hours at most", "$ an hour"):
        table.add_column(column)
    table.add_column("$ at most", justify="right")
    for step in steps:
        table.add_row(
            step.step,
            step.environment,
            step.launcher,
            step.resources,
            f"{step.max_hours:g}",
            f"{step.hourly_usd:.4f}",
            f"{step.usd_at_most:.4f}",
        )
    console.print(table)
    console.print(f"At most ${total:.4f}. Nothing was run or reserved.")


def set_up(as_json: bool) -> None:
    """Make everything that a first run of nightly-ppo or dpo-training would wait for."""
    from infra import registry
    from infra.compute import environments

    environments.ensure("train")
    database.pool()
    registry.models()
    prefect_server.ensure()
    if as_json:
        _json({"home": str(settings().home), "objects": settings().objects_uri})
    else:
        errors.print(
            "Ready: database, server and the job environment train; others, as that of surrogates, "
            f"are made on first use. Everything lies in {settings().home}",
            highlight=False,
        )


def keep_up(detach: bool, as_json: bool) -> None:
    """Run everything until Ctrl-C or `nightshift down`, or leave a process that does."""
    from deployments import services

    interruption.install()
    gateway.check()
    if settings().mqtt_broker is not None:
        mqtt.check()
    if detach:
        _show_addresses(services.detach(), as_json, "`nightshift down` ends everything.")
        return
    with services.holding():
        try:
            ending = "Ctrl-C or `nightshift down` ends everything."
            _show_addresses(services.start_all(), as_json, ending)
            signal.pause()
        finally:
            services.end_all()


def _show_addresses(addresses: dict[str, str], as_json: bool, ending: str) -> None:
    if as_json:
        _json(addresses)
    else:
        console.print(f"Prefect UI   {addresses['ui']}", highlight=False, soft_wrap=True)
        console.print(f"Webhooks     {addresses['gateway']}", highlight=False, soft_wrap=True)
        console.print(f"Home folder  {addresses['home']}", highlight=False, soft_wrap=True)
        console.print(ending)
    sys.stdout.flush()


def show_status(as_json: bool) -> None:
    """Which services run and where; exit code 4 if one does not."""
    from deployments import services

    rows = services.status()
    if as_json:
        _json(rows)
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("service", "state", "where"):
            table.add_column(column, overflow="fold")
        for row in rows:
            colour = "green" if row["running"] else "red"
            state = "runs" if row["running"] else "does not run"
            table.add_row(row["service"], f"[{colour}]{state}[/{colour}]", row["where"])
        console.print(table)
    if not all(row["running"] for row in rows):
        raise SystemExit(ServiceUnavailable.exit_code)


def end_up(as_json: bool) -> None:
    """End every `nightshift up` of this home folder, and what they run."""
    from deployments import services

    ended = services.end_others()
    files = prefect_server.flow_run_locks().glob("*.lock")
    working = sum(keeper.is_locked(file) for file in files)
    if as_json:
        _json({"ended": ended, "flow_runs_at_work": working})
        return
    console.print("What `nightshift up` ran has ended." if ended else "Nothing was up.")
    if not working:
        return
    if "Prefect" in services.services() and not keeper.told(prefect_server.own()):
        console.print(
            f"Flow runs still at work: {working}, and PostgreSQL with them. What needs the server "
            "they cannot do: they end interrupted, and the same command goes on."
        )
    else:
        console.print(
            f"Flow runs still at work: {working}. They go on: PostgreSQL and the Prefect server "
            "are still there."
        )


def _json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


def _prepare_logging() -> None:
    """Our lines on the terminal; they and Prefect's own are in the Prefect UI too."""
    handler: Any = RichHandler(
        console=errors, show_path=False, show_level=False, markup=False, log_time_format="%H:%M:%S"
    )
    logger = logging.getLogger("nightshift")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
