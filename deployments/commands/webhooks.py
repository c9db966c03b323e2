"""`nightshift hooks`: who may start flows by HTTP, and what came in."""

import re
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import click
from pydantic import BaseModel, SecretStr, ValidationError

from deployments.commands import shared
from deployments.commands.flows import complete_flows
from deployments.commands.shared import as_json, say, tell
from infra.errors import InputError, first_fault

YEAR_MINUTES = 365 * 24 * 60


@click.group(cls=shared.Commands)
def hooks() -> None:
    """Let other systems start flows with a signed POST; docs/webhooks.md."""


@hooks.command()
@click.argument("name")
@click.option(
    "--flow",
    "flows",
    multiple=True,
    shell_complete=complete_flows,
    help="A flow it may start [default: NAME].",
)
@click.option(
    "--form",
    type=click.Choice(["standard", "github", "cloudevents"]),
    default="standard",
    show_default=True,
    help="How deliveries are signed and what they look like.",
)
@click.option(
    "--map",
    "mapped",
    multiple=True,
    metavar="PARAMETER=TEMPLATE",
    help="Set a parameter from a Jinja template, e.g. name='{{ data.model }}'; with any, nothing "
    "else of a delivery is used.",
)
@click.option(
    "--per-minute",
    default=600,
    show_default=True,
    type=click.IntRange(1, 1_000_000),
    help="Deliveries a minute at most.",
)
@click.option("--max-cost", help="Dollars that each run may cost at most [default: the flow's].")
@click.option(
    "--debounce",
    default=0.0,
    show_default=True,
    help="Minutes in which all deliveries become one run.",
)
@as_json
def create(
    name: str,
    flows: tuple[str, ...],
    form: Any,
    mapped: tuple[str, ...],
    per_minute: int,
    max_cost: str | None,
    debounce: float,
    as_json: bool,
) -> None:
    """Make a hook and show its secret, this once."""
    from infra import database
    from infra.hooks import NAME, Hook, secrets
    from infra.hooks import create as store

    if not re.match(NAME, name):
        remedy = "Use small letters, digits and '-', 63 at most, e.g. my-hook."
        raise InputError(f"NAME: {name!r} is no name of a hook", remedy)
    chosen = list(flows) or [name]
    if not 0 <= debounce <= YEAR_MINUTES:
        raise InputError(f"--debounce: {debounce:g} minutes", "Give 0 to a year; 0 gathers none.")
    values = {
        "name": name,
        "form": form,
        "flows": chosen,
        "mapping": _mapping(mapped, chosen),
        "per_minute": per_minute,
        "max_cost": max_cost,
        "debounce": timedelta(minutes=debounce),
        "secret": SecretStr(secrets.fresh()),
    }
    try:
        hook = Hook.model_validate(values)
    except ValidationError as error:
        where, message = first_fault(error)
        option = f"--{where[0].replace('_', '-')}"
        raise InputError(f"{option}: {message}", "--help tells the options.") from None
    if hook.max_cost is not None:
        _check_costs(chosen, hook.max_cost)
    store(database.pool(), hook)
    _show_secret(name, hook.secret.get_secret_value(), as_json)


@hooks.command()
@click.argument("name")
@click.option(
    "--overlap", default=24.0, show_default=True, help="Hours for which the old one stays good."
)
@as_json
def rotate(name: str, overlap: float, as_json: bool) -> None:
    """Give a hook a new secret and show it, this once."""
    from infra import database, hooks

    if not 0 <= overlap <= 24 * 365:
        raise InputError(f"--overlap: {overlap:g} hours", "Give 0 or more; 0 ends the old one now.")
    _show_secret(name, hooks.rotate(database.pool(), name, timedelta(hours=overlap)), as_json)


