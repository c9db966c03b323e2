"""The ledger beside a model of it in plain Python: any history gives the same money.

The model keeps whole ten-thousandths of a dollar in dicts, finds the days by `zoneinfo`, and knows
nothing of the SQL. After every step each window and each reservation must be the same in both.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from infra import ledger
from infra.database import Pool
from infra.errors import BudgetExceeded, ReservationConflict

SCOPES = ["flow:a", "flow:b", "run:1", "run:2"]
PERIODS = ["day", "month", "total"]
ZONES = ["UTC", "Europe/Berlin", "America/Havana", "Asia/Kathmandu", "Australia/Lord_Howe"]
"""Havana's clocks change at midnight, Lord Howe's by half an hour."""
TRANSITIONS = [
    ("UTC", datetime(2026, 12, 31, 23, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 3, 8, 5, tzinfo=UTC)),
    ("America/Havana", datetime(2026, 11, 1, 5, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
]
FOREVER = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))

Window = tuple[datetime, datetime]
BudgetKey = tuple[str, str]

scope_sets = st.lists(st.sampled_from(SCOPES), unique=True, max_size=3)
amounts = st.integers(1, 60_000) | st.integers(1, 3)
spans = st.integers(1, 60 * 60).map(lambda minutes: timedelta(minutes=minutes))
choices = st.integers(0, 10**6)


def dollars(units: int) -> Decimal:
    return Decimal(units).scaleb(-4)


def boundary(year: int, month: int, day: int, zone: ZoneInfo) -> datetime:
    """When that day begins: a midnight that comes twice counts the second time."""
    return max(
        datetime(year, month, day, fold=fold, tzinfo=zone).astimezone(UTC) for fold in (0, 1)
    )


def window_at(period: str, zone: ZoneInfo, at: datetime) -> Window:
    if period == "total":
        return FOREVER
    today = at.astimezone(zone).date()
    near = [today + timedelta(days=days) for days in range(-33, 34)]
    starts = sorted(
        boundary(day.year, day.month, day.day, zone)
        for day in near
        if period == "day" or day.day == 1
    )
    latest = max(index for index, start in enumerate(starts) if start <= at)
    return starts[latest], starts[latest + 1]


def split(
    period: str, zone: ZoneInfo, start: datetime, end: datetime, units: int
) -> dict[Window, int]:
    """Shares of `units` by time, rounded down as they add up; the last window takes the rest."""
    shares: dict[Window, int] = {}
    given = 0
    window = window_at(period, zone, start)
    while window[1] < end:
        due = units * ((window[1] - start) // timedelta(microseconds=1))
        due //= (end - start) // timedelta(microseconds=1)
        shares[window], given = due - given, due
        window = window_at(period, zone, window[1])
    shares[window] = units - given
    return shares


@dataclass
class Held:
    """The model's reservation; `parts` are [reserved, charged] by budget and window."""

    id: int
    key: str
    scopes: list[str]
    asked: int
    amount: int
    expires: datetime
    spent: int = 0
    state: str = "open"
    charges: list[tuple[str, int, datetime, datetime]] = field(default_factory=list)
    extensions: list[tuple[str, int]] = field(default_factory=list)
    parts: dict[BudgetKey, dict[Window, list[int]]] = field(default_factory=dict)

    @property
    def live(self) -> bool:
        return self.state in ("open", "overdrawn")

    @property
    def remaining(self) -> int:
        return max(0, self.amount - self.spent) if self.live else 0

    def part(self, budget: BudgetKey, window: Window) -> list[int]:
        return self.parts.setdefault(budget, {}).setdefault(window, [0, 0])


