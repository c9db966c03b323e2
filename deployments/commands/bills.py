"""What the command `budget reconcile` prints: a provider's bill beside the ledger."""

from collections import defaultdict
from datetime import date
from decimal import Decimal
from pathlib import Path

from deployments.commands import tables
from deployments.commands.shared import tell
from infra import database
from infra.compute import bills
from infra.errors import BudgetError


def show_bill(path: Path, tolerance: float, as_json: bool) -> None:
    """Each day and machine of the bill beside what was charged.

    Raises BudgetError where a day's bill exceeds what was charged by more than `tolerance` percent.
    """
    shape, lines = bills.reconcile(database.pool(), path)
    if as_json:
        rows = [
            line.model_dump(mode="json") | {"difference": str(line.difference)} for line in lines
        ]
        tell(rows)
    else:
        title = f"{path.name}, by its header: {shape}; dollars, days in UTC"
        table = tables.make_table(title, "day", "machine", ">charged", ">billed", ">difference")
        for line in lines:
            table.add_row(
                str(line.day),
                line.place or "not named",
                f"{line.charged:.4f}",
                f"{line.billed:.4f}",
                f"{line.difference:+.4f}",
            )
        tables.console.print(table)
    days: dict[date, list[bills.Line]] = defaultdict(list)
    for line in lines:
        days[line.day].append(line)
    for day, parts in days.items():
        charged = sum((one.charged for one in parts), Decimal(0))
        billed = sum((one.billed for one in parts), Decimal(0))
        if billed > charged * (1 + Decimal(str(tolerance)) / 100):
            raise BudgetError(
                f"{day}: {billed:.4f} dollars are billed, {charged:.4f} were charged",
                "docs/money.md says which costs are not counted; --tolerance says how much may be.",
            )
