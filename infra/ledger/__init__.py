"""Budgets, reservations and charges: nothing is spent that was not reserved first.

A budget has a scope ('project', 'flow:NAME' or 'run:ID'), a period ('day', 'month' or 'total'), a
limit in dollars and an IANA time zone in which its days and months begin. A reservation falls
under the project and every scope that it names, and counts in each of their windows that the time
from now until it expires touches, pro rata by time.

- The database holds the invariant: at any `reserve` and `extend`, charged + reserved stay within
  the limit of every touched window, or BudgetExceeded is raised and nothing is left behind.
- `charge` records what really happened and is never refused. Beyond the reservation's amount it is
  'overdrawn', and until it is extended or settled nothing new can be reserved at all; what it
  overspent goes on to count as charged.
- Everything may be repeated: the same key with the same amount gives the same answer and changes
  nothing, with another amount it is a ReservationConflict.

Amounts are dollars, `Decimal` with at most four places. The work is done by the functions of
`database/migrations/0003_ledger_functions.sql`, one round trip and one transaction each.
"""

from datetime import datetime
from decimal import Decimal
from typing import Any

from infra.database import Pool
from infra.errors import InputError
from infra.ledger import checks
from infra.ledger.records import Budget, DailyCharge, Holder, Period, Reservation, State
from infra.ledger.statements import NoBudget, call, parse
from infra.settings import settings

__all__ = [
    "Budget",
    "DailyCharge",
    "Holder",
    "Period",
    "Reservation",
    "State",
    "audit",
    "budgets",
    "charge",
    "charged",
    "extend",
    "find",
    "get",
    "history",
    "open_reservations",
    "release",
    "reserve",
    "set_budget",
    "settle",
]


def set_budget(
    pool: Pool,
    scope: str,
    period: str,
    limit: Decimal,
    timezone: str | None = None,
    *,
    now: datetime | None = None,
) -> None:
    """Set the limit of a budget, new or not, for its present and all later windows.

    A limit below what is used only stops new reservations; 0 stops all. Money that was reserved
    or charged before counts in a new budget too, and in the new windows of another `timezone`
    (None: as it is, or NIGHTSHIFT_BUDGET_TIMEZONE).
    """
    checks.scope(scope)
    if period not in ("day", "month", "total"):
        raise InputError(f"--window: {period!r} is no window", "Use day, month or total.")
    checks.dollars("the limit of a budget", limit, least=Decimal(0))
    if timezone is not None:
        checks.timezone(timezone)
    _make_first_budget(pool)
    call(
        pool,
        "SELECT ledger_set_budget(%s, %s, %s, %s, %s, coalesce(%s, now()))",
        [scope, period, limit, timezone, settings().budget_timezone, now],
    )


def reserve(
    pool: Pool,
    key: str,
    scopes: list[str],
    amount: Decimal,
    expires_at: datetime,
    *,
    now: datetime | None = None,
) -> Reservation:
    """Keep `amount` dollars free from now until `expires_at`, in the project and all `scopes`.

    Raises BudgetExceeded, and ReservationConflict when `key` is closed or was used otherwise.
    """
    for scope in scopes:
        checks.scope(scope)
    checks.key(key)
    checks.dollars(f"the reservation {key}", amount)
    checks.future(expires_at, now)
    arguments = [key, sorted({"project", *scopes}), amount, expires_at, now]
    statement = "SELECT * FROM ledger_reserve(%s, %s, %s, %s, coalesce(%s, now()))"
    try:
        return _reservation(pool, statement, arguments)
    except NoBudget:
        _make_first_budget(pool)
        return _reservation(pool, statement, arguments)


def extend(
    pool: Pool,
    reservation_id: int,
    key: str,
    amount: Decimal,
    expires_at: datetime,
    *,
    now: datetime | None = None,
) -> Reservation:
    """Add `amount` dollars for the time from the present expiry until `expires_at`.

    An `expires_at` no later than the present one adds dollars from now on. `key` names this
    extension. Raises BudgetExceeded, and ReservationConflict when the reservation is closed.
    """
    checks.key(key)
    checks.dollars(f"the extension {key}", amount)
    checks.future(expires_at, now)
    return _reservation(
        pool,
        "SELECT * FROM ledger_extend(%s, %s, %s, %s, coalesce(%s, now()))",
        [reservation_id, key, amount, expires_at, now],
    )


def charge(
    pool: Pool, reservation_id: int, key: str, amount: Decimal, start: datetime, end: datetime
) -> Reservation:
    """Record `amount` dollars spent from `start` to `end`, in the windows they fall in.

    Never refused for lack of room: see 'overdrawn' above. A late bill may come after the end; a
    released reservation then becomes settled.
    """
    checks.key(key)
    checks.dollars(f"the charge {key}", amount)
    if start.tzinfo is None or end.tzinfo is None or end < start:
        raise InputError(
            f"the charge {key} runs from {start} to {end}", "Give aware times, in their order."
        )
    return _reservation(
        pool,
        "SELECT * FROM ledger_charge(%s, %s, %s, %s, %s)",
        [reservation_id, key, amount, start, end],
    )