class LedgerMachine(RuleBasedStateMachine):
    pool: Pool

    @initialize(
        transition=st.sampled_from(TRANSITIONS),
        minutes=st.integers(0, 90) | st.integers(0, 30 * 60),
        limit=st.integers(20_000, 300_000),
    )
    def begin(self, transition: tuple[str, datetime], minutes: int, limit: int) -> None:
        with self.pool.connection() as connection, connection.transaction():
            connection.execute("SET LOCAL session_replication_role = replica")  # it is by hand
            connection.execute(
                "TRUNCATE budgets, budget_windows, reservations, allocations, charges, extensions,"
                " attempts"
            )
        zone, clocks_change = transition
        self.now = clocks_change - timedelta(minutes=minutes)
        self.number = 0
        self.held: list[Held] = []
        self.budgets: dict[BudgetKey, tuple[int, str]] = {}
        self.set_budget("project", "day", limit, zone)

    def fresh_key(self) -> str:
        self.number += 1
        return f"key-{self.number}"

    def budgets_of(self, held: Held) -> list[tuple[BudgetKey, ZoneInfo]]:
        return [
            (budget, ZoneInfo(zone))
            for budget, (_, zone) in self.budgets.items()
            if budget[0] in held.scopes
        ]

    def used(self, budget: BudgetKey, window: Window) -> int:
        return sum(sum(held.part(budget, window)) for held in self.held)

    def shares(
        self, held: Held, start: datetime, end: datetime, units: int
    ) -> list[tuple[BudgetKey, Window, int]]:
        return [
            (budget, window, part)
            for budget, zone in self.budgets_of(held)
            for window, part in split(budget[1], zone, start, end, units).items()
        ]

    def has_room(self, shares: list[tuple[BudgetKey, Window, int]]) -> bool:
        return all(
            self.used(budget, window) + part <= self.budgets[budget][0]
            for budget, window, part in shares
        )

    @rule(minutes=st.integers(1, 60) | st.integers(1, 40 * 60))
    def time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(
        scope=st.sampled_from(["project", *SCOPES]),
        period=st.sampled_from(PERIODS),
        limit=st.integers(0, 300_000),
        zone=st.sampled_from(ZONES) | st.none(),
    )
    def set_budget(self, scope: str, period: str, limit: int, zone: str | None) -> None:
        ledger.set_budget(self.pool, scope, period, dollars(limit), zone, now=self.now)
        old = self.budgets.get((scope, period))
        new_zone = zone or (old[1] if old else "UTC")
        self.budgets[scope, period] = (limit, new_zone)
        if old and old[1] == new_zone:
            return
        for held in self.held:
            held.parts.pop((scope, period), None)
            if scope not in held.scopes:
                continue
            zone_info = ZoneInfo(new_zone)
            for _, units, start, end in held.charges:
                for window, part in split(period, zone_info, start, end, units).items():
                    held.part((scope, period), window)[1] += part
            if held.remaining:
                ends = min(self.now, held.expires), max(self.now, held.expires)
                for window, part in split(period, zone_info, *ends, held.remaining).items():
                    held.part((scope, period), window)[0] += part

    @rule(scopes=scope_sets, asked=amounts, span=spans)
    def reserve(self, scopes: list[str], asked: int, span: timedelta) -> None:
        held = Held(
            0, self.fresh_key(), sorted(["project", *scopes]), asked, asked, self.now + span
        )
        shares = self.shares(held, self.now, held.expires, asked)
        blocked = any(other.state == "overdrawn" for other in self.held)
        if blocked or not self.has_room(shares):
            with pytest.raises(BudgetExceeded):
                self.send_reserve(held)
            return
        held.id = self.send_reserve(held).id
        for budget, window, part in shares:
            held.part(budget, window)[0] += part
        self.held.append(held)

    def send_reserve(self, held: Held, more: int = 0) -> ledger.Reservation:
        return ledger.reserve(
            self.pool,
            held.key,
            held.scopes,
            dollars(held.asked + more),
            max(held.expires, self.now + timedelta(minutes=1)),
            now=self.now,
        )

    def pick(self, choice: int, live: bool | None = None) -> Held:
        found = [held for held in self.held if live is None or held.live == live]
        return found[choice % len(found)]

    @precondition(lambda self: self.held)
    @rule(choice=choices, more=st.integers(0, 1))
    def reserve_again(self, choice: int, more: int) -> None:
        held = self.pick(choice)
        if more or not held.live:
            with pytest.raises(ReservationConflict):
                self.send_reserve(held, more)
        else:
            self.compare(held, self.send_reserve(held))

    @precondition(lambda self: any(held.live for held in self.held))
    @rule(choice=choices, added=amounts, span=spans)
    def extend(self, choice: int, added: int, span: timedelta) -> None:
        held = self.pick(choice, live=True)
        start, end = max(held.expires, self.now), max(held.expires, self.now + span)
        if end <= start:
            start = self.now
        kept = max(0, min(added, held.amount + added - held.spent))
        shares = self.shares(held, start, end, kept)
        key = self.fresh_key()

        def send() -> ledger.Reservation:
            return ledger.extend(
                self.pool, held.id, key, dollars(added), self.now + span, now=self.now
            )

        if not self.has_room(shares):
            with pytest.raises(BudgetExceeded):
                send()
            return
        held.amount, held.expires = held.amount + added, end
        held.state = "overdrawn" if held.spent > held.amount else "open"
        for budget, window, part in shares:
            held.part(budget, window)[0] += part
        held.extensions.append((key, added))
        self.compare(held, send())
        self.compare(held, send())

    @precondition(lambda self: self.held)
    @rule(choice=choices, units=amounts, back=st.integers(0, 30 * 60), span=spans)
    def charge(self, choice: int, units: int, back: int, span: timedelta) -> None:
        held = self.pick(choice)
        start = self.now - timedelta(minutes=back)
        bill = (self.fresh_key(), units, start, start + span)
        held.charges.append(bill)
        held.spent += units
        if not held.live:
            held.state = "settled"
        elif held.spent > held.amount:
            held.state = "overdrawn"
        for budget, window, part in self.shares(held, start, start + span, units):
            own = held.part(budget, window)
            own[0], own[1] = max(0, own[0] - part), own[1] + part
        for budget, _ in self.budgets_of(held):
            windows = held.parts[budget]
            excess = sum(reserved for reserved, _ in windows.values()) - held.remaining
            for window in sorted(windows):
                freed = min(excess, windows[window][0])
                windows[window][0] -= freed
                excess -= freed
        for _ in range(2):
            self.compare(held, self.send_charge(held, bill))

    def send_charge(
        self, held: Held, bill: tuple[str, int, datetime, datetime], more: int = 0
    ) -> ledger.Reservation:
        key, units, start, end = bill
        return ledger.charge(self.pool, held.id, key, dollars(units + more), start, end)

    @precondition(lambda self: any(held.charges for held in self.held))
    @rule(choice=choices)
    def charge_otherwise(self, choice: int) -> None:
        charged = [held for held in self.held if held.charges]
        held = charged[choice % len(charged)]
        with pytest.raises(ReservationConflict):
            self.send_charge(held, held.charges[choice % len(held.charges)], more=1)

    @precondition(lambda self: self.held)
    @rule(choice=choices)
    def settle(self, choice: int) -> None:
        self.close(self.pick(choice), "settled")

    @precondition(lambda self: self.held)
    @rule(choice=choices)
    def release(self, choice: int) -> None:
        held = self.pick(choice)
        if held.spent:
            with pytest.raises(ReservationConflict):
                ledger.release(self.pool, held.id)
        else:
            self.close(held, "released")

    def close(self, held: Held, state: str) -> None:
        if held.live:
            held.state = state
            for windows in held.parts.values():
                for part in windows.values():
                    part[0] = 0
        operation = ledger.settle if state == "settled" else ledger.release
        for _ in range(2):
            self.compare(held, operation(self.pool, held.id, now=self.now))

    def compare(self, held: Held, real: ledger.Reservation) -> None:
        assert (real.key, real.state, list(real.scopes)) == (held.key, held.state, held.scopes)
        assert (real.amount, real.spent) == (dollars(held.amount), dollars(held.spent))
        assert real.expires_at == held.expires

    @invariant()
    def same_money(self) -> None:
        assert ledger.audit(self.pool) == []
        expected: dict[tuple[str, str, datetime], list[int]] = {}
        for held in self.held:
            for (scope, period), windows in held.parts.items():
                for (start, _), part in windows.items():
                    both = expected.setdefault((scope, period, start), [0, 0])
                    both[0] += part[0]
                    both[1] += part[1]
        with self.pool.connection() as connection:
            rows = connection.execute(
                "SELECT scope, period, nullif(starts_at, '-infinity') AS start, reserved, charged"
                " FROM budgets b JOIN budget_windows w ON w.budget_id = b.id"
            ).fetchall()
        real = {
            (row["scope"], row["period"], row["start"] or FOREVER[0]): [
                int(row["reserved"].scaleb(4)),
                int(row["charged"].scaleb(4)),
            ]
            for row in rows
        }
        assert {key: both for key, both in real.items() if any(both)} == {
            key: both for key, both in expected.items() if any(both)
        }
        live = [held.key for held in self.held if held.live]
        assert [reservation.key for reservation in ledger.open_reservations(self.pool)] == live


def try_histories(pool: Pool, count: int) -> None:
    """Let the ledger and its model live through `count` histories of 30 steps."""
    machine = type("Machine", (LedgerMachine,), {"pool": pool})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


def test_any_history_gives_the_money_of_the_model(database: Pool) -> None:
    try_histories(database, 40)  # and more in tests/storm
