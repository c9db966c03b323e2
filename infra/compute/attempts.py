"""The attempts table: every machine that was asked of a provider, and whether it is gone.

A row is there before the provider is asked. `gone_at` is set once nothing of the machine is left.
"""

import hmac
from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from infra.compute.launcher import Handle, Quote, Reserved
from infra.contract import JobSpec
from infra.database import Pool


class Attempt(BaseModel):
    """One row. `place` is the machine's name at the provider, `output` the URI of its artefacts.

    `server`: the SkyPilot API server that was asked; `submitted_at`: the provider took it;
    `started_at`: the machine was there; `listed_at`: the provider had it in its list last;
    `error`: why it could not be made ready.
    """

    model_config = ConfigDict(frozen=True)

    job_key: str
    number: int
    reservation_id: int
    place: str
    output: str
    hourly_usd: Decimal
    region: str
    server: str | None
    requested_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    listed_at: datetime | None
    gone_at: datetime | None
    error: str | None
    provider_usd: Decimal | None

    @property
    def cost(self) -> Decimal:
        """Dollars for the time that the machine was there, as far as it is over."""
        if self.gone_at is None:
            return Decimal(0)
        held = self.gone_at - (self.started_at or self.requested_at)
        return self.hourly_usd * Decimal(max(0.0, held.total_seconds())) / 3600

    @property
    def handle(self) -> Handle:
        return Handle(
            launcher="sky",
            key=self.job_key,
            reservation=self.reservation_id,
            place=self.place,
            attempt=self.number,
        )


def installation(pool: Pool) -> str:
    """The name that tells our machines from those of others, as long as the database lives."""
    with pool.connection() as connection:
        row = connection.execute("SELECT id FROM installation").fetchone()
    assert row is not None
    return row["id"]


def checkpoint_key(pool: Pool, job: str) -> str:
    """With which the nodes of a job sign its checkpoints: what others put there is not taken."""
    with pool.connection() as connection:
        row = connection.execute("SELECT signing_key FROM installation").fetchone()
    assert row is not None
    return hmac.digest(row["signing_key"].encode(), job.encode(), "sha256").hex()


def begin(pool: Pool, spec: JobSpec, reservation: Reserved, quote: Quote, server: str) -> Attempt:
    """Record the next attempt of a job; the database refuses it while the last has a machine."""
    with pool.connection() as connection:
        row = connection.execute(
            "INSERT INTO attempts (job_key, number, reservation_id, place, output, hourly_usd,"
            " region, instance_type, server) SELECT %(key)s, n, %(reservation)s,"
            " concat_ws('-', 'ns', (SELECT id FROM installation), %(reservation)s::text, n),"
            " %(output)s, %(hourly)s, %(region)s, %(machine)s, %(server)s"
            " FROM (SELECT coalesce(max(number), 0) + 1 AS n"
            " FROM attempts WHERE job_key = %(key)s) AS next RETURNING *",
            {
                "key": spec.key,
                "reservation": reservation.id,
                "output": spec.output,
                "hourly": quote.hourly_usd,
                "region": quote.region,
                "machine": quote.instance_type,
                "server": server,
            },
        ).fetchone()
    return Attempt.model_validate(row)


def of_job(pool: Pool, key: str) -> list[Attempt]:
    """A job's attempts, oldest first."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT * FROM attempts WHERE job_key = %s ORDER BY number", [key]
        ).fetchall()
    return [Attempt.model_validate(row) for row in rows]


def at(pool: Pool, place: str) -> Attempt | None:
    """The attempt with the machine of that name."""
    with pool.connection() as connection:
        row = connection.execute("SELECT * FROM attempts WHERE place = %s", [place]).fetchone()
    return Attempt.model_validate(row) if row else None


def present(pool: Pool) -> list[Attempt]:
    """Those whose machine is not known to be gone."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT * FROM attempts WHERE gone_at IS NULL ORDER BY requested_at"
        ).fetchall()
    return [Attempt.model_validate(row) for row in rows]


def recent(pool: Pool, days: int) -> list[Attempt]:
    """Those of the last `days` days, oldest first."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT * FROM attempts WHERE requested_at > now() - make_interval(days => %s)"
            " ORDER BY requested_at",
            [days],
        ).fetchall()
    return [Attempt.model_validate(row) for row in rows]


def note_provider_cost(pool: Pool, costs: dict[str, Decimal]) -> None:
    """Record what a provider's own report says of machines that are gone."""
    with pool.connection() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "UPDATE attempts SET provider_usd = %s WHERE place = %s AND gone_at IS NOT NULL",
            [(usd, place) for place, usd in costs.items()],
        )


def any_ever(pool: Pool) -> bool:
    """Whether this installation ever asked for a machine."""
    with pool.connection() as connection:
        return connection.execute("SELECT 1 FROM attempts LIMIT 1").fetchone() is not None


def note(
    pool: Pool,
    place: str,
    *,
    submitted_at: datetime | None = None,
    started_at: datetime | None = None,
    listed_at: datetime | None = None,
    gone_at: datetime | None = None,
    error: str | None = None,
) -> Attempt:
    """Record what became known; what is known already stays, but for a later `listed_at`."""
    with pool.connection() as connection:
        row = connection.execute(
            "UPDATE attempts SET submitted_at = coalesce(submitted_at, %s),"
            " started_at = coalesce(started_at, %s), listed_at = greatest(listed_at, %s),"
            " gone_at = coalesce(gone_at, %s), error = coalesce(error, %s)"
            " WHERE place = %s RETURNING *",
            [submitted_at, started_at, listed_at, gone_at, error, place],
        ).fetchone()
    return Attempt.model_validate(row)
