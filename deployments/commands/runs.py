"""`nightshift runs`: which runs there were, what each cost, and what it said at its end."""

from decimal import Decimal
from pathlib import Path
from typing import Any

from deployments.commands.shared import say, tell
from deployments.commands.tables import make_table, show_table
from deployments.commands.terminal import Terminal, show_report, styled
from infra import database
from infra.compute import jobs
from infra.database import Pool
from infra.records import runs
from infra.records.runs import RunRecord
from infra.settings import settings
from tasks.runs.charge import reservations

console = Terminal()
COLOURS = {"begun": "yellow", "interrupted": "yellow", "failed": "red", "finished": "green"}


def show_runs(limit: int, as_json: bool) -> None:
    """Runs, newest first, with what their jobs cost."""
    pool = database.pool()
    rows = [_row(pool, run) for run in runs.newest(pool, limit)]
    if as_json:
        tell(rows)
        return
    table = make_table("Runs, newest first", "run", "state", "name", "begun", ">dollars")
    for row in rows:
        table.add_row(
            row["run"],
            styled(row["state"], COLOURS[row["state"]]),
            row["name"] or "",
            row["begun"].replace("T", " ")[5:16],
            row["usd"],
        )
    show_table(table if rows else "No runs yet: `nightshift run nightly-ppo` starts one.")


def show_run(ending: str, as_json: bool) -> None:
    """The report of one run, and its jobs."""
    pool = database.pool()
    run = runs.find_one(pool, ending)
    if as_json:
        steps = [{"key": job.key, "state": job.state} for job in jobs.of_run(pool, run.id)]
        tell(_row(pool, run) | {"jobs": steps, "report": run.report})
        return
    text = Path((run.report or {}).get("files", {}).get("markdown", ""))
    if text.is_file():
        show_report(console, text.read_text("utf-8"))
        return
    row = _row(pool, run)
    has = "was" if run.state == "interrupted" else "has"
    say(f"{run.id} {has} {run.state}, for {row['usd']} dollars.")
    if run.error:
        say(run.error)
    if run.report:
        say(f"Its report was written elsewhere: {text}. --json prints what the database has of it.")
    elif run.state == "interrupted":
        from tasks.runs.run import CONFIG  # imports Prefect

        config = settings().home / "runs" / run.id / CONFIG
        say(f"The same command goes on, e.g. `nightshift run {run.flow} --config {config}`.")
    else:
        say("It has no report. `nightshift jobs list` shows its jobs.")


def _row(pool: Pool, run: RunRecord) -> dict[str, Any]:
    spent = (one.spent for job in jobs.of_run(pool, run.id) for one in reservations(pool, job.key))
    return {
        "run": run.id,
        "flow": run.flow,
        "name": run.name,
        "state": run.state,
        "error": run.error,
        "begun": run.begun_at.isoformat(timespec="seconds"),
        "ended": run.ended_at and run.ended_at.isoformat(timespec="seconds"),
        "usd": f"{sum(spent, Decimal(0)):.4f}",
    }
