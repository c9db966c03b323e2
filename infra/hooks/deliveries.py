"""Deliveries in PostgreSQL: stored in batches, each becoming one flow run or part of one."""

import json
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg_pool import AsyncConnectionPool

from infra import hooks
from infra.database import Pool
from infra.errors import InputError

AsyncPool = AsyncConnectionPool[AsyncConnection[DictRow]]

LEASE = timedelta(seconds=20)
"""Whoever claims a run starts it within this time, or another attempt is made."""
LONGEST_PAUSE_S = 10

STORE = """
WITH given AS (
    SELECT * FROM unnest(%b::uuid[], %b::text[], %b::text[], %b::text[], %b::bytea[], %b::text[],
        %b::boolean[]) AS row (id, hook, key, flow, body, parameters, debounced)
), fresh AS (
    INSERT INTO webhook_deliveries (id, hook, key, run, body)
    SELECT id, hook, key, id, body FROM given ON CONFLICT (hook, key) DO NOTHING RETURNING id
), runs AS (
    INSERT INTO hook_runs (id, hook, flow, parameters)
    SELECT id, hook, flow, parameters::json FROM given JOIN fresh USING (id) WHERE NOT debounced
)
SELECT id FROM fresh
"""
GATHER = """
INSERT INTO hook_runs (id, hook, flow, parameters, state, due_at)
VALUES (%s, %s, %s, %s, 'gathering', now() + %s)
ON CONFLICT (hook, flow) WHERE state = 'gathering' DO UPDATE SET parameters = excluded.parameters
RETURNING id
"""
CLAIM = """
UPDATE hook_runs SET state = 'waiting', attempts = attempts + 1, due_at = now() + %s
WHERE id IN (
    SELECT id FROM hook_runs WHERE state IN ('gathering', 'waiting') AND due_at <= now()
    ORDER BY attempts, due_at LIMIT %s FOR UPDATE SKIP LOCKED
)
RETURNING id, hook, flow, parameters, attempts,
    (SELECT count(*) FROM webhook_deliveries WHERE run = hook_runs.id) AS deliveries
"""
SHOWN = """
SELECT delivery.id, delivery.hook, run.flow, run.state, run.flow_run, run.error, run.attempts,
    delivery.key, delivery.received_at, run.id AS run, run.parameters
FROM webhook_deliveries delivery JOIN hook_runs run ON run.id = delivery.run
"""


FORGET = (
    # a signed time keeps these from coming again; of the others the identity must stay
    """
    DELETE FROM webhook_deliveries delivery USING hook_runs run, hooks
    WHERE run.id = delivery.run AND run.state IN ('started', 'refused')
        AND delivery.received_at < now() - %(age)s
        AND hooks.name = delivery.hook AND hooks.form = 'standard'
    """,
    """
    UPDATE webhook_deliveries delivery SET body = '' FROM hook_runs run
    WHERE run.id = delivery.run AND run.state IN ('started', 'refused')
        AND delivery.received_at < now() - %(age)s AND run.parameters::text <> 'null'
    """,
    """
    DELETE FROM hook_runs run
    WHERE run.state IN ('started', 'refused') AND run.created_at < now() - %(age)s
        AND NOT EXISTS (SELECT FROM webhook_deliveries delivery WHERE delivery.run = run.id)
    """,
    """
    UPDATE hook_runs run SET parameters = 'null'
    WHERE run.state IN ('started', 'refused') AND run.created_at < now() - %(age)s
        AND run.parameters::text <> 'null'
    """,
)


class AnotherFlow(Exception):
    """The same event has started another flow of its hook."""


@dataclass(frozen=True)
class Delivery:
    """What came in: `key` makes it the same as another of its hook; `parameters` are JSON."""

    hook: str
    key: str
    flow: str
    body: bytes
    parameters: str
    debounce: timedelta


async def store(pool: AsyncPool, batch: Sequence[Delivery]) -> list[UUID | AnotherFlow]:
    """Commit a batch in one transaction; the id of each, of the first one for a duplicate, and why
    there is none for an event that has come for another flow.

    A debounced delivery joins the run of its hook and flow that still gathers, or begins one; the
    newest delivery's parameters are the run's.
    """
    ids = [uuid4() for _ in batch]
    columns = [
        ids,
        [one.hook for one in batch],
        [one.key for one in batch],
        [one.flow for one in batch],
        [one.body for one in batch],
        [one.parameters for one in batch],
        [bool(one.debounce) for one in batch],
    ]
    several = any(one.debounce for one in batch)  # statements; otherwise STORE commits by itself
    async with pool.connection() as connection, _transaction(connection, several):
        cursor = await connection.execute(STORE, columns)
        fresh = {row["id"] for row in await cursor.fetchall()}
        for id_, one in zip(ids, batch, strict=True):
            if one.debounce and id_ in fresh:
                await _gather(connection, id_, one)
        if len(fresh) < len(batch):
            return await _first_ids(connection, batch)
    return list(ids)


