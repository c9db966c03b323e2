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


def export(pool: Pool, model: str, path: Path) -> int:
    """Write the observations of `model` as JSON lines, oldest first; how many."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT row FROM observations WHERE model = %s ORDER BY id", [model]
        ).fetchall()
    path.write_text("".join(json.dumps(row["row"], sort_keys=True) + "\n" for row in rows))
    return len(rows)