def settle(pool: Pool, reservation_id: int, *, now: datetime | None = None) -> Reservation:
    """Close a reservation whose work has ended: what was not charged is free again.

    A closed reservation stays as it is.
    """
    return _close(pool, reservation_id, "settled", now)


def release(pool: Pool, reservation_id: int, *, now: datetime | None = None) -> Reservation:
    """Close a reservation under which nothing ran.

    Raises ReservationConflict when it has charges; a closed reservation stays as it is.
    """
    return _close(pool, reservation_id, "released", now)


def find(pool: Pool, key: str) -> Reservation | None:
    """The reservation with this key."""
    rows = call(pool, "SELECT * FROM reservations WHERE key = %s", [key])
    return Reservation.model_validate(rows[0]) if rows else None


def get(pool: Pool, reservation_id: int) -> Reservation:
    """The reservation with this id. Raises InputError when there is none."""
    rows = call(pool, "SELECT * FROM reservations WHERE id = %s", [reservation_id])
    if not rows:
        raise InputError(f"there is no reservation {reservation_id}")
    return Reservation.model_validate(rows[0])


def open_reservations(pool: Pool) -> list[Reservation]:
    """The live reservations, 'open' and 'overdrawn', oldest first."""
    rows = call(pool, "SELECT * FROM reservations WHERE closed_at IS NULL ORDER BY id", [])
    return [Reservation.model_validate(row) for row in rows]


def charged(pool: Pool, scope: str) -> Decimal:
    """Dollars charged under `scope` since ever."""
    rows = call(
        pool,
        "SELECT coalesce(sum(spent), 0)::numeric(20, 4) AS charged"
        " FROM reservations WHERE %s = ANY (scopes)",
        [scope],
    )
    return rows[0]["charged"]


def budgets(pool: Pool, *, now: datetime | None = None) -> list[Budget]:
    """Every budget with its present window; a run's own only while it has money reserved."""
    _make_first_budget(pool)
    rows = call(
        pool,
        """
        SELECT b.scope, b.period, b.timezone, b.limit_usd AS limit,
            coalesce(w.charged, 0)::numeric(12, 4) AS charged,
            coalesce(w.reserved, 0)::numeric(12, 4) AS reserved,
            b.limit_usd - coalesce(w.charged + w.reserved, 0) AS remaining,
            nullif(s.ends_at, 'infinity') AS resets_at,
            ledger_holders(b.id, s.starts_at)::text AS holders
        FROM (SELECT coalesce(%s, now()) AS now) AS clock CROSS JOIN budgets b
        CROSS JOIN LATERAL ledger_split(b.period, b.timezone, clock.now, clock.now, 0) s
        LEFT JOIN budget_windows w ON w.budget_id = b.id AND w.starts_at = s.starts_at
        WHERE b.scope NOT LIKE 'run:%%' OR w.reserved > 0
        ORDER BY b.scope <> 'project', b.scope, b.period
        """,
        [now],
    )
    return [Budget.model_validate(row | {"holders": parse(row["holders"])}) for row in rows]


def history(pool: Pool, days: int = 30, *, now: datetime | None = None) -> list[DailyCharge]:
    """What each of the last `days` days of the project's budget was charged, by flow."""
    rows = call(
        pool,
        """
        SELECT (w.starts_at AT TIME ZONE b.timezone + interval '12 hours')::date AS day,
            substr(flow, 6) AS flow, sum(a.charged) AS charged
        FROM budgets b JOIN budget_windows w ON w.budget_id = b.id
        JOIN allocations a USING (budget_id, starts_at)
        JOIN reservations r ON r.id = a.reservation_id
        LEFT JOIN LATERAL unnest(r.scopes) flow ON flow LIKE 'flow:%%'
        WHERE b.scope = 'project' AND b.period = 'day' AND a.charged > 0
            AND w.starts_at > coalesce(%s, now()) - make_interval(days => %s)
        GROUP BY day, flow ORDER BY day, flow
        """,
        [now, days],
    )
    return [DailyCharge.model_validate(row) for row in rows]


def audit(pool: Pool) -> list[str]:
    """Every place where counters, their parts, charges and reservations disagree."""
    return [row["discrepancy"] for row in call(pool, "SELECT * FROM ledger_audit()", [])]


def _make_first_budget(pool: Pool) -> None:
    given = settings()
    call(
        pool,
        "SELECT ledger_first_budget(%s, %s)",
        [given.budget_usd_per_day, given.budget_timezone],
    )


def _close(pool: Pool, reservation_id: int, state: State, now: datetime | None) -> Reservation:
    return _reservation(
        pool,
        "SELECT * FROM ledger_close(%s, %s, coalesce(%s, now()))",
        [reservation_id, state, now],
    )


def _reservation(pool: Pool, statement: str, arguments: list[Any]) -> Reservation:
    return Reservation.model_validate(call(pool, statement, arguments)[0])
