"""Where the history of a figure changed, by PELT of the library `ruptures`.

Killick, Fearnhead and Eckley 2012, Optimal detection of changepoints with a linear computational
cost; with the linear kernel they are changes of the mean. A change is told only where it is as
large as matters: a long history would find any.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST = 4
"""Values on each side of a change."""
PENALTY = 6.0
"""Of a change, in variances of the noise times the logarithm of the count."""
FARTHEST = 4.0
"""Deviations beyond which a value counts as if it were there: one bad night is no change."""


@dataclass(frozen=True)
class Change:
    """From the value number `at` (0 is the first) on, `ratio` times what was before."""

    at: int
    ratio: float


def change_points(values: Sequence[float], least: float) -> list[Change]:
    """The changes of positive `values`, oldest first, of at least the share `least` each."""
    if len(values) < 2 * FEWEST:
        return []
    logs = np.log(np.asarray(values, float))
    noise = _noise(logs)
    clipped = _clipped(logs, noise)
    ends = _segments(clipped, noise)
    while True:
        starts = [0, *ends]
        middles = [
            float(np.median(logs[begin:end]))
            for begin, end in zip(starts, [*ends, len(logs)], strict=True)
        ]
        steps = np.diff(middles)
        if not len(steps) or abs(steps).min() >= math.log1p(least):
            return [Change(at, math.exp(step)) for at, step in zip(ends, steps, strict=True)]
        ends.pop(int(abs(steps).argmin()))


def _noise(logs: np.ndarray) -> float:
    """Standard deviation of what is no step: by the median of the differences of neighbours."""
    steps = np.abs(np.diff(logs))
    return max(float(np.median(steps)) / (0.6745 * math.sqrt(2)), 1e-6)


def _clipped(logs: np.ndarray, noise: float) -> np.ndarray:
    """Each value, at most `FARTHEST` deviations from the median of it and its neighbours."""
    reach = FEWEST - 1
    padded = np.pad(logs, reach, mode="reflect")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    middle = np.median(around, axis=1)
    return np.clip(logs, middle - FARTHEST * noise, middle + FARTHEST * noise)


def _segments(logs: np.ndarray, noise: float) -> list[int]:
    """Where a segment begins, but the first."""
    import ruptures

    penalty = PENALTY * noise**2 * math.log(len(logs))
    search = ruptures.KernelCPD(kernel="linear", min_size=FEWEST).fit(logs.reshape(-1, 1))
    return [int(end) for end in search.predict(pen=penalty) or []][:-1]
