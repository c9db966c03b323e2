"""What serving recorded: answers and feedback on them, each stored once, however often it comes."""

import json
from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.rows import DictRow

from infra.database import Pool

Row = dict[str, Any]

ANSWER = """
INSERT INTO interactions (key, model, model_version, model_sha256, tenant, source, prompt,
    completion, prompt_token_ids, completion_token_ids, logprobs, sampling, finish_reason,
    latency_ms, created_at)
VALUES (%(key)s, %(model)s, %(model_version)s, %(model_sha256)s, %(tenant)s, 'served', %(prompt)s,
    %(completion)s, %(prompt_token_ids)s::integer[], %(completion_token_ids)s::integer[],
    %(logprobs)s::real[], %(sampling)s::jsonb, %(finish_reason)s, %(latency_ms)s, %(created_at)s)
ON CONFLICT (key) DO NOTHING
"""
FEEDBACK = """
INSERT INTO feedback (key, interaction_id, kind, value, correction, author, created_at)
SELECT %(key)s, id, %(feedback)s, %(value)s::double precision, %(correction)s, %(author)s,
    %(created_at)s::timestamptz
FROM interactions WHERE key = %(interaction)s
ON CONFLICT (key) DO NOTHING
"""
STATEMENTS = {"answer": ANSWER, "feedback": FEEDBACK}


def store(pool: Pool, rows: Iterable[Row]) -> tuple[list[Row], dict[int, str]]:
    """Store rows in one transaction, the answers first: feedback on answers that are not there yet,
    and why the rows of these numbers cannot be stored.

    A row is as `jobs.serving` writes it. Raises psycopg.OperationalError with the database away.
    """
    numbered = sorted(enumerate(rows), key=lambda one: one[1].get("kind") != "answer")
    refused: dict[int, str] = {}
    with pool.connection() as connection, connection.transaction():
        early = _early(connection, [row for _, row in numbered])
        for number, row in numbered:
            if row in early:
                continue
            try:
                with connection.transaction():
                    connection.execute(STATEMENTS[row["kind"]].encode(), _stored(row))
            except (psycopg.DataError, psycopg.IntegrityError, KeyError) as error:
                refused[number] = f"{type(error).__name__}: {error}"
    return early, refused


def _early(connection: psycopg.Connection[DictRow], rows: list[Row]) -> list[Row]:
    """Feedback on answers that neither are stored nor come with it."""
    feedback = [row for row in rows if row.get("kind") == "feedback"]
    found = connection.execute(
        "SELECT key FROM interactions WHERE key = ANY (%s)",
        [[row["interaction"] for row in feedback]],
    )
    known = {row["key"] for row in found} | {
        row["key"] for row in rows if row.get("kind") == "answer"
    }
    return [row for row in feedback if row["interaction"] not in known]


def _stored(row: Row) -> Row:
    """Texts as PostgreSQL holds them: without NUL and half characters."""
    stored = {
        name: value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        if isinstance(value, str)
        else value
        for name, value in row.items()
    }
    return stored | {"sampling": json.dumps(row.get("sampling"))}
