"""The jobs table: what was launched, under which reservation, and how it ended."""

import platform
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from infra.compute.launcher import Quote
from infra.contract import JobResult, JobSpec
from infra.database import Pool
from infra.database.keys import whole_key
from infra.errors import JobStopped, LaunchError
from infra.records.runs import Run
from infra.settings import settings

ENDED = ("succeeded", "failed", "stopped")


class JobRecord(BaseModel):
    """One row. `state`: launching, running, interrupted (the run that goes on takes it up again),
    succeeded, failed or stopped. `home`: whose process worked at it last, as HOST:HOME."""

    model_config = ConfigDict(frozen=True)

    key: str
    run_id: str
    flow_run: str | None
    launcher: str
    home: str | None
    spec: JobSpec
    hourly_usd: Decimal
    quote: Quote
    handle: dict[str, Any] | None
    state: str
    result: JobResult | None
    error: str | None
    created_at: datetime
    ended_at: datetime | None

    @property
    def is_elsewhere(self) -> bool:
        """Whether it runs, if at all, on a machine or in a home that we see nothing of."""
        return self.launcher == "local" and self.home not in (None, here())


def here() -> str:
    """This home, told from those of other machines."""
    return f"{platform.node()}:{settings().home}"


def record_launch(
    pool: Pool, run: Run, spec: JobSpec, quote: Quote, flow_run: str | None
) -> JobRecord:
    """Store a job before it is launched; the row that is there already stays, and is returned.

    Raises LaunchError when the key belongs to another job.
    """
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO jobs (key, run_id, launcher, spec, hourly_usd, quote, flow_run, home)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (key) DO NOTHING",
            [
                spec.key,
                run.id,
                quote.launcher,
                Jsonb(spec.model_dump()),
                quote.hourly_usd,
                Jsonb(quote.model_dump(mode="json")),
                flow_run,
                here(),
            ],
        )
        # by PostgreSQL: a float of 1e300 comes back as an integer that Python tells from it
        row = connection.execute(
            "SELECT spec = %s AS same FROM jobs WHERE key = %s",
            [Jsonb(spec.model_dump()), spec.key],
        ).fetchone()
    known = find(pool, spec.key)
    assert row is not None and known is not None
    if not row["same"]:
        raise LaunchError(
            f"the job {spec.key} was begun with other parameters",
            "Start the run with the parameters that it was begun with.",
        )
    return known


def usual_seconds(pool: Pool, program: str, step: str) -> float | None:
    """Seconds that the latest five jobs of a step took which succeeded, from the launch: median."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds) AS usual FROM ("
            " SELECT extract(epoch FROM ended_at - created_at)::float8 AS seconds FROM jobs"
            " WHERE state = 'succeeded' AND spec->>'name' = %s AND split_part(key, '/', 2) = %s"
            " ORDER BY created_at DESC LIMIT 5) AS latest",
            [program, step],
        ).fetchone()
    return row["usual"] if row else None


def record_quote(pool: Pool, key: str, quote: Quote) -> JobRecord:
    """Store at which price a job's next attempt is reserved; only while nothing is reserved."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE jobs SET hourly_usd = %s, quote = %s WHERE key = %s",
            [quote.hourly_usd, Jsonb(quote.model_dump(mode="json")), key],
        )
    known = find(pool, key)
    assert known is not None
    return known


def record_handle(pool: Pool, key: str, handle: dict[str, Any]) -> None:
    """Store where a job runs, before anybody waits for it; a stopped job stays stopped."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE jobs SET handle = %s, state = 'running',"
            " started_at = coalesce(started_at, now()) WHERE key = %s AND ended_at IS NULL",
            [Jsonb(handle), key],
        )


def record_interruption(pool: Pool, key: str) -> None:
    """Store that nobody works at a job any more, unless it has ended."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE jobs SET state = 'interrupted'"
            " WHERE key = %s AND state IN ('launching', 'running')",
            [key],
        )