def _transaction(
    connection: AsyncConnection[DictRow], wanted: bool
) -> AbstractAsyncContextManager[object]:
    return connection.transaction() if wanted else nullcontext()


async def _gather(connection: AsyncConnection[DictRow], id_: UUID, one: Delivery) -> None:
    cursor = await connection.execute(
        GATHER, [id_, one.hook, one.flow, one.parameters, one.debounce]
    )
    row = await cursor.fetchone()
    assert row is not None
    await connection.execute(
        "UPDATE webhook_deliveries SET run = %s WHERE id = %s", [row["id"], id_]
    )


async def _first_ids(
    connection: AsyncConnection[DictRow], batch: Sequence[Delivery]
) -> list[UUID | AnotherFlow]:
    cursor = await connection.execute(
        "SELECT delivery.id, delivery.hook, key, flow"
        " FROM webhook_deliveries delivery JOIN hook_runs run ON run.id = delivery.run"
        " WHERE (delivery.hook, key) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        [[one.hook for one in batch], [one.key for one in batch]],
    )
    first = {(row["hook"], row["key"]): row for row in await cursor.fetchall()}
    return [
        row["id"]
        if (row := first[one.hook, one.key])["flow"] == one.flow
        else AnotherFlow(f"this event has started {row['flow']}: make one hook for each flow")
        for one in batch
    ]


async def claim(pool: AsyncPool, limit: int) -> list[DictRow]:
    """Runs that are due, each for one claimant until its LEASE ends; gathering ones are closed.

    Those that failed least come first: many that cannot be started would keep others waiting.
    """
    async with pool.connection() as connection:
        cursor = await connection.execute(CLAIM, [LEASE, limit])
        return await cursor.fetchall()


async def started(pool: AsyncPool, run: UUID, flow_run: UUID) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE hook_runs SET state = 'started', flow_run = %s, error = NULL WHERE id = %s",
            [flow_run, run],
        )


async def again(pool: AsyncPool, run: UUID, attempts: int, error: str) -> None:
    """Try once more, after a pause that doubles with every attempt."""
    pause = timedelta(seconds=min(LONGEST_PAUSE_S, 0.25 * 2 ** min(attempts, 10)))
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE hook_runs SET due_at = now() + %s, error = %s WHERE id = %s",
            [pause, error, run],
        )


async def refused(pool: AsyncPool, run: UUID, error: str) -> None:
    """The Prefect server will never take it; `replay` starts it anew."""
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE hook_runs SET state = 'refused', error = %s WHERE id = %s", [error, run]
        )


async def find(pool: AsyncPool, delivery: UUID) -> DictRow | None:
    """One delivery with its run."""
    async with pool.connection() as connection:
        cursor = await connection.execute((SHOWN + "WHERE delivery.id = %s").encode(), [delivery])
        return await cursor.fetchone()


def newest(pool: Pool, hook: str | None, limit: int) -> list[dict[str, Any]]:
    """Deliveries of one hook or of all, newest first."""
    with pool.connection() as connection:
        return connection.execute(
            (SHOWN + "WHERE %s::text IS NULL OR delivery.hook = %s"
             " ORDER BY received_at DESC LIMIT %s").encode(),
            [hook, hook, limit],
        ).fetchall()  # fmt: skip


def prune(pool: Pool, age: timedelta, dry_run: bool = False) -> int:
    """Forget what was delivered longer ago and has its run; of how many deliveries.

    Of forms without a signed time the identity stays, so that they cannot be sent again.
    """
    with pool.connection() as connection, connection.transaction(force_rollback=dry_run):
        counts = [connection.execute(one.encode(), {"age": age}).rowcount for one in FORGET]
    return counts[0] + counts[1]


def replay(pool: Pool, delivery: UUID) -> UUID:
    """Start the run of a delivery once more, as a new delivery; its id."""
    new = uuid4()
    with pool.connection() as connection, connection.transaction():
        old = connection.execute(
            (SHOWN.replace("delivery.key", "delivery.key, delivery.body")
             + "WHERE delivery.id = %s").encode(), [delivery]
        ).fetchone()  # fmt: skip
        if old is None:
            raise InputError(
                f"there is no delivery {delivery}", "`nightshift hooks deliveries` shows them."
            )
        if old["parameters"] is None:
            raise InputError(
                f"what the delivery {delivery} said is no longer kept",
                "Let its sender send it anew; NIGHTSHIFT_KEEP_DAYS says for how long it is kept.",
            )
        connection.execute(
            "INSERT INTO hook_runs (id, hook, flow, parameters) VALUES (%s, %s, %s, %s)",
            [new, old["hook"], old["flow"], json.dumps(old["parameters"])],
        )
        connection.execute(
            "INSERT INTO webhook_deliveries (id, hook, key, run, body) VALUES (%s, %s, %s, %s, %s)",
            [new, old["hook"], f"replay {new} of {delivery}", new, old["body"]],
        )
        hooks.audit(connection, "replay", old["hook"], {"delivery": str(delivery)})
    return new
