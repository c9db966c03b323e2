"""The gate of surrogates: candidate against champion, or the handbook, by climates."""

from collections import defaultdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import JobResult
from infra.models import verdicts
from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict
from jobs.surrogate.config import LOADS
from tasks.champions import announce
from tasks.champions.candidate import read_lines
from tasks.champions.gate import at_most, gain_check, paired_interval
from tasks.runs.run import Work
from tasks.surrogate.parameters import SurrogateParameters

HANDBOOK = "handbook"
"""What a first version must beat: the loads by degree hours."""


@task(name="judge", cache_policy=NO_CACHE)
def judge_candidate(
    work: Work[Any], champion: ModelVersion | None, candidate: ModelVersion, evaluation: JobResult
) -> Verdict:
    """The verdict, stored before anything moves."""
    rows = read_lines(evaluation.artifacts["evaluation"])
    verdict = judge(rows, evaluation.metrics, champion is not None, work.parameters)
    against = champion.label(candidate.model) if champion else "none"
    verdicts.save(work.pool, work.run, candidate.model, candidate.version, against, verdict)
    announce.judged(candidate, against, verdict)
    return verdict


def judge(
    rows: list[dict[str, Any]],
    metrics: dict[str, float],
    has_champion: bool,
    parameters: SurrogateParameters,
) -> Verdict:
    """Compare a candidate with the champion, a first one with the handbook, by climates."""
    gate, confidence = parameters.gate, parameters.training.confidence
    other = "champion" if has_champion else HANDBOOK
    ours = accuracies(rows, "candidate")
    interval = paired_interval(ours, accuracies(rows, other), gate.gate_confidence)
    gain, low, high = interval
    coverage = metrics["candidate_coverage"]
    checks = [
        gain_check(
            f"accuracy {gain:+.4f} over the {other}, {gate.gate_confidence:.0%} interval "
            f"{low:+.4f} to {high:+.4f}, lower end must be above {gate.minimum_gain:+.4f}",
            interval,
            gate.minimum_gain,
            len(ours),
            "held-out climates are too few",
            "Raise --climates: a fifth is held out.",
        ),
        at_most("error of the loads", metrics["candidate_error"], gate.max_error, "of their mean"),
        at_most(
            f"coverage {coverage:.1%}, off {confidence:.0%} by",
            abs(coverage - confidence),
            gate.max_coverage_gap,
            "",
        ),
        at_most("energy imbalance", metrics["candidate_balance"], gate.max_imbalance, "of designs"),
        at_most("broken physics", metrics["candidate_broken"], gate.max_broken, "of designs"),
    ]
    if "champion_old_error" in metrics:
        ratio = metrics["candidate_old_error"] / metrics["champion_old_error"]
        limit = gate.max_old_error_ratio
        checks.append(at_most("error on earlier climates", ratio, limit, "× the champion's"))
    return Verdict(
        promote=all(check.passed for check in checks),
        gain=gain,
        confidence_interval=(low, high),
        checks=checks,
    )


def accuracies(rows: list[dict[str, Any]], side: str) -> list[float]:
    """1 − error of the measured loads over their mean in all rows, for each climate by itself.

    Designs in one climate err together, so climates are what the bootstrap draws.
    """
    loads = [[v for v in row["truth"][:LOADS] if v is not None] for row in rows]
    known = [value for each in loads for value in each]
    scale = sum(known) / len(known)
    errors: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        pairs = zip(row[side]["mean"][:LOADS], row["truth"][:LOADS], strict=True)
        differences = [abs(mean - truth) for mean, truth in pairs if truth is not None]
        errors[row["climate"]].append(sum(differences) / len(differences))
    return [1 - sum(each) / len(each) / scale for each in errors.values()]
