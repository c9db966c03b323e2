"""One statement to the database, and what its refusals mean."""

import json
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import psycopg

from infra.database import Pool
from infra.errors import BudgetExceeded, InputError, ReservationConflict

SHOWN_HOLDERS = 5


class NoBudget(Exception):
    """The database is new: the project's first budget is still to be made."""


def call(pool: Pool, statement: str, arguments: list[Any]) -> list[dict[str, Any]]:
    """One statement; the SQLSTATEs of 0003_ledger_functions.sql become errors of the tree."""
    try:
        with pool.connection() as connection:
            return connection.execute(statement.encode(), arguments).fetchall()
    except psycopg.Error as error:
        message = error.diag.message_primary or ""
        match error.sqlstate:
            case "NS001":
                raise _denial(parse(error.diag.message_detail or "{}")) from None
            case "NS002":
                raise BudgetExceeded(
                    message, "Stop its job, which settles it, or extend it within its budgets."
                ) from None
            case "NS003":
                raise ReservationConflict(
                    message, "Use another key, or repeat the call exactly as it was."
                ) from None
            case "NS004":
                raise InputError(message) from None
            case "NS005":
                raise NoBudget from None
        raise


def parse(text: str) -> Any:
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _denial(window: dict[str, Any]) -> BudgetExceeded:
    """The whole account of a refusal: which budget, what is used by whom, when it resets."""
    scope, period = window["scope"], window["period"]
    which = {"day": "daily", "month": "monthly", "total": "total"}[period]
    holders = [f"{holder['key']} {holder['amount']:f}" for holder in window["holders"]]
    if len(holders) > SHOWN_HOLDERS:
        holders[SHOWN_HOLDERS:] = [f"{len(holders) - SHOWN_HOLDERS} more"]
    by = f" (by {', '.join(holders)})" if holders else ""
    asked = f"{window['part']:f}"
    if window["part"] != window["asked"]:
        asked += f" of the {window['asked']:f}"
    message = (
        f"the {which} budget of {scope} has no room for {asked} dollars: limit "
        f"{window['limit']:f}, charged {window['charged']:f}, reserved {window['reserved']:f}{by}"
    )
    if period == "total":
        return BudgetExceeded(message, "Give the run a higher --max-cost.")
    zone = ZoneInfo(window["timezone"])
    start, end = (
        datetime.fromisoformat(window[name]).astimezone(zone) for name in ("starts_at", "ends_at")
    )
    return BudgetExceeded(
        f"{message}. Its {period} began {start:%Y-%m-%d %H:%M} and resets {end:%Y-%m-%d %H:%M} "
        f"{window['timezone']}",
        f"Wait until then, ask for less, or raise it: nightshift budget set LIMIT --scope {scope} "
        f"--window {period}.",
    )
