"""Hourly measurements of buildings in PostgreSQL, each hour once, until a year is summed up.

A year is 8,760 hours from the first one that no earlier year has. It is complete once an hour after
it was measured.
"""

from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Jsonb

from infra.database import Pool

YEAR = timedelta(hours=8760)
LATER = timedelta(days=30)
"""A year that was refused is tried again from so much later on."""

COMPLETE = """
SELECT name, description, first AS start FROM buildings
CROSS JOIN LATERAL (
    SELECT min(hour) AS first, max(hour) AS last FROM readings
    WHERE model = buildings.model AND building = name AND hour >= next_hour
) AS hours
WHERE model = %s AND last >= first + %s ORDER BY name
"""
COMPLETES = """
WITH year AS (
    SELECT min(hour) + %(year)s AS ending FROM readings
    WHERE model = %(model)s AND building = %(building)s AND hour >= (
        SELECT next_hour FROM buildings WHERE model = %(model)s AND name = %(building)s
    )
)
SELECT %(hour)s >= ending AND NOT EXISTS (
    SELECT FROM readings WHERE model = %(model)s AND building = %(building)s
    AND hour >= ending AND hour <> %(hour)s
) AS completes FROM year
"""


def describe(pool: Pool, model: str, building: str, description: dict[str, float]) -> None:
    """Store a building's design and place; the newest ones hold."""
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO buildings (model, name, description) VALUES (%s, %s, %s)"
            " ON CONFLICT (model, name) DO UPDATE"
            " SET description = excluded.description, refused = NULL",
            [model, building, Jsonb(description)],
        )


def add(pool: Pool, model: str, building: str, hour: datetime, measured: dict[str, float]) -> bool:
    """Store what was measured in an hour; whether a year is complete by it.

    An hour is stored once: what comes again, or by another sensor, is merged into it.
    """
    given = {"model": model, "building": building, "hour": hour, "year": YEAR}
    with pool.connection() as connection, connection.transaction():
        connection.execute(
            "INSERT INTO buildings (model, name) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            [model, building],
        )
        connection.execute(
            "INSERT INTO readings (model, building, hour, measured) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (model, building, hour)"
            " DO UPDATE SET measured = readings.measured || excluded.measured",
            [model, building, hour, Jsonb(measured)],
        )
        row = connection.execute(COMPLETES, given).fetchone()
    assert row is not None
    return bool(row["completes"])


def complete(pool: Pool, model: str) -> list[dict[str, Any]]:
    """`name`, `description` and `start` of each building that has a year which nobody took."""
    with pool.connection() as connection:
        return connection.execute(COMPLETE, [model, YEAR]).fetchall()


def hours(
    pool: Pool, model: str, building: str, start: datetime
) -> list[tuple[datetime, dict[str, float]]]:
    """(hour, measured) of the year that begins at `start`, in order."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT hour, measured FROM readings WHERE model = %s AND building = %s"
            " AND hour >= %s AND hour < %s ORDER BY hour",
            [model, building, start, start + YEAR],
        ).fetchall()
    return [(row["hour"], row["measured"]) for row in rows]


def mark_taken(pool: Pool, model: str, building: str, start: datetime, refused: str | None) -> None:
    """The year from `start` on is an observation, or `refused`; safe to repeat."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE buildings SET next_hour = %s, refused = %s"
            " WHERE model = %s AND name = %s AND next_hour <= %s",
            [start + (LATER if refused else YEAR), refused, model, building, start],
        )


def mark_lacking(pool: Pool, model: str, building: str, what: str) -> None:
    """Store why a complete year waits."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE buildings SET refused = %s WHERE model = %s AND name = %s",
            [what, model, building],
        )


def summary(pool: Pool) -> list[dict[str, Any]]:
    """Each building: whether it is described, its next year's first and newest hour, how many
    hours of it are there, and why the last year was refused."""
    with pool.connection() as connection:
        return connection.execute(
            "SELECT b.model, b.name AS building, description IS NOT NULL AS described,"
            " min(hour) AS first, max(hour) AS newest, count(hour) AS hours, refused"
            " FROM buildings b LEFT JOIN readings r"
            " ON r.model = b.model AND r.building = b.name AND r.hour >= b.next_hour"
            " GROUP BY b.model, b.name ORDER BY b.model, b.name"
        ).fetchall()
