"""What the commands `budget`, `jobs` and `models` print: a table for people, or JSON."""

import json
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

import click
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from deployments.catalogue import require_flow
from infra import database, jobs, ledger, registry
from infra.errors import InputError, first_fault
from infra.serving.target import own_target
from jobs.contract import Resources
from tasks.launch import halt, launchers, offers, price, reservations
from tasks.purse import Target

console = Console(highlight=False)

SPENDING_DAYS = 7
BAR = 12
"""Characters of a budget's bar."""


def show_budgets(as_json: bool) -> None:
    """Every budget of the project and its flows with its present window."""
    budgets = ledger.budgets(database.pool())
    if as_json:
        _json([budget.model_dump(mode="json") for budget in budgets])
        return
    table = _table(
        "Budgets in dollars",
        "budget",
        "",
        ">limit",
        ">charged",
        ">reserved",
        ">remaining",
        "resets",
    )
    for budget in budgets:
        resets = "never"
        if budget.resets_at:
            resets = f"{budget.resets_at.astimezone(ZoneInfo(budget.timezone)):%d %b %H:%M %Z}"
        table.add_row(
            f"{budget.scope} a {budget.period}",
            _bar(budget.charged, budget.reserved, budget.limit),
            f"{budget.limit:,.2f}",
            f"{budget.charged:.4f}",
            f"{budget.reserved:.4f}",
            f"{budget.remaining:,.4f}",
            resets,
        )
        for holder in budget.holders:
            held = f"[dim]{holder.amount:.4f}[/dim]"
            table.add_row(f"  [dim]{holder.key}[/dim]", "", "", "", held)
    console.print(table)

    _show_spending()


def _show_spending() -> None:
    """What the last days cost, by flow and by provider."""
    pool = database.pool()
    days = ledger.history(pool, SPENDING_DAYS)
    spent = [(f"{one.day:%d %b}", one.flow or "no flow", one.charged) for one in days]
    if not spent:
        return
    table = _table(f"Charged in the last {SPENDING_DAYS} days", "day", "flow", ">dollars")
    for day, flow, charged in spent:
        table.add_row(day, flow, f"{charged:.4f}")
    for provider, charged in jobs.charged_by_provider(pool, SPENDING_DAYS):
        table.add_row("", f"[dim]of all on {provider}[/dim]", f"[dim]{charged:.4f}[/dim]")
    console.print(table)


def show_quotes(
    accelerators: str | None,
    cpus: int,
    memory: float,
    spot: bool,
    hours: float,
    target: Target,
    as_json: bool,
) -> None:
    """Every offer for some resources, the cheapest first."""
    if not 0 < hours <= 24 * 365:
        raise InputError(f"--hours: {hours:g} hours", "Give more than 0, e.g. 2.5.")
    try:
        resources = Resources(
            cpus=cpus, memory_gb=memory, accelerators=_accelerators(accelerators), use_spot=spot
        )
    except ValidationError as error:
        where, message = first_fault(error)
        raise InputError(
            f"--{where[0].removesuffix('_gb')}: {message}", "--help tells the options."
        ) from None
    budgets = ledger.budgets(database.pool())
    left = min(one.remaining for one in budgets if one.scope == "project")
    rows = []
    for quote in offers(resources, target):
        due = price(quote, hours)
        rows.append(quote.model_dump(mode="json") | {"usd": str(due), "fits": due <= left})
    if as_json:
        _json(rows)
        return
    title = f"For {hours:g} h; {left:.2f} dollars are left of the project's budget"
    table = _table(
        title, "where", "machine", "spot", ">$ an hour", ">$ at most", "fits", "price of"
    )
    for row in rows:
        read = row["priced_at"]
        table.add_row(
            row["region"],
            row["instance_type"],
            "spot" if row["spot"] else "",
            f"{Decimal(row['hourly_usd']):.4f}",
            f"{Decimal(row['usd']):.4f}",
            "[green]yes[/green]" if row["fits"] else "[red]no[/red]",
            f"{row['source']}, {_age(read)} old" if read else row["source"],
        )
    console.print(table)


def _accelerators(given: str | None) -> dict[str, int]:
    """'H100:8' → {'H100': 8}."""
    if not given:
        return {}
    name, _, count = given.partition(":")
    if not name or not (count or "1").isdecimal():
        raise InputError(f"--accelerators: {given!r}", "Give NAME:COUNT, e.g. H100:8.")
    return {name: int(count or 1)}


def _age(read: str) -> str:
    seconds = (datetime.now(UTC) - datetime.fromisoformat(read)).total_seconds()
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(0, seconds) / 60:.0f} min"


def set_budget(scope: str, window: str, limit: str, timezone: str | None) -> None:
    """Set a limit. Raises InputError for what is no amount of dollars."""
    try:
        amount = Decimal(limit)
    except InvalidOperation:
        raise InputError(f"LIMIT: {limit!r} is no number", "Give dollars, e.g. 200.") from None
    kind, _, flow = scope.partition(":")
    if kind == "flow":
        require_flow(flow, "--scope")
    ledger.set_budget(database.pool(), scope, window, amount, timezone)


