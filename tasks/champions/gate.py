"""The gate: a candidate replaces the champion only when it is better, and nothing else got worse.

Paired bootstrap on the same held-out items (Efron and Tibshirani 1993, ch. 8), then guardrails.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from infra.errors import InputError
from infra.models.verdicts import Check, Verdict

RESAMPLES = 9999
FEWEST = 8
"""Pairs that a gain is told from. With fewer the bootstrap's interval is too narrow, and lies above
0 whenever all differences do, which chance alone brings about once in 2 to their number."""

DEGENERATE = 0.01
"""Of the gain: an interval that is not wider than this share of it is no measure of chance."""


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


def unanimous_interval(wins: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """As `paired_interval`, where a judge let the candidate win every one of so many times, 1 to 0.

    Drawn again these are always the same. The exact binomial interval (Clopper and Pearson 1934)
    tells how often it might have lost all the same.
    """
    return 1.0, 2 * exact_share(wins, wins, confidence)[0] - 1, 1.0


def exact_share(wins: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The bounds of the share of wins, 0 to 1, by Clopper and Pearson 1934."""
    from scipy.stats import binomtest

    low, high = binomtest(wins, count).proportion_ci(confidence, "exact")
    return float(low), float(high)


def gain_check(
    explanation: str,
    interval: tuple[float, float, float],
    minimum: float,
    count: int,
    too_few: str,
    remedy: str,
) -> Check:
    """Whether the lower end of a gain's (gain, low, high) is above `minimum`, told from at least
    FEWEST things that err by themselves.

    `too_few` and `remedy` are said where the `count` of them is less. What gains the same on all of
    them cannot be told from chance by drawing them again.
    """
    gain, low, high = interval
    enough, told = count >= FEWEST, high - low > DEGENERATE * abs(gain)
    if not enough:
        explanation += f"; {count} {too_few} to be sure of a gain, {FEWEST} are needed. {remedy}"
    elif not told:
        explanation += (
            f"; cannot tell: all {count} gain the same, so that the interval has no width. "
            "Look at the answers: a model that always says the same does that"
        )
    passed = enough and told and low > minimum
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
    return _guardrail(name, value, limit, unit, value <= limit, "most")


def at_least(name: str, value: float, limit: float, unit: str) -> Check:
    """A guardrail: a finite value of at least `limit`."""
    return _guardrail(name, value, limit, unit, value >= limit, "least")


def _guardrail(name: str, value: float, limit: float, unit: str, inside: bool, bound: str) -> Check:
    finite = math.isfinite(value)
    return Check(
        name=name,
        passed=finite and inside,
        value=value if finite else -1.0,
        limit=limit,
        explanation=f"{name} {value:.3g} {unit}".rstrip() + f", at {bound} {limit:g}",
    )
