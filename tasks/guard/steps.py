"""What the cost guard does in one sweep, and its report."""

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event
from pydantic import BaseModel, ConfigDict, Field

from infra import database, ledger
from infra.compute import attempts
from infra.compute.attempts import Attempt
from infra.compute.sky.launcher import SkyLauncher
from infra.database import Pool
from infra.errors import LaunchError
from infra.hooks import deliveries
from infra.inert import plain
from infra.ledger import Budget, DailyCharge
from infra.records import messages
from infra.settings import settings
from tasks.champions import rollouts
from tasks.runs.artifacts import show
from tasks.runs.crashed import report_crashes
from tasks.runs.reconcile import reconcile

THRESHOLDS = (50, 80, 100)
"""Percent of a budget, charged and reserved, at which it is announced; each once a window."""
EVENT = "nightshift.budget.threshold"
SHOWN_DAYS = 30


class CostGuardParameters(BaseModel):
    """What the cost guard may be told."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(
        default=False, title="Dry run", description="Show what would be done, and do nothing."
    )


class Warned(BaseModel):
    """A budget that has reached a threshold, percent of its limit."""

    scope: str
    period: str
    percent: int
    used: Decimal
    limit: Decimal


class GuardReport(BaseModel):
    """What one sweep found and did."""

    dry_run: bool
    done: list[str]
    warnings: list[Warned]
    charged_usd: Decimal
    machines: list[str]
    files: dict[str, str]


@task(name="reconcile", cache_policy=NO_CACHE)
def sweep(dry_run: bool) -> list[str]:
    """Compare the ledger, the jobs table and every provider's own list; put right what differs."""
    pool = database.pool()
    done = reconcile(pool, "", dry_run) + report_crashes(pool, dry_run)
    done += rollouts.settle_dead(pool, dry_run)
    if attempts.any_ever(pool) and not dry_run:
        try:
            SkyLauncher(pool).note_costs()
        except LaunchError as error:
            done.append(f"SkyPilot's own cost report is not to be had: {error.message}")
    return done + forget(pool, dry_run)


def forget(pool: Pool, dry_run: bool) -> list[str]:
    """Delete what came by webhooks and MQTT more than NIGHTSHIFT_KEEP_DAYS ago."""
    days = settings().keep_days
    age = timedelta(days=days)
    gone = {
        "deliveries": deliveries.prune(pool, age, dry_run),
        "messages": messages.prune(pool, age, dry_run),
    }
    return [f"{n} {what} of more than {days} days; deleted" for what, n in gone.items() if n]


@task(name="warn", cache_policy=NO_CACHE)
def warn(dry_run: bool) -> list[Warned]:
    """Announce each threshold that a budget has reached as an event, once a window."""
    pool = database.pool()
    found = []
    for budget in ledger.budgets(pool):
        for percent in THRESHOLDS:
            used = budget.charged + budget.reserved
            if used * 100 < budget.limit * percent or used == 0:
                continue
            warning = Warned(
                scope=budget.scope,
                period=budget.period,
                percent=percent,
                used=used,
                limit=budget.limit,
            )
            if dry_run or _announce(pool, budget, warning):
                found.append(warning)
    return found


def _announce(pool: Pool, budget: Budget, warning: Warned) -> bool:
    """Whether it is new. A sweep that is killed in between announces it again."""
    window = [budget.scope, budget.period, budget.resets_at, warning.percent]
    known = "scope = %s AND period = %s AND resets_at = coalesce(%s, 'infinity') AND percent = %s"
    with pool.connection() as connection:
        if connection.execute(
            f"SELECT 1 FROM budget_warnings WHERE {known}",  # noqa: S608 - a constant
            window,
        ).fetchone():
            return False
    emit_event(
        event=EVENT,
        resource={
            "prefect.resource.id": f"nightshift.budget.{budget.scope}.{budget.period}",
            "prefect.resource.name": f"{budget.scope} a {budget.period}",
            "nightshift.percent": str(warning.percent),
        },
        payload=warning.model_dump(mode="json"),
    )
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO budget_warnings (scope, period, resets_at, percent)"
            " VALUES (%s, %s, coalesce(%s, 'infinity'), %s) ON CONFLICT DO NOTHING",
            window,
        )
    return True


