"""The gate of policies: reward on held-out prompts, guardrails against the champion and the base.

A guardrail holds against both, since what gives way a little every night is gone after many.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from infra.contract import Group, JobResult
from infra.models import verdicts
from infra.models.registry import ModelVersion
from infra.models.verdicts import Check, Verdict
from tasks.champions import announce
from tasks.champions.candidate import read_lines
from tasks.champions.gate import (
    FEWEST,
    at_least,
    at_most,
    gain_check,
    paired_interval,
    unanimous_interval,
)
from tasks.runs.run import Work


class Gate(Group):
    """When a candidate is good enough."""

    minimum_gain: float = Field(
        default=0.0,
        title="Minimum gain",
        description="Reward points that the gain must surely exceed.",
    )
    confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        title="Confidence",
        description="Of the gain's interval, 0 to 1.",
    )
    max_kl: float = Field(
        default=40.0,
        gt=0,
        title="Largest KL",
        description="KL divergence to the base policy in nats a completion.",
    )
    max_kl_per_token: float = Field(
        default=0.3,
        gt=0,
        title="Largest KL a token",
        description="KL divergence to the base policy in nats a token, whatever the length.",
    )
    max_length_ratio: float = Field(
        default=1.5,
        gt=1,
        title="Largest length ratio",
        description="Mean completion length against the champion's and the base's, either way.",
    )
    max_length_correlation: float = Field(
        default=0.95,
        gt=0,
        le=1,
        title="Largest correlation with length",
        description="Of the reward with the length of all judged answers, by rank, either way: "
        "beyond this the reward measures length. 1 allows it.",
    )
    max_perplexity_ratio: float = Field(
        default=1.5,
        gt=1,
        title="Largest perplexity ratio",
        description="Perplexity on the reference texts against the champion's and the base's.",
    )
    max_repetition_increase: float = Field(
        default=0.1,
        ge=0,
        title="Largest increase of repetition",
        description="Share of an answer's bigrams that it had before, above the champion's and the "
        "base's, 0 to 1.",
    )
    min_distinct_ratio: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        title="Smallest ratio of distinct bigrams",
        description="Share of distinct bigrams in all answers (distinct-2) against the champion's "
        "and the base's.",
    )
    max_identical_increase: float = Field(
        default=0.1,
        ge=0,
        title="Largest increase of identical answers",
        description="Share of answers that another prompt was given, too, above the champion's and "
        "the base's, 0 to 1.",
    )
    max_compression_ratio: float = Field(
        default=1.5,
        gt=1,
        title="Largest ratio of compression",
        description="How far all answers together can be compressed against the champion's and the "
        "base's.",
    )
    max_unfinished: float = Field(
        default=0.5,
        ge=0,
        le=1,
        title="Most unfinished answers",
        description="Share of completions that are cut at their largest length, whatever the "
        "champion's and the base's, 0 to 1.",
    )
    max_invalid_increase: float = Field(
        default=0.02,
        ge=0,
        title="Largest increase of invalid outputs",
        description="Share of empty or unfinished completions above the champion's and the base's, "
        "0 to 1.",
    )


CONVERGED = (
    "converged: a whole training brought no sure gain over a champion that is surely better than "
    "the base; other prompts or another reward may bring more"
)
REFERENCES = ("champion", "base")
Compared = Callable[[float, float], float]
"""What is made of the candidate's measure and a reference's."""


def judge(rows: Sequence[dict[str, Any]], metrics: dict[str, float], gate: Gate) -> Verdict:
    """Compare a candidate with champion and base by an evaluation's rows and metrics."""
    groups = [group_of(row) for row in rows]
    ours, theirs = ([row[side]["reward"] for row in rows] for side in ("candidate", "champion"))
    if all("win" in row for row in rows) and set(ours) == {1} and set(theirs) == {0}:
        interval = unanimous_interval(len(set(groups)), gate.confidence)
    else:
        interval = paired_interval(ours, theirs, gate.confidence, groups)
    gain, low, high = interval

    def both(measure: str, compared: Compared) -> dict[str, float]:
        ours = metrics[f"candidate_{measure}"]
        return {side: compared(ours, metrics[f"{side}_{measure}"]) for side in REFERENCES}

    unfinished = _explained(
        at_most(
            "unfinished answers", metrics["candidate_unfinished"], gate.max_unfinished, "share"
        ),
        "raise --max-new-tokens, or let shorter ones be learnt",
    )
    checks = [
        gain_check(
            f"gain {gain:+.3f}, {gate.confidence:.0%} interval {low:+.3f} to {high:+.3f}, "
            f"lower end must be above {gate.minimum_gain:+.3f}",
            interval,
            gate.minimum_gain,
            len(set(groups)),
            "held-out prompts, or groups of them, are too few",
            "Give more with --held-out.",
        ),
        at_most("KL to the base", metrics["kl"], gate.max_kl, "nats"),
        at_most(
            "KL to the base",
            metrics["kl"] / max(metrics["candidate_length"], 1),
            gate.max_kl_per_token,
            "nats a token",
        ),
        *_at_most("length", both("length", _either_way), gate.max_length_ratio, "×"),
        _length_check(rows, gate.max_length_correlation),
        *_at_most("perplexity", both("perplexity", _ratio), gate.max_perplexity_ratio, "×"),
        *_at_most(
            "more repetition", both("repetition", _more), gate.max_repetition_increase, "share"
        ),
        *(
            at_least(f"distinct bigrams against the {side}", value, gate.min_distinct_ratio, "×")
            for side, value in both("distinct", _ratio).items()
        ),
        *_at_most(
            "more identical answers",
            both("identical", _more),
            gate.max_identical_increase,
            "share",
        ),
        *_at_most("compression", both("compression", _ratio), gate.max_compression_ratio, "×"),
        unfinished,
        *_at_most(
            "more invalid outputs", both("invalid", _more), gate.max_invalid_increase, "share"
        ),
    ]
    return Verdict(
        promote=all(check.passed for check in checks),
        gain=gain,
        confidence_interval=(low, high),
        checks=checks,
    )


