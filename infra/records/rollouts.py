"""Rollouts: which challenger gets which share of a live endpoint's requests, and how that ended.

    loading → canary → promoting → finished
         └───────┴──→ rolled back ←┘ (another champion came between)

Each move is one statement that tells whether it was still possible: somebody else may have ended
the rollout meanwhile.
"""

from datetime import datetime, timedelta
from typing import Any, Literal

import psycopg
from pydantic import BaseModel, ConfigDict

from infra.database import Pool
from infra.errors import AlreadyRunning

State = Literal["loading", "canary", "promoting", "finished", "rolled back"]
BEFORE: dict[State, tuple[State, ...]] = {
    "canary": ("loading", "canary"),
    "promoting": ("canary", "promoting"),
    "finished": ("promoting",),
    "rolled back": ("loading", "canary", "promoting"),
}
"""State → those that it can follow."""
LEASE = timedelta(seconds=30)
"""A challenger that nobody has judged for so long gets no more requests."""


class Rollout(BaseModel):
    """A rollout. `champion` and `challenger` are versions of `model`, `share` is of its requests, 0
    to 1, `answered_before` the last interaction before it began."""

    model_config = ConfigDict(frozen=True)

    id: int
    model: str
    champion: str
    challenger: str
    state: State
    share: float
    answered_before: int
    reason: str | None
    begun_at: datetime
    ended_at: datetime | None

    def __str__(self) -> str:
        return f"the rollout of version {self.challenger} of {self.model}"


class Outcome(BaseModel):
    """How a request ended. `by_challenger`: who it was for; `asked_by_us`: a held-out prompt of the
    rollout itself; `latency` in ms, `at` when it ended."""

    model_config = ConfigDict(frozen=True)

    id: int
    by_challenger: bool
    asked_by_us: bool
    failed: bool
    latency: float
    at: datetime


class Opinion(BaseModel):
    """What users think of an answer, 0 to 1; `at` is when the first said so."""

    model_config = ConfigDict(frozen=True)

    id: int
    by_challenger: bool
    score: float
    at: datetime


def begin(pool: Pool, model: str, champion: str, challenger: str) -> Rollout:
    """A new rollout, `loading`. Raises AlreadyRunning where one of the model is open."""
    try:
        with pool.connection() as connection:
            row = connection.execute(
                "INSERT INTO rollouts (model, champion, challenger, answered_before) VALUES"
                " (%s, %s, %s, (SELECT coalesce(max(id), 0) FROM interactions))"
                " RETURNING *",
                [model, champion, challenger],
            ).fetchone()
    except psycopg.errors.UniqueViolation:
        raise AlreadyRunning(
            f"another rollout of {model} has begun", "Wait until it has ended."
        ) from None
    return Rollout.model_validate(row)


def unended(pool: Pool, model: str | None = None) -> list[Rollout]:
    """Those that have not ended: of one model at most one."""
    with pool.connection() as connection:
        rows = connection.execute(
            "SELECT * FROM rollouts WHERE ended_at IS NULL"
            " AND (%(model)s::text IS NULL OR model = %(model)s) ORDER BY id",
            {"model": model},
        ).fetchall()
    return [Rollout.model_validate(row) for row in rows]


def move(
    pool: Pool, rollout: Rollout, state: State, share: float = 0, reason: str | None = None
) -> Rollout | None:
    """The rollout in its next state; None where it cannot follow the present one any more."""
    with pool.connection() as connection:
        row = connection.execute(
            "UPDATE rollouts SET state = %(state)s, share = %(share)s, reason = %(reason)s,"
            " watched_at = now(), ended_at = CASE WHEN %(ends)s THEN now() END"
            " WHERE id = %(id)s AND state = ANY (%(before)s) RETURNING *",
            {
                "id": rollout.id,
                "state": state,
                "share": share,
                "reason": reason,
                "ends": state in ("finished", "rolled back"),
                "before": list(BEFORE[state]),
            },
        ).fetchone()
    return Rollout.model_validate(row) if row else None


def watch(pool: Pool, rollout: Rollout) -> Rollout:
    """Say that it is being judged still; as it is now."""
    with pool.connection() as connection:
        row = connection.execute(
            "UPDATE rollouts SET watched_at = now() WHERE id = %s RETURNING *",
            [rollout.id],
        ).fetchone()
    return Rollout.model_validate(row)


def split(pool: Pool, model: str, champion: str) -> tuple[str, float] | None:
    """Challenger and its share beside this champion, while somebody judges it."""
    with pool.connection() as connection:
        row = connection.execute(
            "SELECT challenger, share FROM rollouts WHERE model = %s AND champion = %s"
            " AND ended_at IS NULL AND watched_at > now() - %s",
            [model, champion, LEASE],
        ).fetchone()
    return (row["challenger"], row["share"]) if row else None


def outcomes(pool: Pool, rollout: Rollout, after: int) -> list[Outcome]:
    """How requests for either version ended, those stored after the interaction `after`, in the
    order in which they were stored."""
    rows = _asked(
        pool,
        rollout,
        "SELECT id, model_version = %(challenger)s AS by_challenger,"
        " tenant LIKE '@%%' AS asked_by_us, finish_reason = 'error' AS failed,"
        " latency_ms AS latency, created_at AS at FROM interactions"
        " WHERE model = %(model)s AND model_version IN (%(champion)s, %(challenger)s)"
        " AND source = 'served' AND id > greatest(%(after)s, %(before)s)"
        " AND finish_reason IS NOT NULL AND latency_ms IS NOT NULL ORDER BY id",
        after,
    )
    return [Outcome.model_validate(row) for row in rows]


def opinions(pool: Pool, rollout: Rollout, after: int) -> list[Opinion]:
    """Feedback of more than the number `after` on answers of either version, in its order. A
    correction says as much as a thumb down."""
    rows = _asked(
        pool,
        rollout,
        "SELECT f.id, i.model_version = %(challenger)s AS by_challenger, f.created_at AS at,"
        " CASE f.kind WHEN 'thumb' THEN (f.value + 1) / 2 WHEN 'rating' THEN (f.value - 1) / 4"
        " ELSE 0 END AS score FROM feedback f JOIN interactions i ON i.id = f.interaction_id"
        " WHERE i.model = %(model)s AND i.model_version IN (%(champion)s, %(challenger)s)"
        " AND i.id > %(before)s AND f.id > %(after)s"
        " AND f.kind IN ('thumb', 'rating', 'correction') ORDER BY f.id",
        after,
    )
    return [Opinion.model_validate(row) for row in rows]


def _asked(pool: Pool, rollout: Rollout, query: str, after: int) -> list[dict[str, Any]]:
    values = {
        "model": rollout.model,
        "champion": rollout.champion,
        "challenger": rollout.challenger,
        "before": rollout.answered_before,
        "after": after,
    }
    with pool.connection() as connection:
        return connection.execute(query.encode(), values).fetchall()