def record_return(pool: Pool, key: str) -> JobRecord:
    """Store that a job is worked at again, from this home."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE jobs SET home = %s, state = CASE state WHEN 'interrupted' THEN 'launching'"
            " ELSE state END WHERE key = %s AND ended_at IS NULL",
            [here(), key],
        )
    known = find(pool, key)
    assert known is not None
    return known


def record_end(
    pool: Pool,
    key: str,
    state: str,
    result: JobResult | None = None,
    error: str | None = None,
) -> None:
    """Store how a job ended; the first end stays."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE jobs SET state = %s, result = %s, error = %s, ended_at = now()"
            " WHERE key = %s AND ended_at IS NULL",
            [state, Jsonb(result.model_dump() if result else None), error, key],
        )


def stopped(pool: Pool, key: str) -> JobStopped | None:
    """What its caller is told where a person has stopped the job."""
    job = find(pool, key)
    if job is None or job.state != "stopped":
        return None
    return JobStopped(f"job {key} was stopped: {job.error}", "Start a new run.")


def raise_if_stopped(pool: Pool, key: str) -> None:
    """Raises JobStopped where a person has stopped the job."""
    if stop := stopped(pool, key):
        raise stop


def find(pool: Pool, key: str) -> JobRecord | None:
    """The job with exactly this key."""
    with pool.connection() as connection:
        row = connection.execute("SELECT * FROM jobs WHERE key = %s", [key]).fetchone()
    return JobRecord.model_validate(row) if row else None


def find_one(pool: Pool, ending: str) -> JobRecord:
    """The one job whose key ends so. Raises InputError for none or several."""
    remedy = "`nightshift jobs list` shows the keys."
    key = whole_key(pool, "jobs", "key", ending, argument="KEY", remedy=remedy)
    record = find(pool, key)
    assert record is not None
    return record


def of_run(pool: Pool, run_id: str) -> list[JobRecord]:
    """A run's jobs, oldest first."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT * FROM jobs WHERE run_id = %s ORDER BY created_at", [run_id]
        ).fetchall()
    return [JobRecord.model_validate(row) for row in rows]


def of_flow_run(pool: Pool, flow_run: str) -> list[JobRecord]:
    """Unended jobs that a flow run launched, or whose run it took up."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT jobs.* FROM jobs JOIN runs ON runs.id = run_id"
            " WHERE jobs.ended_at IS NULL AND %s IN (jobs.flow_run, runs.flow_run)",
            [flow_run],
        ).fetchall()
    return [JobRecord.model_validate(row) for row in rows]


def newest(pool: Pool, limit: int, running: bool = False) -> list[JobRecord]:
    """The newest jobs first; `running`: only those that are worked at."""
    condition = "WHERE state IN ('launching', 'running')" if running else ""
    with pool.connection() as connection:
        rows = connection.execute(
            f"SELECT * FROM jobs {condition} ORDER BY created_at DESC LIMIT %s",  # noqa: S608
            [limit],
        ).fetchall()
    return [JobRecord.model_validate(row) for row in rows]


def unended(pool: Pool) -> list[JobRecord]:
    """Jobs that have not ended, of any run."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT * FROM jobs WHERE ended_at IS NULL ORDER BY created_at"
        ).fetchall()
    return [JobRecord.model_validate(row) for row in rows]


def charged_by_provider(pool: Pool, days: int) -> list[tuple[str, Decimal]]:
    """Dollars charged in the last `days` days on each cloud, the dearest first.

    'local' is this machine.
    """
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT CASE j.launcher WHEN 'sky' THEN split_part(j.quote->>'region', '/', 1)"
            " ELSE j.launcher END AS provider, sum(r.spent) AS usd"
            " FROM reservations r JOIN jobs j ON starts_with(r.key, j.key || '#')"
            " WHERE r.spent > 0 AND r.created_at > now() - make_interval(days => %s)"
            " GROUP BY provider ORDER BY usd DESC",
            [days],
        ).fetchall()
    return [(row["provider"], row["usd"]) for row in rows]
