"""Reservations and budgets of one day, in short."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from infra import ledger
from infra.database import Pool

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def hold(pool: Pool, key: str, amount: str, hours: float = 1, *scopes: str) -> ledger.Reservation:
    return ledger.reserve(pool, key, list(scopes), Decimal(amount), NOW + hours * HOUR, now=NOW)


def limit(pool: Pool, dollars: str, scope: str = "project", period: str = "day") -> None:
    ledger.set_budget(pool, scope, period, Decimal(dollars), now=NOW)


def project_day(pool: Pool, now: datetime = NOW) -> tuple[Decimal, Decimal]:
    """(charged, reserved) dollars of the project's day."""
    budget = ledger.budgets(pool, now=now)[0]
    assert (budget.scope, budget.period) == ("project", "day")
    return budget.charged, budget.reserved
