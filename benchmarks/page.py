"""docs/figures.md: what the last whole run of each suite here has measured, and all targets.

nightshift run benchmarks --suite all
make figures                             (python -m benchmarks.page > docs/figures.md)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from infra import database
from infra.inert import code
from infra.records import benchmarks as records
from infra.settings import settings
from tasks.benchmarks import report
from tasks.benchmarks.parameters import MEASURED, BenchmarkParameters
from tasks.benchmarks.results import Row, Target, is_reached
from tasks.benchmarks.steps import targets

INTRODUCTION = """\
# Figures as they were measured

`make figures` writes this page from the last whole run of each suite of `nightshift run benchmarks`
on the machine that it names. [benchmarks.md](benchmarks.md) says how it is measured and what the
signs mean. Times beside much other work say little: look at the load, and at the ratios.
"""


def main() -> None:
    last = records.last_runs(database.pool(), list(MEASURED))
    homes = settings().home / "runs"
    runs = {suite: (homes / run, revision) for suite, (run, revision) in last.items()}
    there = {suite: one for suite, one in runs.items() if (one[0] / "report.json").is_file()}
    if not there:
        raise SystemExit("nothing was measured here yet: nightshift run benchmarks --suite all")
    print(page(there, targets()), end="")


def page(runs: Mapping[str, tuple[Path, str]], wanted: Mapping[str, Target]) -> str:
    """The whole page, of each suite the folder of a run and the revision that it has measured."""
    lines, told = [INTRODUCTION], []
    for suite in MEASURED:
        if suite not in runs:
            lines += [f"## {suite}", "", "No whole run of it is on this machine.", ""]
            continue
        folder, revision = runs[suite]
        found = json.loads((folder / "report.json").read_text("utf-8"))
        rows = [Row.model_validate(one) for one in found if one["suite"] == suite]
        rows = [_held_to(wanted.get(one.figure), one) for one in rows]
        machine = report.machines(folder, [suite])
        lines += [f"## {suite}, of {code(revision[:21])}", ""]
        lines += [*report.tables(BenchmarkParameters(), rows, machine), ""]
        told += rows
    return "\n".join([*lines, *_targets(told, wanted)])


def _held_to(target: Target | None, row: Row) -> Row:
    """The row with the target of today."""
    reached = is_reached(target, row.better, row.value, row.of_beside)
    return row.model_copy(update={"target": target, "reached": reached})


def _targets(rows: Sequence[Row], wanted: Mapping[str, Target]) -> list[str]:
    lines = [
        "## Targets",
        "",
        "✓, ✗ and ? are of the runs above; a target that no suite measures names its command.",
        "",
        "| capability | figure | target | measured by | source |",
        "|---|---|---|---|---|",
    ]
    told = {one.figure: report.target(one) for one in rows}
    for name, one in wanted.items():
        if one.by:
            by = f"`{one.by}`"
            target = f"{'≥' if one.better == 'more' else '≤'} {one.value:g} {one.unit}"
        else:
            by, target = "a suite", told.get(name, "not measured")
        lines.append(f"| {one.capability} | {name} | {target} | {by} | {one.source} |")
    return [*lines, ""]


if __name__ == "__main__":
    main()
