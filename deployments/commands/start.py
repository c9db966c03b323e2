"""How a flow starts by hand: the Prefect server, readable log lines, the plan and the report."""

import logging
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.table import Table

from deployments import options
from deployments.catalogue import capability, flow_function
from deployments.commands import mqtt
from deployments.commands.shared import tell
from deployments.commands.tables import show_table
from deployments.commands.terminal import Terminal, show_report, styled
from deployments.webhooks import gateway
from infra import database, interruption, keeper
from infra.errors import ServiceUnavailable
from infra.inert import Formatter
from infra.services import prefect_server
from infra.settings import settings
from tasks.runs.plan import require_budget, usd_at_most
from tasks.runs.states import RENEWALS

errors = Terminal(stderr=True)
console = Terminal()


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
        tell(report.model_dump(mode="json"))
    else:
        show_report(console, Path(report.files["markdown"]).read_text("utf-8"))


def show_plan(name: str, parameters: Any, as_json: bool) -> None:
    """What would run, where, at which price; nothing is run or reserved.

    Raises InputError for a file that the run would not find, and, once the plan is shown, where the
    budget of the run is too small for a job of it.
    """
    if fault := options.absent(type(parameters), parameters):
        raise fault
    steps = capability(name).plan(parameters)
    total = usd_at_most(steps, parameters) if steps else Decimal(0)
    gate = getattr(parameters, "gate", None)
    promotion = _promotion(parameters)
    if as_json:
        rows = [step.model_dump(mode="json") for step in steps]
        told: dict[str, Any] = {"gate": gate.model_dump()} if gate else {}
        told |= {"promotion": promotion} if promotion else {}
        tell({"steps": rows, "usd_at_most": str(total), **told})
        require_budget(steps, parameters)
        return
    if not steps:
        console.print(f"{name} launches no jobs and costs nothing.")
        return
    table = Table(title=f"{name}: what would run", title_justify="left", box=None, pad_edge=False)
    for column in ("step", "environment", "where", "resources"):
        table.add_column(column)
    for column in ("hours", "$ an hour", "$"):
        table.add_column(column, justify="right")
    for step in steps:
        table.add_row(
            step.step,
            step.environment,
            step.launcher,
            step.resources,
            f"{step.max_hours:g}",
            f"{step.hourly_usd:.4f}",
            f"{step.usd_a_window:.4f}",
        )
    show_table(table)
    if gate:
        limits = ", ".join(f"{name.replace('_', ' ')} {limit:g}" for name, limit in gate)
        console.print(f"The gate promotes within: {limits}.")
    if promotion:
        console.print(promotion)
    once = sum(step.usd_a_window for step in steps)
    console.print(
        f"${once:.4f} if every job takes its hours once. A job whose hours pass goes on from its "
        f"checkpoint, up to {RENEWALS} times, and --max-cost bounds them all."
    )
    if once > parameters.max_cost:
        console.print(
            "--max-cost is less than that. A run whose jobs take all their hours ends at the job "
            f"that ${parameters.max_cost:f} cannot pay; the same command with more goes on."
        )
    console.print(f"At most ${total:.4f}. Nothing was run or reserved.")
    require_budget(steps, parameters)


def _promotion(parameters: Any) -> str | None:
    """How a candidate becomes champion, where that may take a rollout."""
    if (stages := getattr(parameters, "rollout", None)) is None:
        return None
    from tasks.serving.deploy import foresee

    return foresee(parameters.name, stages)


def set_up(as_json: bool) -> None:
    """Make everything that a first run of nightly-ppo or dpo-training would wait for."""
    from infra.compute import environments
    from infra.models import registry

    environments.ensure("train")
    database.pool()
    registry.models()
    prefect_server.ensure()
    if as_json:
        tell({"home": str(settings().home), "objects": settings().objects_uri})
    else:
        errors.print(
            "Ready: database, server and the job environment train; others, as that of surrogates, "
            f"are made on first use. Everything lies in {settings().home}",
            soft_wrap=True,
        )


def keep_up(detach: bool, as_json: bool) -> None:
    """Run everything until Ctrl-C or `nightshift down`, or leave a process that does."""
    from deployments.server import services

    interruption.install()
    gateway.check()
    if settings().mqtt_broker is not None:
        mqtt.check()
    if detach:
        before = "It was up already. " if services.present() else ""
        ending = f"{before}`nightshift down` ends everything."
        _show_addresses(services.detach(), as_json, ending)
        return
    with services.holding():
        try:
            ending = "Ctrl-C or `nightshift down` ends everything."
            _show_addresses(services.start_all(), as_json, ending)
            services.watch()
        finally:
            services.end_all()


def _show_addresses(addresses: dict[str, Any], as_json: bool, ending: str) -> None:
    if as_json:
        tell(addresses)
    else:
        console.print(f"Prefect UI   {addresses['ui']}", soft_wrap=True)
        if file := addresses.get("password_file"):
            console.print(f"  asks for   what is in {file}", soft_wrap=True)
        console.print(f"Webhooks     {addresses['gateway']}", soft_wrap=True)
        for name, url in addresses.get("models", {}).items():
            console.print(f"Model        {name} at {url}, once it has a champion", soft_wrap=True)
        console.print(f"Home folder  {addresses['home']}", soft_wrap=True)
        console.print(ending)
    sys.stdout.flush()


def show_status(as_json: bool) -> None:
    """Which services run and where; exit code 4 if one does not."""
    from deployments.server import services

    rows = services.status()
    if as_json:
        tell(rows)
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("service", "state", "where"):
            table.add_column(column, overflow="fold")
        for row in rows:
            colour = "green" if row["running"] else "red"
            state = "runs" if row["running"] else "does not run"
            table.add_row(row["service"], styled(state, colour), row["where"])
        show_table(table)
    if not all(row["running"] for row in rows):
        raise SystemExit(ServiceUnavailable.exit_code)


def end_up(as_json: bool) -> None:
    """End every `nightshift up` of this home folder, and what they run."""
    from deployments.server import services

    ended = services.end_others()
    files = prefect_server.flow_run_locks().glob("*.lock")
    working = sum(keeper.is_locked(file) for file in files)
    if as_json:
        tell({"ended": ended, "flow_runs_at_work": working})
        return
    console.print("What `nightshift up` ran has ended." if ended else "Nothing was up.")
    if not working:
        return
    if "Prefect" in services.services() and not keeper.address(prefect_server.own()):
        console.print(
            f"Flow runs still at work: {working}, and PostgreSQL with them. What needs the server "
            "they cannot do: they end interrupted, and the same command goes on."
        )
    else:
        console.print(
            f"Flow runs still at work: {working}. They go on: PostgreSQL and the Prefect server "
            "are still there."
        )


def _prepare_logging() -> None:
    """Our lines on the terminal; they and Prefect's own are in the Prefect UI too."""
    handler = logging.StreamHandler()  # a line each, which a terminal wraps and a file keeps whole
    handler.setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("nightshift")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
