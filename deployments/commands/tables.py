"""What the commands `budget`, `jobs` and `models` print: a table for people, or JSON."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from deployments.catalogue import require_flow
from deployments.commands.shared import say, tell
from deployments.commands.terminal import Terminal, styled
from infra import database, ledger
from infra.compute import jobs
from infra.contract import Resources
from infra.errors import InputError, LaunchError, first_fault
from infra.models import registry
from infra.models.target import own_target
from infra.records import runs
from tasks.champions import rollouts
from tasks.runs import offers
from tasks.runs.charge import halt, reservations
from tasks.runs.purse import Target

console = Terminal()

SPENDING_DAYS = 7
PIPED = 1000
"""Characters of a line that is no terminal's, at most: nothing of a table is folded."""
BAR = 8
"""Characters of a budget's bar."""


def show_budgets(as_json: bool) -> None:
    """Every budget of the project and its flows with its present window."""
    budgets = ledger.budgets(database.pool())
    if as_json:
        tell([budget.model_dump(mode="json") for budget in budgets])
        return
    table = make_table(
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
    show_table(table)

    _show_holders(budgets)
    _show_spending()


def _show_holders(budgets: list[ledger.Budget]) -> None:
    """Who holds what is reserved of each budget."""
    table = make_table("Reserved by", "key", "budget", ">dollars")
    for budget in budgets:
        for holder in budget.holders:
            of = f"{budget.scope} a {budget.period}"
            table.add_row(holder.key, styled(of, "dim"), f"{holder.amount:.4f}")
    if table.rows:
        show_table(table)


def _show_spending() -> None:
    """What the last days cost, by flow and by provider."""
    pool = database.pool()
    days = ledger.history(pool, SPENDING_DAYS)
    spent = [(f"{one.day:%d %b}", one.flow or "no flow", one.charged) for one in days]
    if not spent:
        return
    table = make_table(f"Charged in the last {SPENDING_DAYS} days", "day", "flow", ">dollars")
    for day, flow, charged in spent:
        table.add_row(day, flow, f"{charged:.4f}")
    for provider, charged in jobs.charged_by_provider(pool, SPENDING_DAYS):
        table.add_row("", styled(f"of all on {provider}", "dim"), styled(f"{charged:.4f}", "dim"))
    show_table(table)


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
    rows, refusal = [], None
    try:
        found = offers.offers(resources, target)
    except LaunchError as error:
        refusal = error
        found = offers.listed(resources, target)
        if not found:
            raise
    for quote in found:
        due = offers.price(quote, hours)
        told = {"usd": str(due), "fits": due <= left, "available": refusal is None}
        rows.append(quote.model_dump(mode="json") | told)
    if as_json:
        tell(rows)
        return
    title = f"For {hours:g} h; {left:.2f} dollars are left of the project's budget"
    if refusal is not None:
        title = f"Not available here, by SkyPilot's price lists. {title}"
    table = make_table(
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
            styled("yes", "green") if row["fits"] else styled("no", "red"),
            f"{row['source']}, {_age(read)} old" if read else row["source"],
        )
    show_table(table)
    if refusal is not None:
        say(f"! {refusal.message}. {refusal.remedy}", "yellow", err=True)


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
        tell(rows)
        return
    table = make_table("Jobs, newest first", "key", "state", "where", "begun", ">s", ">dollars")
    for row in rows:
        colour = {"failed": "red", "running": "green", "interrupted": "yellow"}
        table.add_row(
            row["key"],
            styled(row["state"], colour.get(row["state"], "")),
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
    show_table(table if rows else nothing)


def show_logs(key: str, follow: bool, as_json: bool) -> None:
    """The lines of a job's log."""
    job = jobs.find_one(database.pool(), key)
    launcher = offers.launchers("auto")[job.launcher]
    attempts = launcher.attempts(job.key)
    lines = launcher.logs(attempts[-1], follow) if attempts else iter(())
    if as_json:
        tell({"key": job.key, "lines": list(lines)})
        return
    for line in lines:
        console.print(line, soft_wrap=True)


def stop_job(key: str, as_json: bool) -> None:
    """Stop a job for good and settle it."""
    pool = database.pool()
    job = jobs.find_one(pool, key)
    if job.state in jobs.ENDED:
        raise InputError(f"{job.key} has {job.state} already", "There is nothing to stop.")
    if job.is_elsewhere:
        raise InputError(
            f"{job.key} runs at {job.home}, which this home cannot reach",
            "Give the same command there.",
        )
    jobs.record_end(pool, job.key, "stopped", error="stopped by a person")
    launcher = offers.launchers("auto")[job.launcher]
    live = [r for r in reservations(pool, job.key) if not r.closed]
    attempts = launcher.attempts(job.key)
    for handle in attempts[-1:]:
        halt(pool, job, launcher, handle, live[-1] if live else None)
    if as_json:
        tell({"key": job.key, "state": "stopped"})
    else:
        settled = "and settled" if attempts else "before its launch"
        console.print(f"{job.key} is stopped {settled}.")


def show_models(model: str | None, as_json: bool) -> None:
    """Versions of one model or of all."""
    names = [model] if model else registry.models()
    versions = [version for name in names for version in registry.versions(name)]
    if model and not versions:
        raise InputError(f"there is no model {model!r}", "`nightshift models list` shows them.")
    judged = runs.held_out(database.pool(), [one.flow_run for one in versions if one.flow_run])
    scores = [_scores(judged.get(one.flow_run or ""), one.version) for one in versions]
    if as_json:
        both = zip(versions, scores, strict=True)
        tell([one.model_dump(mode="json") | {"held_out": found} for one, found in both])
        return
    table = make_table("Models", "model", ">version", "alias", ">from", "held out", "run")
    table.columns[-1].no_wrap = True  # an id
    for version, found in zip(versions, scores, strict=True):
        shown = [f"{one['name']} {one['candidate']:.3g} ({one['gain']:+.3g})" for one in found[:2]]
        table.add_row(
            version.model,
            version.version,
            styled(", ".join(version.aliases), "green"),
            version.parent or "",
            ", ".join(shown) or styled("not judged", "dim"),
            version.flow_run or "",
        )
    show_table(table if versions else "No models yet: `nightshift run nightly-ppo` makes one.")


def _scores(judged: tuple[str, list[dict[str, Any]]] | None, version: str) -> list[dict[str, Any]]:
    """The held-out scores of a version, by the report of the run that made it."""
    return judged[1] if judged and judged[0] == version else []


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
    """Move the champion alias back, and serve that version; end a rollout that is under way, whose
    champion stays."""
    ended = rollouts.withdraw(database.pool(), model, "`nightshift models rollback`")
    if ended is not None:
        show_models(model, as_json)
        if not as_json:
            say(f"{ended} is ended; version {ended.champion} answers on. Once more goes back.")
        return
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
        say(said, "yellow", err=True)


def show_table(table: Table | str) -> None:
    """Print a table, whole where it is read by a program or goes into a file."""
    wide = console if console.is_terminal else Terminal(file=console.file, width=PIPED)
    wide.print(table)


def make_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        figures = column.startswith(">")
        justify = "right" if figures else "left"
        whole = number == 0 or figures  # the first is a key or name, that people copy
        table.add_column(column.lstrip(">"), justify=justify, overflow="fold", no_wrap=whole)
    return table


def _bar(charged: Decimal, reserved: Decimal, limit: Decimal) -> Text:
    if limit == 0:
        return styled("closed", "red")
    full = min(BAR, int(charged / limit * BAR))
    held = min(BAR - full, int(reserved / limit * BAR))
    rest = BAR - full - held
    return Text.assemble(("█" * full, "red"), ("▒" * held, "yellow"), ("·" * rest, "dim"))
