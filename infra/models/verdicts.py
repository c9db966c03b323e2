"""Verdicts of the gate: no alias moves without one."""

from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict

from infra.database import Pool
from infra.errors import GateError
from infra.records.runs import Run


class Check(BaseModel):
    """One condition of the gate: its measured `value` against its `limit`, and the outcome."""

    model_config = ConfigDict(frozen=True)

    name: str
    passed: bool
    value: float
    limit: float
    explanation: str


class Verdict(BaseModel):
    """Whether a candidate replaces the champion, and why.

    `gain` and `confidence_interval` are in reward points per item, candidate minus champion.
    """

    model_config = ConfigDict(frozen=True)

    promote: bool
    gain: float
    confidence_interval: tuple[float, float]
    checks: list[Check]

    @property
    def reason(self) -> str:
        """One sentence: what decided."""
        failed = [check.explanation for check in self.checks if not check.passed]
        if failed:
            return "not promoted: " + "; ".join(failed)
        return "promoted: " + "; ".join(check.explanation for check in self.checks)


class Judged(BaseModel):
    """A stored verdict: on which candidate, against which champion, by which run."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    candidate: str
    champion: str
    verdict: Verdict
    created_at: datetime


def save(pool: Pool, run: Run, model: str, candidate: str, champion: str, verdict: Verdict) -> None:
    """Store a run's verdict on a candidate; the first one stored stays."""
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO verdicts (run_id, model, candidate, champion, promote, verdict)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (run_id, model, candidate) DO NOTHING",
            [
                run.id,
                model,
                candidate,
                champion,
                verdict.promote,
                Jsonb(verdict.model_dump(mode="json")),
            ],
        )


def require(pool: Pool, model: str, candidate: str) -> None:
    """Raises GateError unless a stored verdict lets version `candidate` of `model` be champion."""
    with pool.connection() as connection:
        row: dict[str, Any] | None = connection.execute(
            "SELECT 1 AS yes FROM verdicts WHERE model = %s AND candidate = %s AND promote",
            [model, candidate],
        ).fetchone()
    if row is None:
        raise GateError(
            f"no stored verdict lets version {candidate} of {model} be champion",
            "Let a flow judge it: a version is promoted only with a verdict that says so.",
        )


def promotions(pool: Pool, model: str) -> list[Judged]:
    """The stored verdicts that let a version of `model` be champion, oldest first."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT run_id, candidate, champion, verdict, created_at FROM verdicts"
            " WHERE model = %s AND promote ORDER BY created_at, id",
            [model],
        ).fetchall()
    return [Judged.model_validate(row) for row in rows]
