"""The gate of federated models: candidate against champion, or against each tenant by itself.

Tenants judge on their own held-out rows, and tell counts only: how many rows are right for one
model and not for the other. From these the rows' differences are known, but not which row is which.
"""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult
from infra.models import verdicts
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from tasks.champions import announce
from tasks.champions.candidate import read_lines
from tasks.champions.gate import at_least, at_most, gain_check, paired_interval
from tasks.federated.parameters import FederatedParameters
from tasks.runs.run import Work

LOCAL = "local"
"""What a first version must beat: the model that each tenant trains of its own rows alone."""


@task(name="judge", cache_policy=NO_CACHE)
def judge_candidate(
    work: Work[FederatedParameters],
    champion: ModelVersion | None,
    candidate: ModelVersion,
    trained: JobResult,
) -> Verdict:
    """The verdict, stored before anything moves."""
    rows = judged_rows(trained)
    verdict = judge(rows, champion is not None, work.parameters)
    against = champion.version if champion else "none"
    verdicts.save(work.pool, work.run, candidate.model, candidate.version, against, verdict)
    announce.judged(candidate, against, verdict)
    return verdict


def judged_rows(trained: JobResult) -> list[dict[str, Any]]:
    """The counts of the tenants that have judged, one row each."""
    rows = read_lines(trained.artifacts["evaluation"])
    return [row for row in rows if "refused" not in row]


def judge(
    rows: list[dict[str, Any]], has_champion: bool, parameters: FederatedParameters
) -> Verdict:
    """Surely better over all tenants' rows, and no tenant falls by more than it may."""
    gate = parameters.gate
    other, called = ("champion", "champion") if has_champion else (LOCAL, "local-only models")
    ours, theirs = outcomes(rows, other)
    interval = paired_interval(ours, theirs, gate.gate_confidence)
    gain, low, high = interval
    checks = [
        gain_check(
            f"accuracy {gain:+.4f} over the {called}, {gate.gate_confidence:.0%} interval "
            f"{low:+.4f} to {high:+.4f}, lower end must be above {gate.minimum_gain:+.4f}",
            interval,
            gate.minimum_gain,
            len(ours),
            "held-out rows are too few",
            "Give more rows: a third of them is held out.",
        ),
        at_least("tenants that judged", len(rows), parameters.rounds.minimum_tenants, ""),
        *(
            at_most(f"loss of {row['tenant']}", -tenant_gain(row, other), gate.max_tenant_loss, "")
            for row in rows
        ),
    ]
    return Verdict(
        promote=all(check.passed for check in checks),
        gain=gain,
        confidence_interval=(low, high),
        checks=checks,
    )


def tenant_gain(row: dict[str, Any], other: str) -> float:
    """Held-out accuracy that one tenant gains over another model."""
    return (row[f"{other}-won"] - row[f"{other}-lost"]) / row["held-out"]


def outcomes(rows: list[dict[str, Any]], other: str) -> tuple[list[float], list[float]]:
    """Rightness (1 or 0) of the candidate and of the other model, one pair a held-out row."""
    ours: list[float] = []
    theirs: list[float] = []
    for row in rows:
        won, lost = int(row[f"{other}-won"]), int(row[f"{other}-lost"])
        both = int(row["candidate-right"]) - won
        neither = int(row["held-out"]) - won - lost - both
        ours += [1.0] * (won + both) + [0.0] * (lost + neither)
        theirs += [0.0] * won + [1.0] * (both + lost) + [0.0] * neither
    return ours, theirs