@hooks.command("list")
@as_json
def list_(as_json: bool) -> None:
    """Every hook, what it may start, and when it last delivered."""
    from infra import database, hooks

    rows = hooks.newest(database.pool())
    if as_json:
        tell(rows)
        return
    shown = [
        (row["name"], row["form"], ", ".join(row["flows"]), str(row["deliveries"]))
        + (f"{row['last_delivery']:%d %b %H:%M}" if row["last_delivery"] else "never",)
        for row in rows
    ]
    _table("Hooks", ("hook", "form", "flows", "deliveries", "last"), shown)


@hooks.command("deliveries")
@click.argument("name", required=False)
@shared.limit
@as_json
def deliveries_(name: str | None, limit: int, as_json: bool) -> None:
    """What came in, newest first, and the flow run that it became."""
    from infra import database, hooks
    from infra.hooks import deliveries

    pool = database.pool()
    if name and name not in [hook["name"] for hook in hooks.newest(pool)]:
        raise hooks.unknown(name)
    rows = deliveries.newest(pool, name, limit)
    if as_json:
        tell(rows)
        return
    shown = [
        (str(row["id"]), row["hook"], row["flow"], f"{row['received_at']:%d %b %H:%M:%S}")
        + (row["state"], str(row["flow_run"] or row["error"] or ""))
        for row in rows
    ]
    _table("Deliveries", ("delivery", "hook", "flow", "received", "state", "flow run"), shown)


@hooks.command()
@click.argument("delivery", type=click.UUID)
@as_json
def replay(delivery: UUID, as_json: bool) -> None:
    """Start the run of a stored delivery once more, as a new delivery."""
    from infra import database
    from infra.hooks import deliveries

    new = deliveries.replay(database.pool(), delivery)
    if as_json:
        tell({"delivery": new, "replay_of": delivery})
    else:
        say(f"Delivery {new} is stored; the gateway starts its run.")


def _mapping(mapped: tuple[str, ...], flows: list[str]) -> dict[str, str]:
    """Templates by parameter. Raises InputError for what no flow of the hook has."""
    from jinja2 import TemplateError

    from deployments.catalogue import parameter_model, require_flow
    from deployments.options import whole_name
    from deployments.webhooks.mapping import compiled

    for flow in flows:
        require_flow(flow, "--flow")
    mapping: dict[str, str] = {}
    for text in mapped:
        path, sign, template = text.partition("=")
        if not sign:
            raise InputError(f"--map: {text!r} has no '='", "Give PARAMETER=TEMPLATE.")
        for flow in flows:
            if not _has(parameter_model(flow), path.split(".")):
                whole = whole_name(parameter_model(flow), path)
                remedy = f"It is named {whole}." if whole else f"See nightshift run {flow} --help."
                raise InputError(f"--map: {flow} has no parameter {path!r}", remedy)
        try:
            compiled(template)
        except TemplateError as error:
            raise InputError(f"--map {path}: {error}", "Give a Jinja template.") from None
        mapping[path] = template
    return mapping


def _check_costs(flows: list[str], max_cost: Decimal) -> None:
    """Raises InputError for no dollars, and for a flow that has no cost to limit."""
    from deployments.catalogue import parameter_model

    if max_cost == 0:
        raise InputError("--max-cost: 0 dollars leave nothing to spend", "Give more than 0.")
    for flow in flows:
        if "max_cost" not in parameter_model(flow).model_fields:
            raise InputError(f"--max-cost: {flow} costs nothing", "Leave --max-cost out.")


def _has(model: Any, path: list[str]) -> bool:
    for name in path:
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        if not is_model or name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
    return True


def _show_secret(name: str, secret: str, as_json: bool) -> None:
    if as_json:
        tell({"hook": name, "path": f"/hooks/{name}", "secret": secret})
        return
    say(f"POST /hooks/{name}")
    say(f"Secret {secret}")
    say("It is not shown again; `nightshift hooks rotate` makes another.", err=True)


def _table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table

    from deployments.commands.tables import show_table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    show_table(table)
