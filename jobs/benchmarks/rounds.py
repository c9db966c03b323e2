"""Rounds in which every side is measured once, in random order, after they have warmed up."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

WINDOW = 3
"""Newest samples of a side by which it is told whether it has warmed up."""
DRIFT = 0.1
"""A side is warm once the median of its newest samples differs by less from the one before."""
MOST_WARM_UP = 10
"""Rounds after which a side that is not warm counts as noisy; it is said."""


@dataclass(frozen=True)
class Taken:
    """One sample: at which place of which round it was taken; `value` is the median of `raw`."""

    side: str
    round: int
    position: int
    warm_up: bool
    value: float
    raw: list[float]


Take = Callable[[], tuple[float, list[float]]]
IsSure = Callable[[Mapping[str, Sequence[float]]], bool]
"""Whether the values of each side, in the order of their rounds, leave nothing to be asked."""


def is_warm(values: Sequence[float]) -> bool:
    """Whether the newest samples of a side are like those just before."""
    if len(values) < WINDOW + 2:
        return False
    newest, before = median(values[-WINDOW:]), median(values[-WINDOW - 2 : -2])
    return abs(newest - before) <= DRIFT * before


def interleaved(
    takes: Mapping[str, Take], looks: Sequence[int], is_sure: IsSure, random: Random
) -> Iterator[Taken]:
    """Warm up until every side is warm, then rounds until one of the `looks` at their values is
    sure, or the last is reached; each sample as it is taken."""
    seen: dict[str, list[float]] = {side: [] for side in takes}
    for number in range(MOST_WARM_UP):
        for taken in _round(takes, number, True, random):
            seen[taken.side].append(taken.value)
            yield taken
        if all(is_warm(values) for values in seen.values()):
            break
    counted: dict[str, list[float]] = {side: [] for side in takes}
    for number in range(looks[-1]):
        if number in looks and is_sure(counted):
            return
        for taken in _round(takes, number, False, random):
            counted[taken.side].append(taken.value)
            yield taken


def _round(
    takes: Mapping[str, Take], number: int, warm_up: bool, random: Random
) -> Iterator[Taken]:
    sides = list(takes)
    random.shuffle(sides)
    for position, side in enumerate(sides):
        value, raw = takes[side]()
        yield Taken(side, number, position, warm_up, value, raw)
