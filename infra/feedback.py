"""What users left about answers: thumbs, stars, comparisons and corrections."""

import gzip
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import psycopg
from pydantic import BaseModel, ConfigDict

from infra.database import Pool
from infra.errors import InputError

INSERT = """
INSERT INTO feedback (key, interaction_id, kind, value, correction, author, against, simulated)
VALUES (%(key)s, %(interaction)s, %(kind)s, %(value)s, %(correction)s, %(author)s, %(against)s,
    %(simulated)s)
ON CONFLICT (key) DO NOTHING
"""
SELECT = """
SELECT f.kind, f.value, f.correction, f.author AS "user", f.simulated, i.prompt, i.completion,
    i.columns, a.completion AS against
FROM feedback f
JOIN interactions i ON i.id = f.interaction_id
LEFT JOIN interactions a ON a.id = f.against
WHERE i.model = %(model)s AND f.created_at > %(since)s AND f.created_at <= %(until)s
ORDER BY f.id
"""


class Left(BaseModel):
    """One piece of feedback. `value`: thumb 1 or -1, rating 1 to 5, comparison 1 (`interaction` is
    better than `against`), -1 or 0; `key` makes a repeated delivery count once."""

    model_config = ConfigDict(extra="forbid")

    interaction: int
    kind: str
    value: float | None = None
    correction: str | None = None
    author: str | None = None
    against: int | None = None
    simulated: bool = False
    key: str | None = None


def add(pool: Pool, rows: Sequence[Left]) -> int:
    """Store feedback; how many are new. Raises InputError for what is not whole."""
    stored = [row.model_dump() for row in rows]
    for row in stored:
        if row["correction"] is not None:
            row["correction"] = row["correction"].replace("\0", "\ufffd")
    try:
        with (
            pool.connection() as connection,
            connection.transaction(),
            connection.cursor() as cursor,
        ):
            cursor.executemany(INSERT, stored)
            return cursor.rowcount
    except (psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation) as error:
        raise InputError(
            f"feedback is not whole: {error.diag.message_primary}",
            "A thumb or rating needs a value, a comparison another answer in `against`, a "
            "correction its text, and every answer must be stored.",
        ) from None


def count(pool: Pool, model: str, since: datetime, until: datetime) -> int:
    """How much feedback a model's answers got after `since`, until `until`."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT count(*) AS count FROM feedback f JOIN interactions i"
            " ON i.id = f.interaction_id"
            " WHERE i.model = %s AND f.created_at > %s AND f.created_at <= %s",
            [model, since, until],
        ).fetchone()
    assert row is not None
    return row["count"]


def export(pool: Pool, model: str, since: datetime, until: datetime, path: Path) -> int:
    """Write the feedback as gzipped JSON lines for `jobs.dpo.data`; how many rows.

    The same rows give the same bytes.
    """
    written = 0
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream,
        pool.connection() as connection,
        connection.transaction(),
        connection.cursor("feedback") as cursor,
    ):
        cursor.execute(SELECT, {"model": model, "since": since, "until": until})
        for row in cursor:
            stream.write(json.dumps(row).encode() + b"\n")
            written += 1
    return written
