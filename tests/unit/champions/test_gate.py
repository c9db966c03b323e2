"""Intervals of paired gains, which every gate judges by."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from tasks.champions.gate import paired_interval


@pytest.mark.parametrize(
    ("candidate", "champion"), [([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0])]
)
def test_unusable_rewards_are_an_error(candidate, champion) -> None:
    with pytest.raises(InputError):
        paired_interval(candidate, champion)


@settings(deadline=None)  # the first example imports scipy
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=40),
)
def test_interval_holds_the_gain_and_mirrors(pairs) -> None:
    candidate, champion = [list(side) for side in zip(*pairs, strict=True)]
    gain, low, high = paired_interval(candidate, champion)
    assert low - 1e-9 <= gain <= high + 1e-9
    assert paired_interval(champion, candidate)[0] == pytest.approx(-gain)


def test_interval_covers_the_true_gain_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        _, low, high = paired_interval(random.normal(0.1, 1, 100), random.normal(0, 1, 100))
        covered += low <= 0.1 <= high
    assert 88 <= covered <= 99


def test_what_agrees_within_its_group_says_less() -> None:
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    ours = np.repeat((random.random(40) < 0.7).astype(float), 5)
    theirs = np.repeat((random.random(40) < 0.5).astype(float), 5)
    gain, low, high = paired_interval(ours, theirs)
    grouped = paired_interval(ours, theirs, groups=list(map(str, groups)))
    assert grouped[0] == gain
    assert grouped[2] - grouped[1] == pytest.approx((high - low) * math.sqrt(5), rel=0.05)
    alone = paired_interval(ours, theirs, groups=range(200))
    assert alone == pytest.approx((gain, low, high))
    assert paired_interval(ours, theirs, groups=["one"] * 200) == (gain, gain, gain)


def test_intervals_of_groups_hold_the_truth_in_19_of_20() -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(200):
        sizes = random.integers(1, 9, 60)
        groups = np.repeat(np.arange(60), sizes)
        gain = 0.1 + random.normal(0, 1, 60)[groups] + random.normal(0, 0.3, len(groups))
        _, low, high = paired_interval(gain, np.zeros(len(gain)), groups=groups)
        held += low <= 0.1 <= high
    assert 180 <= held <= 198
