"""What the privacy of tenants was spent on, in PostgreSQL: releases by run, over all models."""

from collections.abc import Iterable
from typing import Any

from infra.database import Pool

Releases = dict[str, Any]
"""`unit` (tenant or record), `noise_multiplier`, `sampling_rate`, `steps` a round, `rounds`."""


def reserve(pool: Pool, run: str, model: str, tenants: Iterable[str], releases: Releases) -> None:
    """Write down what a run may release of each tenant, before it begins; once for a run."""
    with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tenant_privacy"
            " (run_id, tenant, model, unit, noise_multiplier, sampling_rate, steps, rounds)"
            " VALUES (%(run)s, %(tenant)s, %(model)s, %(unit)s, %(noise_multiplier)s,"
            " %(sampling_rate)s, %(steps)s, %(rounds)s) ON CONFLICT (run_id, tenant) DO NOTHING",
            [releases | {"run": run, "tenant": tenant, "model": model} for tenant in tenants],
        )


def settle(pool: Pool, run: str, tenant: str, rounds: int) -> None:
    """Take back the rounds of a run that the tenant had no part in; never more than once."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE tenant_privacy SET rounds = least(rounds, %s), settled = true"
            " WHERE run_id = %s AND tenant = %s AND NOT settled",
            [rounds, run, tenant],
        )


def spent_before(pool: Pool, run: str, tenants: list[str]) -> dict[str, list[Releases]]:
    """What other runs have released of each tenant."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT tenant, unit, noise_multiplier, sampling_rate, steps,"
            " sum(rounds)::int AS rounds FROM tenant_privacy"
            " WHERE run_id <> %s AND tenant = ANY (%s)"
            " GROUP BY tenant, unit, noise_multiplier, sampling_rate, steps"
            " ORDER BY tenant, unit, noise_multiplier, sampling_rate, steps",
            [run, tenants],
        ).fetchall()
    found: dict[str, list[Releases]] = {tenant: [] for tenant in tenants}
    for row in rows:
        found[row.pop("tenant")].append(row)
    return found
