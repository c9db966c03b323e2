"""Runs of flows, remembered so that a killed one is finished by the next start."""

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import uuid4

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from infra.database import Pool, is_exclusive
from infra.database.keys import whole_key

BEGUN = "SELECT id FROM runs WHERE flow = %s AND fingerprint = %s AND state = 'begun'"


class Run(BaseModel):
    """One run of a flow. `resumed`: an earlier process began it and did not end it."""

    model_config = ConfigDict(frozen=True)

    id: str
    flow: str
    resumed: bool


def exclusive_right(run_id: str) -> str:
    """What the process that works at a run holds in `database.exclusive`."""
    return f"run {run_id}"


def begun(pool: Pool, flow: str, identity: dict[str, Any]) -> str | None:
    """The id of the begun run of `flow` with this identity, which `begin` would take up."""
    with pool.connection() as connection:
        row = connection.execute(BEGUN, [flow, _fingerprint(identity)]).fetchone()
    return row["id"] if row else None


def begin(pool: Pool, flow: str, identity: dict[str, Any]) -> Run:
    """The begun run of `flow` with the same identity, or a new one.

    `identity` is what makes two starts the same work: the parameters that shape the result and
    the checksums of the files they name, as JSON values.
    """
    fingerprint = _fingerprint(identity)
    fresh = f"{flow}-{uuid4().hex[:8]}"
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO runs (id, flow, parameters, fingerprint) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (flow, fingerprint) WHERE state = 'begun' DO NOTHING",
            [fresh, flow, Jsonb(identity), fingerprint],
        )
        row = connection.execute(BEGUN, [flow, fingerprint]).fetchone()
    assert row is not None
    return Run(id=row["id"], flow=flow, resumed=row["id"] != fresh)


def _fingerprint(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def flow_of(run_id: str) -> str:
    """The flow of a run, by its id."""
    return run_id.rpartition("-")[0]


def end(pool: Pool, run: Run, state: str, report: dict[str, Any] | None = None) -> None:
    """Close a run as 'finished' or 'failed'; a closed run stays as it is."""
    with pool.connection() as connection:
        connection.execute(
            "UPDATE runs SET state = %s, ended_at = now(), report = %s"
            " WHERE id = %s AND state = 'begun'",
            [state, Jsonb(report), run.id],
        )


class RunRecord(BaseModel):
    """A run as the database has it. `name`: of the model that it is about.

    `state`: begun, interrupted (the next start of the same goes on), finished or failed. `error`:
    what the last process that worked at it said if it ended by an error, or that it was killed.
    """

    id: str
    flow: str
    name: str | None
    state: str
    error: str | None
    begun_at: datetime
    ended_at: datetime | None
    report: dict[str, Any] | None


SELECT_RECORD = (
    "SELECT id, flow, parameters->>'name' AS name, state, error, flow_run, begun_at, ended_at,"
    " report FROM runs"
)


def newest(pool: Pool, limit: int) -> list[RunRecord]:
    """The newest runs, the latest first."""
    with pool.connection() as connection:
        rows = connection.execute(
            f"{SELECT_RECORD} ORDER BY begun_at DESC, id LIMIT %s", [limit]
        ).fetchall()
    return [_record(row) for row in rows]


def find_one(pool: Pool, ending: str) -> RunRecord:
    """The one run whose id ends so. Raises InputError for none or several."""
    remedy = "`nightshift runs list` shows the ids."
    id_ = whole_key(pool, "runs", "id", ending, argument="RUN", remedy=remedy)
    with pool.connection() as connection:
        row = connection.execute(f"{SELECT_RECORD} WHERE id = %s", [id_]).fetchone()
    assert row is not None
    return _record(row)


def _record(row: dict[str, Any]) -> RunRecord:
    error = row["error"]
    if row["state"] == "begun" and row["flow_run"] and not is_exclusive(exclusive_right(row["id"])):
        error = "Its process was killed."
    interrupted = row["state"] == "begun" and error is not None
    state = "interrupted" if interrupted else row["state"]
    return RunRecord.model_validate(row | {"state": state, "error": error})


def held_out(pool: Pool, ids: list[str]) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Of runs that have a report: which version was the candidate, and its held-out scores."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT id, report->>'candidate' AS candidate, report->'scores' AS scores FROM runs"
            " WHERE id = ANY (%s) AND jsonb_typeof(report->'scores') = 'array'",
            [ids],
        ).fetchall()
    return {row["id"]: (row["candidate"], row["scores"]) for row in rows}


def reports(pool: Pool, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The reports of runs that judged a candidate, by their ids."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT id, report FROM runs WHERE id = ANY (%s) AND report ? 'candidate'", [list(ids)]
        ).fetchall()
    return {row["id"]: row["report"] for row in rows}


def swap_flow_run(
    pool: Pool, run: Run, flow_run: str | None, error: str | None = None
) -> str | None:
    """Store which flow run works at a run, None once its process has ended by itself, and the error
    that it ended with; the last one that worked at it.

    Only for who holds the run's lock: where there is a last one, its process was killed.
    """
    with pool.connection() as connection:
        row = connection.execute(
            "UPDATE runs SET flow_run = %s, error = %s"
            " FROM (SELECT id, flow_run FROM runs WHERE id = %s) last"
            " WHERE runs.id = last.id RETURNING last.flow_run",
            [flow_run, error, run.id],
        ).fetchone()
    assert row is not None
    return row["flow_run"]


def begun_by_flow_runs(pool: Pool) -> list[dict[str, Any]]:
    """`id`, `flow` and `flow_run` of runs that a flow run works at, or did when it was killed."""
    with pool.connection() as connection:
        return connection.execute(
            "SELECT id, flow, flow_run FROM runs WHERE state = 'begun' AND flow_run IS NOT NULL"
            " ORDER BY begun_at"
        ).fetchall()


def others_that_pinned(pool: Pool, run: Run, name: str, value: dict[str, Any]) -> list[str]:
    """Ids of other begun runs that have pinned a `name` that holds `value`."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT id FROM runs WHERE state = 'begun' AND id <> %s AND pinned -> %s @> %s",
            [run.id, name, Jsonb(value)],
        ).fetchall()
    return [row["id"] for row in rows]


def pin(pool: Pool, run: Run, name: str, value: Any) -> Any:
    """Fix `name` for this run: the first value that was pinned, in whichever process."""
    with pool.connection() as connection:
        row = connection.execute(
            "UPDATE runs SET pinned = %s || pinned WHERE id = %s RETURNING pinned -> %s AS value",
            [Jsonb({name: value}), run.id, name],
        ).fetchone()
    assert row is not None
    return row["value"]