def has_converged(rows: Sequence[dict[str, Any]], verdict: Verdict, gate: Gate) -> bool:
    """Whether only the gain is missing, over a champion that is surely better than the base: what
    there was to gain has been gained before."""
    groups = [group_of(row) for row in rows]
    gain, *others = verdict.checks
    if gain.passed or not all(check.passed for check in others) or len(set(groups)) < FEWEST:
        return False
    champion, base = ([row[side]["reward"] for row in rows] for side in REFERENCES)
    return paired_interval(champion, base, gate.confidence, groups)[1] > 0


def group_of(row: dict[str, Any]) -> str:
    """What errs together: the column `group` of a held-out prompt, else its text."""
    return str(row["columns"].get("group") or " ".join(row["prompt"].lower().split()))


def _at_most(name: str, values: dict[str, float], limit: float, unit: str) -> list[Check]:
    return [
        at_most(f"{name} against the {side}", value, limit, unit) for side, value in values.items()
    ]


def _length_check(rows: Sequence[dict[str, Any]], limit: float) -> Check:
    """Spearman's rank correlation of the reward with the length in tokens or in letters, the
    larger one, over the answers of all policies."""
    from scipy.stats import spearmanr

    answers = {
        (answer["completion"], answer["length"], answer["reward"])
        for row in rows
        for answer in (row["candidate"], *(row[side] for side in REFERENCES))
    }
    rewards = [reward for _, _, reward in answers]
    found = 0.0
    for lengths in ([len(text) for text, _, _ in answers], [length for _, length, _ in answers]):
        if len(answers) > 2 and len(set(lengths)) > 1 and len(set(rewards)) > 1:
            found = max(found, abs(float(spearmanr(lengths, rewards).statistic)))
    return _explained(
        at_most("correlation of reward and length", found, limit, ""),
        "the reward says little but how long an answer is",
    )


def _explained(check: Check, told: str) -> Check:
    """The check, which says so besides where it fails."""
    if check.passed:
        return check
    return check.model_copy(update={"explanation": f"{check.explanation}: {told}"})


def _ratio(value: float, reference: float) -> float:
    if value == reference:
        return 1.0
    return value / reference if reference > 0 else math.inf


def _either_way(value: float, reference: float) -> float:
    ratio = _ratio(value, reference)
    return max(ratio, 1 / ratio) if ratio > 0 else math.inf


def _more(value: float, reference: float) -> float:
    return value - reference


@task(name="judge", cache_policy=NO_CACHE)
def judge_candidate(
    work: Work[Any], champion: ModelVersion, candidate: ModelVersion, evaluation: JobResult
) -> Verdict:
    """The verdict, stored before anything moves."""
    rows = read_lines(evaluation.artifacts["evaluation"])
    gate = work.parameters.gate
    verdict = judge(rows, evaluation.metrics, gate)
    if has_converged(rows, verdict, gate) and not candidate.metrics.get("cut_at_window"):
        gained = _explained(verdict.checks[0], CONVERGED)
        verdict = verdict.model_copy(update={"checks": [gained, *verdict.checks[1:]]})
    verdicts.save(work.pool, work.run, champion.model, candidate.version, champion.version, verdict)
    announce.judged(candidate, champion.version, verdict)
    return verdict
