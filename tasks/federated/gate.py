"""The gate of federated models: candidate against champion, or against each tenant by itself.

Tenants judge on their own held-out rows, and tell counts only: how many rows are right for one
model and not for the other. From these the rows' differences are known, but not which row is which.
Queries of an encoder err together where they are of one group: its interval is clustered by group.
"""

import math
from typing import Any, NamedTuple

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


class Measure(NamedTuple):
    """What a kind of model is judged by: the share of its held-out `rows` that are right, and a
    `second` score of each tenant under `key`; what is said where they are too few for an interval.
    """

    name: str
    rows: str
    second: str
    key: str
    too_few: str
    remedy: str


ACCURACY = Measure(
    "accuracy",
    "held-out rows",
    "AUC",
    "auc",
    "held-out rows are too few",
    "Give more rows: a third of them is held out.",
)
RECALL = Measure(
    "recall@1",
    "queries",
    "recall@5",
    "recall5",
    "groups that were asked for, by tenant, are too few",
    "Give items of more groups: those of one group err together.",
)


def measure_of(parameters: FederatedParameters) -> Measure:
    """Recall of an encoder, accuracy of all else."""
    return RECALL if parameters.group else ACCURACY


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
    measure = measure_of(parameters)
    interval, count = gain_of(rows, other, gate.gate_confidence)
    gain, low, high = interval
    checks = [
        gain_check(
            f"{measure.name} {gain:+.4f} over the {called}, {gate.gate_confidence:.0%} interval "
            f"{low:+.4f} to {high:+.4f}, lower end must be above {gate.minimum_gain:+.4f}",
            interval,
            gate.minimum_gain,
            count,
            measure.too_few,
            measure.remedy,
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


def gain_of(
    rows: list[dict[str, Any]], other: str, confidence: float = 0.95
) -> tuple[tuple[float, float, float], int]:
    """(gain, low, high) over all held-out rows, and how many things that err by themselves it is
    told from: rows, or of an encoder groups of queries."""
    if all("groups" in row for row in rows):
        return clustered_interval(rows, other, confidence), int(sum(r["groups"] for r in rows))
    ours, theirs = outcomes(rows, other)
    return paired_interval(ours, theirs, confidence), len(ours)


def clustered_interval(
    rows: list[dict[str, Any]], other: str, confidence: float
) -> tuple[float, float, float]:
    """Mean gain of a query, and its interval by the variance of a ratio over groups that are drawn
    whole (Cochran 1977, section 9A.1), with Student's t on groups less one. The tenants tell sums
    over their groups, so that no single one is known here."""
    from scipy.stats import t

    def total(name: str) -> float:
        return sum(float(row[name]) for row in rows)

    queries, groups = total("held-out"), total("groups")
    gain = (total(f"{other}-won") - total(f"{other}-lost")) / queries
    squares = total(f"{other}-gains-gains") - 2 * gain * total(f"{other}-gains-sizes")
    squares += gain**2 * total("sizes-sizes")
    if groups < 2 or squares <= 0:
        return gain, gain, gain
    error = math.sqrt(squares * groups / (groups - 1)) / queries
    reach = float(t.ppf((1 + confidence) / 2, groups - 1)) * error
    return gain, gain - reach, gain + reach


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
