"""Messages that came over MQTT in PostgreSQL: events until Prefect has them, and refused ones."""

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from infra.database import Pool

PAYLOAD_LIMIT = 1_000_000
"""Bytes; of a longer one only the beginning is kept."""


def store(
    pool: Pool, topic: str, payload: bytes, error: str | None = None, identity: str | None = None
) -> bool:
    """Store a message once: an event that waits, with an `error` a refused one; whether it is new.

    Two messages on one topic are the same if their `identity` is, or without one their payload.
    """
    if error is not None:  # it may quote the message, PostgreSQL keeps neither of these
        error = error.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
    what = b"id " + identity.encode() if identity is not None else b"payload " + payload
    key = hashlib.sha256(topic.encode() + b"\0" + what).hexdigest()
    with pool.connection() as connection:
        done = connection.execute(
            "INSERT INTO mqtt_messages (id, key, topic, payload, state, error)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING",
            [
                *(uuid4(), key, topic, payload[:PAYLOAD_LIMIT]),
                *("refused" if error else "waiting", error),
            ],
        )
    return done.rowcount == 1


def waiting(pool: Pool, limit: int) -> list[dict[str, Any]]:
    """Events that Prefect does not have yet, oldest first."""
    with pool.connection() as connection:
        return connection.execute(
            "SELECT id, topic, payload, received_at FROM mqtt_messages WHERE state = 'waiting'"
            " ORDER BY received_at LIMIT %s",
            [limit],
        ).fetchall()


def mark_delivered(pool: Pool, message: UUID) -> None:
    """Prefect has it."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE mqtt_messages SET state = 'told', error = NULL WHERE id = %s", [message]
        )


def failed(pool: Pool, message: UUID, error: str, for_ever: bool) -> None:
    """Prefect did not take it; it is asked again, unless it never will."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE mqtt_messages SET state = %s, error = %s WHERE id = %s",
            ["refused" if for_ever else "waiting", error, message],
        )


def newest(pool: Pool, state: str | None, limit: int) -> list[dict[str, Any]]:
    """Messages in one state or in any, newest first; payloads as text, cut."""
    with pool.connection() as connection:
        return connection.execute(
            "SELECT received_at, topic, state, error,"
            " encode(substring(payload FOR 200), 'escape') AS payload FROM mqtt_messages"
            " WHERE %s::text IS NULL OR state = %s ORDER BY received_at DESC LIMIT %s",
            [state, state, limit],
        ).fetchall()


def count(pool: Pool) -> dict[str, int]:
    """How many messages are in each state."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT state, count(*) AS count FROM mqtt_messages GROUP BY state ORDER BY state"
        ).fetchall()
    return {row["state"]: row["count"] for row in rows}


def prune(pool: Pool, age: timedelta, dry_run: bool = False) -> int:
    """Delete what is older and waits for nobody; how many messages."""
    with pool.connection() as connection, connection.transaction(force_rollback=dry_run):
        return connection.execute(
            "DELETE FROM mqtt_messages WHERE state <> 'waiting' AND received_at < now() - %s", [age]
        ).rowcount
