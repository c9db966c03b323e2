"""The gate: a candidate replaces the champion only when it is better, and nothing else got worse.

Paired bootstrap on the same held-out items (Efron and Tibshirani 1993, ch. 8), then guardrails.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from pydantic import BaseModel, Field

from infra.errors import InputError
from infra.verdicts import Check, Verdict

RESAMPLES = 9999
FEWEST = 8
"""Pairs that a gain is told from. With fewer the bootstrap's interval is too narrow, and lies above
0 whenever all differences do, which chance alone brings about once in 2 to their number."""


class Gate(BaseModel):
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
    max_length_ratio: float = Field(
        default=1.5,
        gt=1,
        title="Largest length ratio",
        description="Mean completion length against the champion's, either way.",
    )
    max_perplexity_ratio: float = Field(
        default=1.5,
        gt=1,
        title="Largest perplexity ratio",
        description="Perplexity on the reference texts against the champion's.",
    )
    max_invalid_increase: float = Field(
        default=0.02,
        ge=0,
        title="Largest increase of invalid outputs",
        description="Share of empty or unfinished completions above the champion's, 0 to 1.",
    )


class Measured(BaseModel):
    """Guardrail measurements of one policy on the held-out items.

    `length` in tokens, `invalid` as a share, `perplexity` on the reference texts.
    """

    length: float
    invalid: float
    perplexity: float


def paired_interval(
    candidate: Sequence[float],
    champion: Sequence[float],
    confidence: float = 0.95,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float, float]:
    """Mean difference of paired rewards and its percentile bootstrap interval (gain, low, high).

    What lies in one of the `groups` errs together, so that whole groups are drawn (Davison and
    Hinkley 1997, section 3.8); without them every pair is drawn by itself. Raises InputError for
    unpaired, empty or non-finite rewards.
    """
    from scipy.stats import bootstrap  # takes longer to import than most runs take to start

    if len(candidate) != len(champion) or len(candidate) == 0:
        raise InputError(
            f"{len(candidate)} candidate rewards against {len(champion)} of the champion",
            "Judge both on the same held-out prompts, at least one.",
        )
    difference = np.asarray(candidate, float) - np.asarray(champion, float)
    if not np.isfinite(difference).all():
        raise InputError(
            "a held-out reward is not a finite number", "Correct the function of --reward."
        )
    gain = float(difference.mean())
    sizes = np.ones(len(difference))
    if groups is not None:
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        place = [numbers[group] for group in groups]
        difference, sizes = np.bincount(place, difference), np.bincount(place).astype(float)
    if np.ptp(difference / sizes) == 0:
        return gain, gain, gain
    interval = bootstrap(
        (difference, sizes),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=1000,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return gain, float(interval.low), float(interval.high)


def judge(
    candidate_rewards: Sequence[float],
    champion_rewards: Sequence[float],
    candidate: Measured,
    champion: Measured,
    kl: float,
    gate: Gate,
) -> Verdict:
    """Compare a candidate with the champion; `kl` is the candidate's to the base, in nats."""
    gain, low, high = paired_interval(candidate_rewards, champion_rewards, gate.confidence)
    length_ratio = _ratio(candidate.length, champion.length)
    length_change = max(length_ratio, 1 / length_ratio) if length_ratio > 0 else math.inf
    invalid_increase = candidate.invalid - champion.invalid
    perplexity_ratio = _ratio(candidate.perplexity, champion.perplexity)
    checks = [
        gain_check(
            f"gain {gain:+.3f}, {gate.confidence:.0%} interval {low:+.3f} to {high:+.3f}, "
            f"lower end must be above {gate.minimum_gain:+.3f}",
            low,
            gate.minimum_gain,
            len(candidate_rewards),
            "held-out prompts are too few",
            "Give more with --held-out.",
        ),
        at_most("KL to the base", kl, gate.max_kl, "nats"),
        at_most("length against the champion", length_change, gate.max_length_ratio, "×"),
        at_most("perplexity ratio", perplexity_ratio, gate.max_perplexity_ratio, "×"),
        at_most("more invalid outputs", invalid_increase, gate.max_invalid_increase, "share"),
    ]
    return Verdict(
        promote=all(check.passed for check in checks),
        gain=gain,
        confidence_interval=(low, high),
        checks=checks,
    )


def gain_check(
    explanation: str, low: float, minimum: float, count: int, too_few: str, remedy: str
) -> Check:
    """Whether a gain's lower end is above `minimum`, told from at least FEWEST pairs.

    `too_few` and `remedy` are said where the `count` of pairs is less.
    """
    enough = count >= FEWEST
    if not enough:
        explanation += f"; {count} {too_few} to be sure of a gain, {FEWEST} are needed. {remedy}"
    passed = enough and low > minimum
    return Check(name="gain", passed=passed, value=low, limit=minimum, explanation=explanation)


def first_version() -> Verdict:
    """The verdict that makes the first version champion: there is nothing to compare it with."""
    check = Check(
        name="first version",
        passed=True,
        value=0,
        limit=0,
        explanation="the first version of this model; there is no champion to compare with",
    )
    return Verdict(promote=True, gain=0, confidence_interval=(0, 0), checks=[check])


def at_most(name: str, value: float, limit: float, unit: str) -> Check:
    """A guardrail: a finite value of at most `limit`."""
    return Check(
        name=name,
        passed=math.isfinite(value) and value <= limit,
        value=value if math.isfinite(value) else -1.0,
        limit=limit,
        explanation=f"{name} {value:.3g} {unit}".rstrip() + f", at most {limit:g}",
    )


def _ratio(value: float, reference: float) -> float:
    if value == reference:
        return 1.0
    return value / reference if reference > 0 else math.inf
