"""What the ledger answers with. Amounts are dollars with four places."""

from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict

Period = Literal["day", "month", "total"]
State = Literal["open", "overdrawn", "settled", "released"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Reservation(Record):
    """Money kept free for one job. `amount` and `spent` in dollars, extensions included.

    'open' and 'overdrawn' (spent > amount) are live; 'settled' and 'released' are closed.
    """

    id: int
    key: str
    scopes: tuple[str, ...]
    amount: Decimal
    spent: Decimal
    created_at: datetime
    expires_at: datetime
    closed_at: datetime | None
    state: State

    @property
    def closed(self) -> bool:
        return self.closed_at is not None


class Holder(Record):
    """Who has how many dollars of a budget reserved."""

    key: str
    amount: Decimal


class Budget(Record):
    """A budget and its present window; `remaining` is below zero after an overrun."""

    scope: str
    period: Period
    timezone: str
    limit: Decimal
    charged: Decimal
    reserved: Decimal
    remaining: Decimal
    resets_at: datetime | None
    holders: tuple[Holder, ...]


class DailyCharge(Record):
    """Dollars charged on one day of the project's budget to one flow (None: to no flow)."""

    day: date
    flow: str | None
    charged: Decimal
