"""The statistics keep their promises for any numbers."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.benchmarks.statistics import (
    CONFIDENCE,
    FEWEST_ROUNDS,
    Ratio,
    interval_of_median,
    is_enough,
    judge,
    looks,
    paired_ratio,
    percentile,
)
from tasks.benchmarks.history import FEWEST, change_points

POSITIVE = st.floats(1e-3, 1e6)
LEAST = 0.05


def noisy(rounds, noise, seed):
    """Noise with rare large values, of mean 1."""
    drawn = np.random.default_rng(seed).standard_t(4, rounds) / math.sqrt(2)
    return np.exp(noise * drawn)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=8, max_size=40), st.floats(0.01, 100))
def test_a_ratio_is_one_of_pairs_whatever_their_scale(pairs, scale):
    ours, theirs = map(list, zip(*pairs, strict=True))
    ratio = paired_ratio(ours, theirs)
    assert ratio.low <= ratio.estimate * (1 + 1e-9) and ratio.estimate <= ratio.high * (1 + 1e-9)
    back = paired_ratio(theirs, ours)
    assert back.estimate == pytest.approx(1 / ratio.estimate, rel=1e-6)
    both = paired_ratio([scale * x for x in ours], [scale * x for x in theirs])
    assert both.estimate == pytest.approx(ratio.estimate, rel=1e-6)
    assert both.low == pytest.approx(ratio.low, rel=1e-6)


def test_what_falls_on_both_sides_of_a_round_changes_nothing():
    rough = noisy(15, 1.0, seed=3)  # a machine three times as fast in one round as in another
    ours, theirs = 0.8 * rough * noisy(15, 0.01, 4), rough * noisy(15, 0.01, 5)
    ratio = paired_ratio(list(ours), list(theirs))
    assert 0.78 < ratio.low < 0.8 < ratio.high < 0.82


def test_values_of_different_rounds_are_refused():
    with pytest.raises(ValueError, match="not of the same rounds"):
        paired_ratio([1.0, 2.0], [1.0])


@settings(max_examples=200, deadline=None)
@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 0.5))
def test_no_change_is_told_that_is_small_or_that_its_interval_leaves_open(mid, down, up, least):
    ratio = Ratio(math.exp(mid), math.exp(mid - down), math.exp(mid + up), 15)
    finding = judge(ratio, "more", least)
    if finding.kind in ("faster", "slower"):
        assert abs(mid) >= math.log1p(least) and not ratio.low <= 1 <= ratio.high
        assert (finding.kind == "faster") == (mid > 0)
        other = {"faster": "slower", "slower": "faster"}[finding.kind]
        assert judge(ratio, "less", least).kind == other
    if finding.kind == "same":
        assert 1 / (1 + least) < ratio.low and ratio.high < 1 + least
    assert (finding.kind == "cannot tell") == (finding.more_rounds > 0)


def test_with_the_rounds_that_it_asks_for_it_can_tell():
    asked, told = 0, 0
    for seed in range(20):
        ours, theirs = noisy(4000, 0.12, seed), noisy(4000, 0.12, seed + 100)
        few = judge(paired_ratio(list(ours[:10]), list(theirs[:10])), "more", LEAST)
        wanted = 10 + 2 * few.more_rounds
        asked += few.kind == "cannot tell"
        many = judge(paired_ratio(list(ours[:wanted]), list(theirs[:wanted])), "more", LEAST)
        told += few.kind == "cannot tell" and many.kind == "same"
    assert asked >= 15
    assert told >= 0.8 * asked


def verdict(ours, theirs, better="more"):
    """As a run comes to it: at the first look that is sure."""
    kinds = (
        judge(paired_ratio(list(ours[:count]), list(theirs[:count])), better, LEAST).kind
        for count in looks(len(ours))
    )
    return next((kind for kind in kinds if kind != "cannot tell"), "cannot tell")


@pytest.mark.parametrize("better", ["more", "less"])
def test_how_often_it_errs(better):
    def found(loss, runs=100):
        factor = 1 - loss if better == "more" else 1 / (1 - loss)
        kinds = [
            verdict(factor * noisy(60, 0.08, 2 * n), noisy(60, 0.08, 2 * n + 1), better)
            for n in range(runs)
        ]
        return kinds.count("slower") / runs, kinds.count("faster") / runs

    assert sum(found(0)) <= 0.02
    assert found(0.1)[0] >= 0.95
    assert found(0.2) == (1, 0)


def test_a_round_that_is_disturbed_beyond_measure_changes_little():
    ours, theirs = noisy(15, 0.01, 1), noisy(15, 0.01, 2)
    ours[4] *= 50
    ratio = paired_ratio(list(ours), list(theirs))
    assert 0.95 < ratio.low < 1 < ratio.high < 1.05


def test_all_looks_together_keep_the_false_alarms_whatever_the_noise():
    """Of the same code each side is as likely the larger in a round: coins say it all."""
    draw = np.random.default_rng(0)
    alarms = 0
    for _ in range(2000):
        logs = draw.choice([-1, 1], 60) * draw.pareto(0.5, 60)  # without a mean
        pairs = np.exp(np.clip(logs, -300, 300))
        alarms += verdict(pairs, np.ones(60)) in ("slower", "faster")
    assert alarms / 2000 <= 0.02


def test_looks_are_at_a_quarter_a_half_and_all_rounds_where_an_interval_is():
    assert looks(60) == [15, 30, 60]
    assert looks(61) == [16, 31, 61]
    assert looks(20) == [10, 20]
    assert looks(FEWEST_ROUNDS) == [FEWEST_ROUNDS]
    assert interval_of_median([1.0] * (FEWEST_ROUNDS - 1), CONFIDENCE) is None
    assert interval_of_median([1.0] * FEWEST_ROUNDS, CONFIDENCE) == (1, 1)


def test_few_rounds_tell_nothing():
    ratio = paired_ratio([1.0] * 5, [2.0] * 5)
    assert judge(ratio, "more", LEAST).told(LEAST) == "cannot tell, 4 more rounds needed"
    assert (ratio.low, ratio.high) == (0, math.inf)


def test_percentiles_need_their_samples():
    def fewest(share):
        return next(n for n in range(1, 1000) if is_enough(n, share))

    assert (fewest(0.5), fewest(0.9), fewest(0.99)) == (11, 64, 662)
    assert percentile([1.0] * 63, 0.9) is None
    assert percentile(list(range(101)), 0.9) == 90


def test_the_interval_of_a_median_has_it_as_often_as_it_says():
    draw = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        low, high = interval_of_median(list(draw.exponential(size=15)))
        held += low <= math.log(2) <= high
    assert held / 500 >= 0.94
    assert interval_of_median([1.0] * 5) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(POSITIVE, max_size=60), st.floats(0.02, 1))
def test_a_change_is_as_large_as_matters_and_has_values_on_both_sides(values, least):
    changes = change_points(values, least)
    ends = [0, *(one.at for one in changes), len(values)]
    assert all(abs(math.log(one.ratio)) >= math.log1p(least) * (1 - 1e-9) for one in changes)
    if changes:
        assert min(np.diff(ends)) >= FEWEST


def test_changes_are_found_where_they_are_and_nowhere_else():
    steps = [(0, 1.0), (20, 0.9), (40, 1.2)]
    false, found = 0, 0
    for seed in range(100):
        noise = noisy(60, 0.02, seed)
        false += bool(change_points(list(noise), LEAST))
        stepped = noise * np.select([np.arange(60) >= at for at, _ in steps[::-1]], [1.2, 0.9, 1.0])
        places = [one.at for one in change_points(list(stepped), LEAST)]
        found += len(places) == 2 and abs(places[0] - 20) <= 2 and abs(places[1] - 40) <= 2
    assert false <= 2
    assert found >= 95


def test_one_bad_night_and_a_small_change_are_no_change():
    values = noisy(40, 0.01, 1)
    values[17] *= 0.5
    values[25:] *= 1.03
    assert change_points(list(values), LEAST) == []
