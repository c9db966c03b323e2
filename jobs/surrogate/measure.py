"""How wrong and how sure one side is."""

import numpy as np

from jobs.surrogate.config import LOADS, OUTPUTS


def measure(mean: np.ndarray, half_width: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Error, coverage and width of one side; arrays (N, targets), truth NaN where not measured."""
    known = ~np.isnan(truth)
    error = np.abs(mean - truth)
    covered = error <= half_width
    return {
        "error": relative_error(mean, truth),
        "coverage": float(covered[known].mean()),
        "half_width": float(half_width[:, :LOADS].mean() / np.nanmean(truth[:, :LOADS])),
        **{f"error_{n}": float(np.nanmean(error[:, i])) for i, n in enumerate(OUTPUTS)},
        **{f"coverage_{n}": float(covered[known[:, i], i].mean()) for i, n in enumerate(OUTPUTS)},
    }


def relative_error(mean: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute error of the four loads over their mean, a fraction."""
    truth = truth[:, :LOADS]
    return float(np.nansum(np.abs(mean[:, :LOADS] - truth)) / np.nansum(np.abs(truth)))


def coverage_by_climate(
    mean: np.ndarray, half_width: np.ndarray, truth: np.ndarray, climate: np.ndarray
) -> dict[str, float]:
    """The share of values that intervals cover in the median climate and in the worst tenth.

    `climate`, (N,): the number of each design's. A user has one.
    """
    known = ~np.isnan(truth)
    covered = (np.abs(mean - truth) <= half_width) & known
    _, place = np.unique(climate, return_inverse=True)
    shares = np.bincount(place, covered.sum(1)) / np.bincount(place, known.sum(1))
    return {
        "coverage_median_climate": float(np.median(shares)),
        "coverage_worst_tenth": float(np.quantile(shares, 0.1)),
    }
