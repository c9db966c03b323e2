"""What samples of two sides say of each other: pure functions of numbers.

Both sides are measured in the same rounds, in random order, so that what disturbs the machine
falls on both. Where both are the same code, each is then as likely to be the larger in any round:
the interval of the median of the ratios is exact, whatever the noise. A change is only told where
its interval leaves no change out and it is as large as matters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np

Better = Literal["more", "less"]
"""Whether more of a figure is better, as of a rate, or less, as of a time."""
Kind = Literal["faster", "slower", "same", "cannot tell"]

FALSE_ALARMS = 0.02
"""At most this share of comparisons of the same code tells of a change."""
SHARES = (0.25, 0.5, 1)
"""Of the rounds, after which it is looked whether the verdict is sure already."""
CONFIDENCE = 1 - FALSE_ALARMS / len(SHARES)
"""Of the interval at each look, so that all of them together keep `FALSE_ALARMS` (Bonferroni)."""
FEWEST_ROUNDS = 9
"""Fewer have no interval of that confidence."""
LIKELY = 0.01
"""A percentile needs two samples beyond it, but for this probability."""


@dataclass(frozen=True)
class Ratio:
    """Ours over theirs, with the interval that has it with `CONFIDENCE`; of so many rounds."""

    estimate: float
    low: float
    high: float
    rounds: int

    @property
    def half_width(self) -> float:
        """Of the interval, in logarithms."""
        return math.log(self.high / self.low) / 2


@dataclass(frozen=True)
class Finding:
    """What is told of a change, and how many more rounds could tell where these cannot."""

    kind: Kind
    more_rounds: int = 0

    def told(self, least: float) -> str:
        """In words; `least` is the least effect that matters, a share of 1."""
        if self.kind == "same":
            return f"same within {least:.0%}"
        if self.kind == "cannot tell":
            return f"cannot tell, {self.more_rounds} more rounds needed"
        return self.kind


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The median of the ratios of each round, and the order statistics that hold it.

    Both hold positive values of the same rounds, in the same order. With fewer than `FEWEST_ROUNDS`
    the interval is without end. Raises ValueError for values of different rounds, or none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} and {len(theirs)} values are not of the same rounds")
    logs = np.log(np.asarray(ours, float)) - np.log(np.asarray(theirs, float))
    low, high = interval_of_median(logs.tolist(), CONFIDENCE) or (-math.inf, math.inf)
    return Ratio(math.exp(median(logs.tolist())), math.exp(low), math.exp(high), len(logs))


def looks(rounds: int) -> list[int]:
    """The counts of rounds after which it is looked whether the verdict is sure, of at most
    `rounds`; the last look is at all of them."""
    counts = {math.ceil(rounds * share) for share in SHARES}
    return sorted(one for one in counts if one >= FEWEST_ROUNDS or one == rounds)


def judge(ratio: Ratio, better: Better, least: float) -> Finding:
    """What `ratio`, of now over then, says of a change of at least the share `least`.

    It is told where the interval leaves out 1 and the estimate is beyond `least`; 'same' where the
    whole interval is within it.
    """
    limit = math.log1p(least)
    if ratio.rounds < FEWEST_ROUNDS:
        return Finding("cannot tell", FEWEST_ROUNDS - ratio.rounds)
    low, high = math.log(ratio.low), math.log(ratio.high)
    middle = math.log(ratio.estimate)
    if -limit < low and high < limit:
        return Finding("same")
    if abs(middle) >= limit and (low > 0 or high < 0):
        return Finding("faster" if (middle > 0) is (better == "more") else "slower")
    wanted = ratio.rounds * (ratio.half_width / (limit / 2)) ** 2
    return Finding("cannot tell", max(1, math.ceil(wanted) - ratio.rounds))


def is_enough(count: int, share: float) -> bool:
    """Whether the percentile `share` (0.9 is p90) can be told from so many samples.

    There must be two of them beyond it but for a probability of `LIKELY`, by the binomial
    distribution: 64 samples for p90, 662 for p99.
    """
    beyond = min(share, 1 - share)
    none, one = (1 - beyond) ** count, count * beyond * (1 - beyond) ** (count - 1)
    return none + one < LIKELY


def percentile(values: Sequence[float], share: float) -> float | None:
    """The percentile `share` of `values`, None where they are too few."""
    return float(np.quantile(values, share)) if is_enough(len(values), share) else None


def interval_of_median(
    values: Sequence[float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """The order statistics that hold the median with `confidence`, free of any distribution; None
    where they are too few (David and Nagaraja, Order Statistics, 3rd ed., 7.1)."""
    count, rank, beyond = len(values), 0, 0.5 ** len(values)
    while beyond <= (1 - confidence) / 2:
        rank += 1
        beyond += math.comb(count, rank) / 2**count
    if rank == 0:
        return None
    ordered = sorted(values)
    return ordered[rank - 1], ordered[count - rank]
