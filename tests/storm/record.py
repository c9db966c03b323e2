"""What a storm did, and its line in docs/storms.md."""

import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from infra.compute import attempts, jobs
from infra.database import Pool
from infra.settings import REPOSITORY
from tasks.runs.charge import reservations

RECORD = REPOSITORY / "docs/storms.md"


@dataclass
class StormLog:
    """What one storm did; a test adds what it rented, and what that cost.

    `kills` are those that were asked for, until the test says how many there were; `at_work` how
    many of each kind met a job at work. `tell` shows a line at once.
    """

    tell: Callable[[str], None] = print
    at_work: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    machines: int = 0
    dollars: Decimal = Decimal(0)

    def count(self, pool: Pool, run: str) -> None:
        """Add the machines that a run rented, and what they cost."""
        for job in jobs.of_run(pool, run):
            self.machines += len(attempts.of_job(pool, job.key))
            self.dollars += sum((one.spent for one in reservations(pool, job.key)), Decimal(0))


def write_down(storm: str, log: StormLog, result: str, record: Path) -> None:
    """One line of the table; a storm that was skipped is none."""
    if result.startswith("skipped"):
        return
    met = ", ".join(f"{kind} {count}" for kind, count in log.at_work.items())
    cells = [
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        commit(),
        storm.removeprefix("tests/storm/"),
        str(log.kills or ""),
        str(log.machines or ""),
        f"{log.dollars:.2f}" if log.dollars else "",
        f"{result}; struck at work: {met}" if met else result,
    ]
    with record.open("a") as table:
        table.write("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |\n")


def commit() -> str:
    """Of the working tree, with a + where it has changes (the record of storms aside)."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", f":!{RECORD.relative_to(REPOSITORY)}")
    return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
