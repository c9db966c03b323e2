"""A provider's bill as a CSV file, beside what the ledger has charged for rented machines."""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from infra.compute import attempts
from infra.database import Pool
from infra.errors import InputError

SHAPES = (
    ("AWS Cost and Usage Report", "aws", "lineItem/UsageStartDate", "lineItem/UnblendedCost"),
    ("AWS CUR 2.0", "aws", "line_item_usage_start_date", "line_item_unblended_cost"),
    ("AWS Cost Explorer", "aws", "Service", "Total costs($)"),
    ("GCP billing export", "gcp", "usage_start_time", "cost"),
    ("FOCUS", "", "ChargePeriodStart", "BilledCost"),
    ("RunPod pod billing", "runpod", "time", "amount"),
    ("plain", "", "date", "cost"),
)
"""Name, SkyPilot's cloud ('': any), and the columns of the day and of the dollars."""
CURRENCIES = {"currency", "BillingCurrency", "lineItem/CurrencyCode", "line_item_currency_code"}
TOTALS = ("", "Service total")
"""What Cost Explorer writes instead of a day."""


class Line(BaseModel):
    """What one day of one machine costs by the ledger and by the bill; `place` is '' for what the
    bill does not name."""

    model_config = ConfigDict(frozen=True)

    day: date
    place: str
    charged: Decimal
    billed: Decimal

    @property
    def difference(self) -> Decimal:
        return self.billed - self.charged


def reconcile(pool: Pool, path: Path) -> tuple[str, list[Line]]:
    """Which shape the bill has, and every day and machine of its days, by day (UTC).

    Raises InputError for what is no bill in dollars.
    """
    prefix = f"ns-{attempts.installation(pool)}-"
    shape, cloud, rows = _read(path)
    billed: dict[tuple[date, str], Decimal] = defaultdict(Decimal)
    for day, dollars, text in rows:
        named = re.search(re.escape(prefix) + r"\d+-\d+(?!\d)", text)
        billed[day, named.group() if named else ""] += dollars
    if not billed:
        raise InputError(f"{path} has no day", "Export the days that are to be compared.")
    days = [day for day, _ in billed]
    charged = _charged(pool, cloud, min(days), max(days))
    lines = [
        Line(
            day=day,
            place=place,
            charged=charged.get((day, place), Decimal(0)),
            billed=billed.get((day, place), Decimal(0)),
        )
        for day, place in sorted({*billed, *charged})
    ]
    return shape, lines


def _read(path: Path) -> tuple[str, str, Iterator[tuple[date, Decimal, str]]]:
    """The shape and cloud of a bill, and of each row the day, the dollars and its whole text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}", "Give a CSV file.") from None
    header = set(table[0]) if table else set()
    for shape, cloud, day, dollars in SHAPES:
        if {day, dollars} <= header:
            return shape, cloud, _rows(path, table, day, dollars)
    known = "; ".join(f"{shape} ({day}, {dollars})" for shape, _, day, dollars in SHAPES)
    raise InputError(
        f"{path} has no header of a bill that is known",
        f"Give one of these, or name the columns so: {known}.",
    )


def _rows(
    path: Path, table: list[dict[str, str]], day: str, dollars: str
) -> Iterator[tuple[date, Decimal, str]]:
    for number, row in enumerate(table, start=2):
        if row[day] in TOTALS:
            continue
        foreign = {row[one] for one in CURRENCIES & set(row)} - {"USD", ""}
        if foreign:
            raise InputError(
                f"{path}, line {number}: the bill is in {', '.join(sorted(foreign))}",
                "Export it in USD: the ledger knows dollars.",
            )
        try:
            amount = Decimal(row[dollars] or "0")
            if not amount.is_finite():
                raise InvalidOperation
            yield date.fromisoformat(row[day][:10]), amount, " ".join(map(str, row.values()))
        except (ValueError, InvalidOperation):
            raise InputError(
                f"{path}, line {number}: {row[day]!r} and {row[dollars]!r} are no day and dollars",
                "Days are like 2026-11-28, dollars like 1.25.",
            ) from None


def _charged(pool: Pool, cloud: str, first: date, last: date) -> dict[tuple[date, str], Decimal]:
    """Dollars that the ledger has charged for each machine on each day (UTC)."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT (c.starts_at AT TIME ZONE 'UTC')::date AS day, a.place, sum(c.amount) AS usd"
            " FROM charges c JOIN reservations r ON r.id = c.reservation_id"
            " JOIN attempts a ON a.reservation_id = r.id"
            " AND starts_with(c.key, format('%%s/%%s/', r.key, a.number))"
            " WHERE (%(cloud)s = '' OR split_part(a.region, '/', 1) = %(cloud)s)"
            " AND (c.starts_at AT TIME ZONE 'UTC')::date BETWEEN %(first)s AND %(last)s"
            " GROUP BY day, a.place",
            {"cloud": cloud, "first": first, "last": last},
        ).fetchall()
    return {(row["day"], row["place"]): row["usd"] for row in rows}
