"""The cost guard: compare the ledger with what every provider really runs, and put it right.

    nightshift run cost-guard --dry-run

Ends what runs under Nightshift's own label without a reservation or past it, frees reservations
under which nothing runs, and announces budgets that have reached 50, 80 and 100 %. It never touches
a machine without the label. It launches no job.
"""

from typing import Any

from tasks.guard import steps as guard
from tasks.guard.steps import CostGuardParameters, GuardReport
from tasks.runs.capability import Capability

capability = Capability[Any]("cost-guard", steps=())


@capability.flow
def cost_guard(parameters: CostGuardParameters) -> GuardReport:
    """End what nobody pays for, free what nobody uses, warn before a budget is spent."""
    done = guard.sweep(parameters.dry_run)
    warnings = guard.warn(parameters.dry_run)
    return guard.report_sweep(parameters.dry_run, done, warnings)
