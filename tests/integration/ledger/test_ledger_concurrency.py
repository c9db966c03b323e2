"""Many at once: no deadlock over overlapping budgets, one answer for one key."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from infra import ledger
from infra.database import Pool
from infra.errors import BudgetExceeded

NOW = datetime(2026, 11, 30, 20, tzinfo=UTC)
SCOPES = ["flow:a", "flow:b", "flow:c", "run:1", "run:2"]


def live(pool: Pool, name: int, rounds: int) -> int:
    """Reserve, charge, extend and close across the end of the month, in any order of scopes."""
    chance = random.Random(name)
    refused = 0
    for number in range(rounds):
        scopes = chance.sample(SCOPES, k=chance.randint(0, 4))
        until = NOW + timedelta(hours=chance.randint(1, 60))
        key = f"{name}/{number}"
        try:
            held = ledger.reserve(pool, key, scopes, Decimal(chance.randint(1, 5)), until, now=NOW)
        except BudgetExceeded:
            refused += 1
            continue
        end = NOW + timedelta(hours=chance.randint(0, 30))
        ledger.charge(pool, held.id, key, Decimal("0.3333"), NOW, end)
        with suppress(BudgetExceeded):
            ledger.extend(pool, held.id, key, Decimal(1), until + timedelta(hours=9), now=NOW)
        ledger.settle(pool, held.id)
    return refused


def change_budgets(pool: Pool, rounds: int) -> None:
    chance = random.Random(0)
    for _ in range(rounds):
        zone = chance.choice(["UTC", "Europe/Berlin", "Asia/Kathmandu", None])
        period = chance.choice(["day", "month"])
        limit = Decimal(chance.randint(10, 30))
        ledger.set_budget(pool, chance.choice(SCOPES[:3]), period, limit, zone, now=NOW)


def test_overlapping_budgets_never_deadlock(database: Pool) -> None:
    ledger.set_budget(database, "project", "month", Decimal(300), "America/New_York", now=NOW)
    with ThreadPoolExecutor(8) as threads:
        changes = threads.submit(change_budgets, database, 30)
        workers = [threads.submit(live, database, number, 40) for number in range(7)]
        refused = sum(worker.result() for worker in workers)
        changes.result()
    assert refused > 0, "the budgets were never full: the test shows less than it should"
    with database.connection() as connection:
        [row] = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchall()
    assert row["deadlocks"] == 0
    assert ledger.audit(database) == []
    assert ledger.open_reservations(database) == []


def test_one_key_at_the_same_time_is_one_reservation(database: Pool) -> None:
    until = NOW + timedelta(hours=1)

    def hold(_: int) -> ledger.Reservation:
        return ledger.reserve(database, "job", [], Decimal(150), until, now=NOW)

    def pay(_: int) -> Decimal:
        held = ledger.charge(database, first.id, "bill", Decimal(2), NOW, until)
        return ledger.settle(database, held.id).spent

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(hold, range(16)))
        first = answers[0]
        assert answers == [first] * 16
        assert list(threads.map(pay, range(16))) == [Decimal(2)] * 16
    assert ledger.charged(database, "project") == 2
    assert ledger.audit(database) == []


def test_last_room_is_given_once(database: Pool) -> None:
    ledger.set_budget(database, "project", "day", Decimal(10), now=NOW)

    def hold(number: int) -> bool:
        try:
            ledger.reserve(database, str(number), [], Decimal(4), NOW + timedelta(hours=1), now=NOW)
        except BudgetExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(hold, range(16))) == 2
    assert ledger.budgets(database, now=NOW)[0].reserved == 8
