"""Measured buildings in PostgreSQL: the buffer that a surrogate is retrained from."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from psycopg.types.json import Jsonb

from infra.database import Pool


def add(pool: Pool, model: str, rows: Iterable[dict[str, float]]) -> int:
    """Store observations, each once by its content; how many are new."""
    stored = [
        (hashlib.sha256(f"{model} {json.dumps(row, sort_keys=True)}".encode()).hexdigest(), row)
        for row in rows
    ]
    with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO observations (key, model, row) VALUES (%s, %s, %s)"
            " ON CONFLICT (key) DO NOTHING",
            [(key, model, Jsonb(row)) for key, row in stored],
        )
        return cursor.rowcount


def newest(pool: Pool, model: str) -> int:
    """Number of the newest observation of `model`, 0 where there is none."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT coalesce(max(id), 0) AS newest FROM observations WHERE model = %s", [model]
        ).fetchone()
    assert row is not None
    return row["newest"]


def count(pool: Pool, model: str, after: int, until: int) -> int:
    """How many observations of `model` have numbers above `after`, up to `until`."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT count(*) AS count FROM observations WHERE model = %s AND id > %s AND id <= %s",
            [model, after, until],
        ).fetchone()
    assert row is not None
    return row["count"]


def export(
    pool: Pool, model: str, path: Path, after: int, until: int, most: int | None = None
) -> int:
    """Write the observations of `model` above `after`, up to `until`, as JSON lines; how many.

    Oldest first; of more than `most` the newest ones.
    """
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT row FROM observations WHERE model = %s AND id > %s AND id <= %s"
            " ORDER BY id DESC LIMIT %s",
            [model, after, until, most],
        ).fetchall()
    rows.reverse()
    path.write_text("".join(json.dumps(row["row"], sort_keys=True) + "\n" for row in rows))
    return len(rows)