def show_jobs(running: bool, limit: int, as_json: bool) -> None:
    """Jobs, newest first; their seconds are those for which money was kept."""
    rows = []
    for job in jobs.newest(database.pool(), limit, running):
        held = reservations(database.pool(), job.key)
        spent = sum((r.spent for r in held), Decimal(0))
        kept = sum(((r.closed_at or datetime.now(UTC)) - r.created_at for r in held), timedelta())
        rows.append(
            {
                "key": job.key,
                "state": job.state,
                "launcher": job.launcher,
                "begun": job.created_at.isoformat(timespec="seconds"),
                "seconds": round(kept.total_seconds()),
                "usd": str(spent),
                "error": job.error,
            }
        )
    if as_json:
        _json(rows)
        return
    table = _table("Jobs, newest first", "key", "state", "where", "begun", ">s", ">dollars")
    for row in rows:
        colour = {"failed": "red", "running": "green", "interrupted": "yellow"}.get(row["state"])
        table.add_row(
            row["key"],
            f"[{colour}]{row['state']}[/{colour}]" if colour else row["state"],
            row["launcher"],
            row["begun"].replace("T", " ")[5:16],
            str(row["seconds"]),
            f"{Decimal(row['usd']):.4f}",
        )
    nothing = (
        "No job is running."
        if running
        else "No jobs yet: `nightshift run nightly-ppo` starts some."
    )
    console.print(table if rows else nothing)


def show_logs(key: str, follow: bool, as_json: bool) -> None:
    """The lines of a job's log."""
    job = jobs.find_one(database.pool(), key)
    launcher = launchers("auto")[job.launcher]
    attempts = launcher.attempts(job.key)
    lines = launcher.logs(attempts[-1], follow) if attempts else iter(())
    if as_json:
        _json({"key": job.key, "lines": list(lines)})
        return
    for line in lines:
        console.print(line, markup=False)


def stop_job(key: str, as_json: bool) -> None:
    """Stop a job for good and settle it."""
    pool = database.pool()
    job = jobs.find_one(pool, key)
    if job.state in jobs.ENDED:
        raise InputError(f"{job.key} has {job.state} already", "There is nothing to stop.")
    jobs.record_end(pool, job.key, "stopped", error="stopped by a person")
    launcher = launchers("auto")[job.launcher]
    live = [r for r in reservations(pool, job.key) if not r.closed]
    attempts = launcher.attempts(job.key)
    for handle in attempts[-1:]:
        halt(pool, job, launcher, handle, live[-1] if live else None)
    if as_json:
        _json({"key": job.key, "state": "stopped"})
    else:
        settled = "and settled" if attempts else "before its launch"
        console.print(f"{job.key} is stopped {settled}.")


def show_models(model: str | None, as_json: bool) -> None:
    """Versions of one model or of all."""
    names = [model] if model else registry.models()
    versions = [version for name in names for version in registry.versions(name)]
    if model and not versions:
        raise InputError(f"there is no model {model!r}", "`nightshift models list` shows them.")
    if as_json:
        _json([version.model_dump(mode="json") for version in versions])
        return
    table = _table("Models", "model", ">version", "alias", ">parent", "metrics", "run")
    for version in versions:
        shown = list(version.metrics.items())[:3]
        table.add_row(
            version.model,
            version.version,
            f"[green]{', '.join(version.aliases)}[/green]",
            version.parent or "",
            ", ".join(f"{name} {value:.3g}" for name, value in shown),
            version.flow_run or "",
        )
    console.print(table if versions else "No models yet: `nightshift run nightly-ppo` makes one.")


def promote(model: str, version: str, as_json: bool) -> None:
    """Move the champion alias, if a verdict allows it, and serve that version."""
    if version not in [known.version for known in registry.versions(model)]:
        raise InputError(
            f"there is no version {version!r} of {model!r}", "`nightshift models list` shows them."
        )
    registry.promote(model, version)
    _serve(model, "champion")
    show_models(model, as_json)


def rollback(model: str, as_json: bool) -> None:
    """Move the champion alias back, and serve that version."""
    _serve(model, "previous")  # first: if it fails, the same command can be given again
    registry.rollback(model)
    show_models(model, as_json)


def _serve(model: str, alias: str) -> None:
    version = registry.by_alias(model, alias)
    if version is None:
        return
    if version.sha256:
        own_target().deploy(version)
    else:
        said = f"! {version.uri} is no stored artefact: what is served stays as it is."
        click.secho(said, fg="yellow", err=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        justify = "right" if column.startswith(">") else "left"
        whole = number == 0  # a key or name, that people copy
        table.add_column(column.lstrip(">"), justify=justify, overflow="fold", no_wrap=whole)
    return table


def _bar(charged: Decimal, reserved: Decimal, limit: Decimal) -> str:
    if limit == 0:
        return "[red]closed[/red]"
    full = min(BAR, int(charged / limit * BAR))
    held = min(BAR - full, int(reserved / limit * BAR))
    rest = BAR - full - held
    return f"[red]{'█' * full}[/red][yellow]{'▒' * held}[/yellow][dim]{'·' * rest}[/dim]"


def _json(value: Any) -> None:
    json.dump(value, sys.stdout, default=str)
    sys.stdout.write("\n")
