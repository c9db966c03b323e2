"""API keys of tenants. A key is 256 bits of chance, shown once; the table has its SHA-256."""

import re
import secrets
from typing import Any

from infra.database import Pool
from infra.errors import InputError
from infra.serving.secret import hashed
from infra.settings import settings

LIMITS = ("requests_per_minute", "tokens_per_minute")
TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def create(
    pool: Pool,
    tenant: str,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
) -> str:
    """A new key of the tenant, with limits or without; it is not kept. Raises InputError."""
    if not TENANT.fullmatch(tenant):
        raise InputError(
            f"TENANT: {tenant!r} is no name of one", "Use small letters, digits and '-'."
        )
    key = f"ns-{secrets.token_urlsafe(32)}"
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO api_keys (tenant, sha256, requests_per_minute, tokens_per_minute)"
            " VALUES (%s, %s, %s, %s)",
            [tenant, hashed(key), requests_per_minute, tokens_per_minute],
        )
    return key


def revoke(pool: Pool, number: int) -> None:
    """Let the key of this number open nothing any more; safe to repeat. Raises InputError."""
    with pool.connection() as connection:
        done = connection.execute(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE id = %s", [number]
        )
    if not done.rowcount:
        raise InputError(f"NUMBER: there is no key {number}", "`nightshift keys list` shows them.")


def all_keys(pool: Pool) -> list[dict[str, Any]]:
    """Number, tenant, limits and times of each key, newest first."""
    with pool.connection() as connection:
        return connection.execute(
            "SELECT id AS number, tenant, requests_per_minute, tokens_per_minute, created_at,"
            " revoked_at FROM api_keys ORDER BY id DESC"
        ).fetchall()


def valid(pool: Pool) -> dict[str, Any]:
    """`keys`, `limits` and `keys_required` of an order: SHA-256 → tenant of the keys that open and
    → limit of those that have one, and whether a key is needed: once there was any, or by
    NIGHTSHIFT_SERVING_KEYS_REQUIRED."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT tenant, sha256, revoked_at, requests_per_minute, tokens_per_minute"
            " FROM api_keys"
        ).fetchall()
    open_ = [row for row in rows if not row["revoked_at"]]
    limits = {row["sha256"]: {name: row[name] for name in LIMITS} for row in open_}
    return {
        "keys": {row["sha256"]: row["tenant"] for row in open_},
        "limits": {key: limit for key, limit in limits.items() if any(limit.values())},
        "keys_required": bool(rows) or settings().serving_keys_required,
    }
