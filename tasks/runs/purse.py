"""A run's money: every job of one run pays from one purse, which falls under all its budgets."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from infra import ledger
from infra.database import Pool
from infra.errors import InputError
from infra.records.runs import Run

Target = Literal["local", "sky", "auto"]


@dataclass(frozen=True)
class Purse:
    """Who pays: the run, its flow and the project, all at once."""

    pool: Pool
    run: Run
    target: Target
    flow_run: str | None = None

    @property
    def scopes(self) -> list[str]:
        return ["project", f"flow:{self.run.flow}", f"run:{self.run.id}"]


def fill(purse: Purse, max_cost: Decimal) -> Purse:
    """Let the whole run cost `max_cost` dollars, however often it is resumed."""
    if max_cost <= 0:
        raise InputError(
            f"--max-cost: {max_cost} dollars leave nothing to spend",
            "Give --max-cost more than 0 dollars.",
        )
    ledger.set_budget(purse.pool, f"run:{purse.run.id}", "total", max_cost)
    return purse
