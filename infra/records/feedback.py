"""What users left about answers: thumbs, stars, comparisons and corrections."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from pydantic import BaseModel, ConfigDict

from infra.database import Pool
from infra.errors import InputError
from infra.records import experience

INSERT = """
INSERT INTO feedback (key, interaction_id, kind, value, correction, author, against, simulated)
VALUES (%(key)s, %(interaction)s, %(kind)s, %(value)s, %(correction)s, %(author)s, %(against)s,
    %(simulated)s)
ON CONFLICT (key) DO NOTHING
"""
INSERT_WITH_ANSWER = """
INSERT INTO feedback (key, interaction_id, kind, value, correction, author, against, simulated)
SELECT %(key)s, i.id, %(kind)s, %(value)s::double precision, %(correction)s, %(author)s, a.id,
    %(simulated)s::boolean
FROM interactions i LEFT JOIN interactions a ON a.key = %(against)s
WHERE i.key = %(interaction)s
ON CONFLICT (key) DO NOTHING
"""
SELECT = """
SELECT f.kind, f.value, f.correction, f.author AS "user", f.simulated, i.prompt, i.completion,
    i.columns - 'group' AS columns, coalesce(i.columns ->> 'group', '') AS "group",
    a.completion AS against
FROM feedback f
JOIN interactions i ON i.id = f.interaction_id
LEFT JOIN interactions a ON a.id = f.against
WHERE i.model = %(model)s AND f.created_at > %(since)s AND f.created_at <= %(until)s
ORDER BY f.id
"""


VALUES = {"thumb": (1, -1), "comparison": (1, 0, -1)}
"""Kind → what its value may be."""


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
        if not _has_a_meaning(row["kind"], row["value"]):
            raise InputError(
                f"feedback is not whole: a {row['kind']} has the value {row['value']}",
                "A thumb is 1 or -1, a rating 1 to 5, a comparison 1, 0 or -1.",
            )
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
            "A comparison needs another answer in `against`, a correction its text, and every "
            "answer must be stored.",
        ) from None


def _has_a_meaning(kind: str, value: float | None) -> bool:
    if kind == "rating":
        return value is not None and 1 <= value <= 5
    return kind not in VALUES or value in VALUES[kind]


def add_with_answers(pool: Pool, model: str, rows: Iterable[dict[str, Any]]) -> int:
    """Store feedback and the answers of `model` that it is about, all or none; how much is new.

    A row is a line of `jobs.dpo.data` without NUL in its texts. Both are known by their content:
    what is stored already stays as it is. A line that stands there n times is n pieces.
    """
    answers: dict[str, dict[str, Any]] = {}
    seen: Counter[str] = Counter()
    stored: list[dict[str, Any]] = []

    def answer(row: dict[str, Any], completion: str) -> str:
        columns = row["columns"] | ({"group": row["group"]} if row["group"] else {})
        found = experience.answered(model, row["prompt"], completion, columns)
        answers[found["key"]] = found
        return found["key"]

    for row in rows:
        left = {
            "interaction": answer(row, row["completion"]),
            "against": None if row["against"] is None else answer(row, row["against"]),
            "author": row["user"].replace("\0", "\ufffd") or None,
            **{name: row[name] for name in ("kind", "value", "correction", "simulated")},
        }
        key = experience.content_key(left)
        stored.append({**left, "key": f"import/{key}/{seen[key]}"})
        seen[key] += 1
    with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        # one import at a time: two with the same lines would wait for each other otherwise
        cursor.execute("LOCK TABLE feedback IN SHARE ROW EXCLUSIVE MODE")
        cursor.executemany(experience.INSERT_ANSWERED, list(answers.values()))
        cursor.executemany(INSERT_WITH_ANSWER, stored)
        return cursor.rowcount


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
