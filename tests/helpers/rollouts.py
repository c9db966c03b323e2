"""Rollouts in a database: what a killed process left, how the last one ended, who is champion."""

from infra.database import Pool
from infra.models import registry
from infra.records import rollouts
from infra.records.rollouts import Rollout

ANSWER = """
INSERT INTO interactions (model, model_version, tenant, prompt, completion, prompt_token_ids,
    completion_token_ids, logprobs, finish_reason, latency_ms)
VALUES (%s, %s, %s, 'a', 'b', '{}', '{}', '{}', %s, %s)
"""


def aliases(model: str) -> dict[str, list[str]]:
    return {one.version: one.aliases for one in registry.versions(model)}


def last(pool: Pool) -> Rollout:
    with pool.connection() as connection:
        row = connection.execute("SELECT * FROM rollouts ORDER BY id DESC LIMIT 1").fetchone()
    return Rollout.model_validate(row)


def killed(pool: Pool, model: str, state: str, share: float) -> Rollout:
    """What a process left that was killed in this state."""
    left = rollouts.begin(pool, model, "1", "2")
    if state != "loading":
        left = rollouts.move(pool, left, "canary", share)
    if state == "promoting":
        assert left is not None
        left = rollouts.move(pool, left, "promoting", 1)
    assert left is not None
    return left
