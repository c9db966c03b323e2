"""What the privacy of tenants was spent on, in PostgreSQL: releases by run, over all models."""

from collections.abc import Iterable

from infra.database import Pool


def reserve(
    pool: Pool, run: str, model: str, tenants: Iterable[str], noise_multiplier: float, rounds: int
) -> None:
    """Write down what a run may release of each tenant, before it begins; once for a run."""
    with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO tenant_privacy (run_id, tenant, model, noise_multiplier, rounds)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (run_id, tenant) DO NOTHING",
            [(run, tenant, model, noise_multiplier, rounds) for tenant in tenants],
        )


def settle(pool: Pool, run: str, tenant: str, rounds: int) -> None:
    """Take back the rounds of a run that the tenant had no part in; never more than once."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE tenant_privacy SET rounds = least(rounds, %s), settled = true"
            " WHERE run_id = %s AND tenant = %s AND NOT settled",
            [rounds, run, tenant],
        )


def spent_before(pool: Pool, run: str, tenants: list[str]) -> dict[str, list[tuple[float, int]]]:
    """(noise multiplier, rounds) of what other runs have released of each tenant."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT tenant, noise_multiplier, sum(rounds)::int AS rounds FROM tenant_privacy"
            " WHERE run_id <> %s AND tenant = ANY (%s)"
            " GROUP BY tenant, noise_multiplier ORDER BY tenant, noise_multiplier",
            [run, tenants],
        ).fetchall()
    found: dict[str, list[tuple[float, int]]] = {tenant: [] for tenant in tenants}
    for row in rows:
        found[row["tenant"]].append((row["noise_multiplier"], row["rounds"]))
    return found
