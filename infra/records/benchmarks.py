"""Raw samples of benchmarks in PostgreSQL: those of a killed one are there, and used by nobody."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from infra.database import Pool

Side = Literal["now", "then", "beside"]
"""Our tree as it is, as it was at another revision, or what a figure is held beside."""


class Sample(BaseModel):
    """One sample as it was taken. `value` is the median of `raw`, in the figure's unit; `load` the
    machine's load average of a minute before it; `time` Unix seconds."""

    model_config = ConfigDict(frozen=True)

    figure: str
    unit: str
    side: Side
    attempt: int
    round: int
    position: int
    warm_up: bool
    value: float
    raw: list[float]
    load: float
    time: float


class Measured(BaseModel):
    """The samples of one side of a figure in a completed session, in the order of their rounds."""

    model_config = ConfigDict(frozen=True)

    session: str
    revision: str
    environment_key: str
    completed_at: datetime
    figure: str
    unit: str
    side: Side
    rounds: list[int]
    values: list[float]


def begin(
    pool: Pool, session: str, run: str, suite: str, revision: str, against: str | None
) -> None:
    """Note that a session has begun; once, however often it is taken up."""
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO benchmark_sessions (id, run_id, suite, revision, against)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING",
            [session, run, suite, revision, against],
        )


def complete(
    pool: Pool,
    session: str,
    key: str,
    environment: dict[str, Any],
    samples: Iterable[tuple[Sample, bool]],
) -> None:
    """Store all samples of a session, each with whether its figure was carried through, and
    complete it: all or nothing, and once."""
    rows = [
        sample.model_dump() | {"session": session, "complete": whole} for sample, whole in samples
    ]
    with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE benchmark_sessions SET completed_at = now(), environment_key = %s,"
            " environment = %s WHERE id = %s AND completed_at IS NULL",
            [key, Jsonb(environment), session],
        )
        if cursor.rowcount:
            cursor.executemany(
                "INSERT INTO benchmark_samples (session, figure, unit, side, attempt, round,"
                " position, warm_up, complete, value, raw, load, taken_at) VALUES (%(session)s,"
                " %(figure)s, %(unit)s, %(side)s, %(attempt)s, %(round)s, %(position)s,"
                " %(warm_up)s, %(complete)s, %(value)s, %(raw)s, %(load)s, to_timestamp(%(time)s))",
                rows,
            )


def measured(pool: Pool, suite: str) -> list[Measured]:
    """Every side of every figure of the completed sessions of `suite`, oldest session first."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT session, revision, environment_key, completed_at, figure, unit, side,"
            " array_agg(round ORDER BY round) AS rounds, array_agg(value ORDER BY round) AS values"
            " FROM benchmark_measured WHERE suite = %s"
            " GROUP BY session, revision, environment_key, completed_at, figure, unit, side"
            " ORDER BY completed_at, session, figure, side",
            [suite],
        ).fetchall()
    return [Measured.model_validate(row) for row in rows]


def raw(pool: Pool, session: str, figure: str) -> list[float]:
    """Every single measurement of our tree in a completed session, of which samples are medians."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT raw FROM benchmark_measured"
            " WHERE session = %s AND figure = %s AND side = 'now' ORDER BY round",
            [session, figure],
        ).fetchall()
    return [value for row in rows for value in row["raw"]]


def last_runs(pool: Pool, suites: list[str]) -> dict[str, tuple[str, str]]:
    """Run and revision of the newest completed session of each of `suites` that has one."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT DISTINCT ON (suite) suite, run_id, revision FROM benchmark_sessions"
            " WHERE suite = ANY (%s) AND completed_at IS NOT NULL"
            " ORDER BY suite, completed_at DESC",
            [suites],
        ).fetchall()
    return {row["suite"]: (row["run_id"], row["revision"]) for row in rows}


def last_revision(pool: Pool, suites: list[str]) -> str | None:
    """The revision that the newest completed session of `suites` measured."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT revision FROM benchmark_sessions"
            " WHERE suite = ANY (%s) AND completed_at IS NOT NULL"
            " ORDER BY completed_at DESC LIMIT 1",
            [suites],
        ).fetchone()
    return row["revision"] if row else None
