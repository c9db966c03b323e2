"""What models were asked and answered: interactions, and the trajectories a night trains on."""

import gzip
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import DictRow

from infra.database import Pool
from infra.records.runs import Run

PERSONAL = {"user", "email", "name", "phone", "address"}
"""Columns that say who asked; not stored unless the user wants it."""
INSERT_SAMPLED = """
INSERT INTO interactions (key, model, model_version, source, prompt, completion,
    prompt_token_ids, completion_token_ids, logprobs, columns, personal, reward, rewarded_by)
VALUES (%(key)s, %(model)s, %(model_version)s, 'sampled', %(prompt)s, %(completion)s,
    %(prompt_token_ids)s::integer[], %(completion_token_ids)s::integer[], %(logprobs)s::real[],
    %(columns)s::jsonb, %(personal)s::jsonb, %(reward)s::double precision, %(rewarded_by)s)
ON CONFLICT (key) DO NOTHING
"""
INSERT_ANSWERED = """
INSERT INTO interactions (key, model, model_version, prompt, completion, prompt_token_ids,
    completion_token_ids, logprobs, columns)
VALUES (%(key)s, %(model)s, 'unknown', %(prompt)s, %(completion)s, '{}', '{}', '{}',
    %(columns)s::jsonb)
ON CONFLICT (key) DO NOTHING
"""


def add_sampled(
    pool: Pool, run: Run, model: str, version: str, rows: Iterable[dict[str, Any]], rewarded_by: str
) -> int:
    """Store sampled completions that the function or model `rewarded_by` has rewarded, each once;
    how many are new.

    A row holds prompt, completion, prompt_token_ids, completion_token_ids, logprobs (natural
    log, of the behaviour policy, one a completion token), reward, and columns for the reward.
    PostgreSQL's texts hold no NUL, so one becomes U+FFFD; the token ids are what counts.
    """
    stored = [
        {
            **row,
            "prompt": row["prompt"].replace("\0", "\ufffd"),
            "completion": row["completion"].replace("\0", "\ufffd"),
            "columns": _json(row.get("columns", {})),
            "personal": _json(row["personal"]) if row.get("personal") else None,
            "key": f"{run.id}/sample/{number}",
            "model": model,
            "model_version": version,
            "rewarded_by": rewarded_by,
        }
        for number, row in enumerate(rows)
    ]
    with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(INSERT_SAMPLED, stored)
        return cursor.rowcount


def answered(model: str, prompt: str, completion: str, columns: dict[str, Any]) -> dict[str, Any]:
    """A row for INSERT_ANSWERED: an answer of which no more is known than its text.

    Its key is made from its content. Without tokens it is nothing for `choose`.
    """
    kept = {name: columns[name] for name in sorted(set(columns) - PERSONAL)}
    finite = json.loads(json.dumps(kept), parse_constant=lambda _: None)  # JSON knows no NaN
    row = {"model": model, "prompt": prompt, "completion": completion, "columns": _json(finite)}
    return {**row, "key": f"answer/{content_key(row)}"}


def content_key(row: dict[str, Any]) -> str:
    """The same for the same content."""
    return sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value).replace("\\u0000", "\\ufffd")


def count_usable(
    pool: Pool, run: Run, model: str, versions: list[str], since: datetime, rewarded_by: str
) -> int:
    """How many interactions `choose` could take."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT count(*) AS count FROM usable_interactions(%s, %s, %s, %s, %s)",
            [model, versions, since, run.id, rewarded_by],
        ).fetchone()
    assert row is not None
    return row["count"]


def choose(
    pool: Pool,
    run: Run,
    model: str,
    versions: list[str],
    since: datetime,
    rewarded_by: str,
    limit: int,
) -> int:
    """Fix the newest `limit` usable interactions as this run's trajectories; how many there are.

    Usable is what one of `versions` answered since `since`, what has feedback with a value or a
    reward (of sampled answers one that `rewarded_by` gave), and what no other run has trained on. A
    resumed run keeps its first choice.
    """
    with pool.connection() as connection, connection.transaction():
        already = _chosen(connection, run)
        if already:
            return already
        connection.execute(
            "INSERT INTO trajectories (run_id, position, interaction_id)"
            " SELECT %(run)s, row_number() OVER (ORDER BY id) - 1, id FROM ("
            "  SELECT id FROM usable_interactions("
            "   %(model)s, %(versions)s, %(since)s, %(run)s, %(rewarded_by)s) id"
            "  ORDER BY id DESC LIMIT %(limit)s) AS newest",
            {
                "run": run.id,
                "model": model,
                "versions": versions,
                "since": since,
                "rewarded_by": rewarded_by,
                "limit": limit,
            },
        )
        return _chosen(connection, run)


def _chosen(connection: psycopg.Connection[DictRow], run: Run) -> int:
    row = connection.execute(
        "SELECT count(*) AS count FROM trajectories WHERE run_id = %s", [run.id]
    ).fetchone()
    assert row is not None
    return row["count"]


def trajectories(pool: Pool, run: Run) -> Iterator[dict[str, Any]]:
    """The run's trajectories in their order, streamed."""
    with (
        pool.connection() as connection,
        connection.transaction(),
        connection.cursor("trajectories") as cursor,
    ):
        cursor.execute(
            "SELECT i.prompt, i.completion, i.prompt_token_ids, i.completion_token_ids,"
            " i.logprobs, i.model_version, i.columns, coalesce(i.reward, (SELECT avg(f.value)"
            "   FROM feedback f WHERE f.interaction_id = i.id)) AS reward"
            " FROM trajectories t JOIN interactions i ON i.id = t.interaction_id"
            " WHERE t.run_id = %s ORDER BY t.position",
            [run.id],
        )
        yield from cursor


def export(pool: Pool, run: Run, path: Path) -> int:
    """Write the run's trajectories as gzipped JSON lines, same bytes for the same rows."""
    count = 0
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as stream:
        for row in trajectories(pool, run):
            stream.write(json.dumps(row).encode() + b"\n")
            count += 1
    return count
