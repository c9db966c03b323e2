"""What SQL by hand cannot do to the ledger, and how the audit finds what was done."""

from decimal import Decimal

import psycopg
import pytest

from infra import ledger
from infra.database import Pool
from tests.helpers.reservations import HOUR, NOW, hold, limit, project_day

IMPOSSIBLE = [
    "UPDATE budget_windows SET reserved = 11",
    "UPDATE budget_windows SET reserved = -1",
    "UPDATE budget_windows SET charged = 'NaN'",
    "UPDATE budget_windows SET reserved = 3, limit_usd = 2",
    "INSERT INTO budget_windows VALUES (1, 'epoch', 'tomorrow', 1, 2)",
    "UPDATE reservations SET state = 'overdrawn'",
    "UPDATE reservations SET state = 'settled'",
    "UPDATE reservations SET spent = 99",
    "INSERT INTO charges VALUES ('c', 1, 0, now(), now())",
]
UNBACKED = [
    "INSERT INTO reservations (key, scopes, amount, created_at, expires_at)"
    " VALUES ('hand', '{project}', 9999, now(), 'tomorrow')",
    "UPDATE reservations SET amount = 9999",
    "UPDATE reservations SET scopes = '{project,flow:other}'",
    "UPDATE reservations SET state = 'settled', closed_at = now()",
    "DELETE FROM allocations",
    "UPDATE allocations SET reserved = 0",
    "UPDATE budget_windows SET reserved = 0",
    "UPDATE budget_windows SET limit_usd = 9999",
    "DELETE FROM budget_windows",
    "UPDATE budgets SET limit_usd = 9999",
    "INSERT INTO budgets (scope, period, timezone, limit_usd) VALUES ('flow:x', 'day', 'UTC', 1)",
    "INSERT INTO charges VALUES ('hand', 1, 1, now(), now())",
    "INSERT INTO extensions VALUES ('hand', 1, 9)",
    "TRUNCATE allocations",
    "DO $$ BEGIN UPDATE budget_windows SET reserved = 0; END $$",
]
"""Money that is nowhere kept free, or no longer: each statement is well formed by itself."""


@pytest.mark.parametrize("statement", IMPOSSIBLE + UNBACKED)
def test_sql_by_hand_cannot_break_the_invariant(database: Pool, statement: str) -> None:
    limit(database, "10")
    hold(database, "a", "2")
    with database.connection() as connection, pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(statement.encode())
    assert ledger.audit(database) == []
    assert project_day(database) == (0, 2)


def test_when_a_reservation_ends_may_be_corrected_by_hand(database: Pool) -> None:
    reservation = hold(database, "a", "2")
    with database.connection() as connection:
        connection.execute("UPDATE reservations SET expires_at = %s", [NOW + 9 * HOUR])
    assert ledger.get(database, reservation.id).expires_at == NOW + 9 * HOUR


@pytest.mark.parametrize("statement", [one for one in IMPOSSIBLE if "budget_windows" not in one])
def test_what_cannot_be_is_refused_without_its_triggers_too(database: Pool, statement: str) -> None:
    hold(database, "a", "2")
    with database.connection() as connection, connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")
        with pytest.raises(psycopg.errors.CheckViolation), connection.transaction():
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("UPDATE budget_windows SET charged = charged + 1", "window"),
        ("DELETE FROM budget_windows", "window"),
        ("UPDATE allocations SET reserved = reserved - 0.0001", "reservation a in budget"),
        ("DELETE FROM charges", "its charges are"),
    ],
)
def test_audit_finds_what_was_altered(database: Pool, statement: str, says: str) -> None:
    reservation = hold(database, "a", "2")
    ledger.charge(database, reservation.id, "c", Decimal(1), NOW, NOW + HOUR)
    with database.connection() as connection, connection.transaction():
        connection.execute("SET LOCAL session_replication_role = replica")  # without its triggers
        connection.execute(statement.encode())
    assert any(says in line for line in ledger.audit(database))