@task(name="report", cache_policy=NO_CACHE)
def report_sweep(dry_run: bool, done: list[str], warnings: list[Warned]) -> GuardReport:
    """The sweep as a file and as artifacts in the Prefect UI."""
    pool = database.pool()
    folder = settings().home / "guard"
    folder.mkdir(parents=True, exist_ok=True)
    budgets, days = ledger.budgets(pool), ledger.history(pool, SHOWN_DAYS)
    machines = attempts.present(pool)
    report = GuardReport(
        dry_run=dry_run,
        done=done,
        warnings=warnings,
        charged_usd=sum((one.charged for one in budgets if one.scope == "project"), Decimal(0)),
        machines=[one.place for one in machines],
        files={"markdown": str(folder / "report.md"), "plot": str(folder / "spending.png")},
    )
    text = markdown(report, budgets, machines, attempts.recent(pool, SHOWN_DAYS))
    Path(report.files["markdown"]).write_text(text, "utf-8")
    draw(days, budgets, Path(report.files["plot"]))
    show("cost-guard", text, {"spending": Path(report.files["plot"])})
    return report


def markdown(
    report: GuardReport, budgets: list[Budget], machines: list[Attempt], past: list[Attempt]
) -> str:
    """The report as Markdown."""
    verb = "would be done" if report.dry_run else "was done"
    lines = [f"# Cost guard, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", f"## What {verb}", ""]
    lines += [f"- {plain(line)}" for line in report.done] or [
        "Nothing: the ledger, the jobs and the providers agree."
    ]
    if report.warnings:
        lines += ["", "## Warnings", ""]
        lines += [
            f"- {one.scope} a {one.period} has reached {one.percent} %: "
            f"{one.used:.2f} of {one.limit:.2f} dollars"
            for one in report.warnings
        ]
    lines += ["", "## Budgets", "", "| budget | limit | charged | reserved | remaining |"]
    lines.append("|---|---:|---:|---:|---:|")
    lines += [
        f"| {one.scope} a {one.period} | {one.limit:.2f} | {one.charged:.4f} |"
        f" {one.reserved:.4f} | {one.remaining:.4f} |"
        for one in budgets
    ]
    if machines:
        lines += [
            "",
            "## Machines that are rented now",
            "",
            "| machine | job | where | $ an hour |",
        ]
        lines.append("|---|---|---|---:|")
        lines += [
            f"| {plain(one.place)} | {plain(one.job_key)} | {plain(one.region)} |"
            f" {one.hourly_usd} |"
            for one in machines
        ]
    billed = [one for one in past if one.provider_usd is not None and one.gone_at]
    if billed:
        ours = sum((one.cost for one in billed), Decimal(0))
        theirs = sum((one.provider_usd or Decimal(0) for one in billed), Decimal(0))
        lines += [
            "",
            "## Beside SkyPilot's own cost report",
            "",
            f"{len(billed)} machines of the last {SHOWN_DAYS} days: {ours:.4f} dollars in the "
            f"ledger, {theirs:.4f} in `sky cost-report`. SkyPilot takes today's price instead of "
            "the one at launch, begins before the machine is there, and goes on until somebody "
            "asks; the ledger counts.",
        ]
    return "\n".join(lines) + "\n"


def draw(days: list[DailyCharge], budgets: list[Budget], path: Path) -> None:
    """Dollars of each of the last days by flow, and the daily limit, as a PNG of 1,280 × 640."""
    from matplotlib.dates import ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), dpi=160, layout="constrained")
    axes = figure.subplots()
    by_flow: dict[str, dict[date, float]] = defaultdict(dict)
    for one in days:
        by_flow[one.flow or "no flow"][one.day] = float(one.charged)
    last = max([datetime.now(UTC).date(), *(one.day for one in days)])
    shown = [last - timedelta(days=back) for back in reversed(range(SHOWN_DAYS))]
    bottom = [0.0] * len(shown)
    for flow, amounts in by_flow.items():
        heights = [amounts.get(day, 0.0) for day in shown]
        axes.bar(shown, heights, bottom=bottom, label=flow)  # pyright: ignore[reportArgumentType]
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    title = f"Spending by day and flow, {sum(bottom):.2f} dollars in {SHOWN_DAYS} days"
    limits = [one for one in budgets if one.scope == "project" and one.period == "day"]
    if limits and by_flow:
        limit = float(limits[0].limit)
        title += f"; the limit is {limit:.2f} a day"
        if limit < 5 * max(bottom):
            axes.axhline(limit, color="#a33", ls="--", lw=1)
    axes.set(ylabel="dollars charged", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    if by_flow:
        axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing was charged", transform=axes.transAxes, ha="center")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path)
