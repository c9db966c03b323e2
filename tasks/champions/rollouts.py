"""How a rollout ends, whoever ends it: who watched it, its next start, the cost guard, a person.

Who works at the rollouts of a model holds their lock; what is open without it was left by a process
that is dead.
"""

import contextlib

from infra import database
from infra.database import Pool
from infra.errors import AlreadyRunning, NightshiftError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.models.target import own_target
from infra.records import rollouts
from infra.records.rollouts import Rollout
from tasks.champions import announce

LEFT = "the process that judged it was killed"


def lock(model: str) -> contextlib.AbstractContextManager[None]:
    """Held by the process that works at a model's rollouts; AlreadyRunning for everybody else."""
    return database.exclusive(f"a rollout of {model}")


def complete(pool: Pool, rollout: Rollout) -> Rollout | None:
    """Let the challenger of a `promoting` rollout be champion, and hand it to the serving target;
    None where it was ended meanwhile.

    Not where another version became champion after it began: then it is rolled back. Safe to
    repeat. Raises GateError, StorageFull and IntegrityError.
    """
    champion = registry.by_alias(rollout.model, "champion")
    now = champion.version if champion else "none"
    if now not in (rollout.champion, rollout.challenger):
        return rollouts.move(pool, rollout, "rolled back", reason=f"version {now} became champion")
    registry.promote(rollout.model, rollout.challenger)
    own_target().deploy(challenger(rollout))
    return rollouts.move(pool, rollout, "finished", 1)


def challenger(rollout: Rollout) -> ModelVersion:
    """The version that it is about."""
    return registry.named(f"{rollout.model}@{rollout.challenger}")


def settle_dead(pool: Pool, dry_run: bool) -> list[str]:
    """End the rollouts that nobody works at, a line each: forward once they were decided, else
    back."""
    done = []
    for rollout in rollouts.unended(pool):
        try:
            with lock(rollout.model):
                forward = rollout.state == "promoting"
                if not dry_run:
                    end = complete(pool, rollout) if forward else take_back(pool, rollout, LEFT)
                    forward = end is not None and end.state == "finished"
                    if forward:
                        announce.promoted(challenger(rollout))
                done.append(f"{rollout}: {LEFT}; {'finished' if forward else 'rolled back'}")
        except AlreadyRunning:
            continue
        except NightshiftError as error:
            done.append(f"{rollout} cannot be finished: {error.message}")
    return done


def take_back(pool: Pool, rollout: Rollout, reason: str) -> Rollout | None:
    """Leave the champion alone again; None where it has ended before."""
    return rollouts.move(pool, rollout, "rolled back", reason=reason)


def withdraw(pool: Pool, model: str, reason: str) -> Rollout | None:
    """End what a model's rollout has not decided yet, for a person; None where there is nothing.

    What is decided is finished first, since nobody can tell which version serves meanwhile. Raises
    AlreadyRunning where its process is at it this moment.
    """
    for rollout in rollouts.unended(pool, model):
        if rollout.state != "promoting":
            ended = take_back(pool, rollout, reason)
            if ended is not None:
                return ended
        with lock(model):
            for left in rollouts.unended(pool, model):
                complete(pool, left)
    return None
