"""The gate says yes to a better candidate, and no to a worse, an equal and a broken one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from tasks.gate import Gate, Measured, judge, paired_interval

SAME = Measured(length=20, invalid=0.1, perplexity=5)


def rewards(mean: float, seed: int, items: int = 200) -> list[float]:
    return list((np.random.default_rng(seed).random(items) < mean).astype(float))


def verdict(candidate, champion, measured=SAME, kl=1.0, gate=Gate()):  # noqa: B008
    return judge(candidate, champion, measured, SAME, kl, gate)


def test_better_candidate_is_promoted() -> None:
    result = verdict(rewards(0.7, 1), rewards(0.3, 2))
    assert result.promote
    assert 0.2 < result.confidence_interval[0] < result.gain < result.confidence_interval[1] < 0.6


@pytest.mark.parametrize(
    ("candidate", "champion"),
    [
        (rewards(0.5, 1), rewards(0.5, 1)),
        (rewards(0.3, 1), rewards(0.7, 2)),
        (rewards(0.52, 1), rewards(0.5, 2)),
        ([1.0] * 50, [1.0] * 50),
    ],
    ids=["equal", "worse", "within noise", "both perfect"],
)
def test_candidate_that_is_not_surely_better_is_refused(candidate, champion) -> None:
    result = verdict(candidate, champion)
    assert not result.promote
    assert "gain" in result.reason


@pytest.mark.parametrize(
    ("changed", "kl", "named"),
    [
        (SAME, 41.0, "KL"),
        (SAME, math.nan, "KL"),
        (SAME.model_copy(update={"length": 31}), 1.0, "length"),
        (SAME.model_copy(update={"length": 12}), 1.0, "length"),
        (SAME.model_copy(update={"length": 0}), 1.0, "length"),
        (SAME.model_copy(update={"perplexity": 8}), 1.0, "perplexity"),
        (SAME.model_copy(update={"invalid": 0.13}), 1.0, "invalid"),
    ],
)
def test_each_guardrail_can_refuse_a_better_candidate(changed, kl, named) -> None:
    result = verdict(rewards(0.9, 1), rewards(0.1, 2), changed, kl)
    assert not result.promote
    assert named in next(check.name for check in result.checks if not check.passed)


@pytest.mark.parametrize(("prompts", "promoted"), [(1, False), (7, False), (8, True)])
def test_a_gain_on_a_few_prompts_is_no_sure_one(prompts, promoted) -> None:
    result = verdict([0.6, 0.7] * (prompts // 2) + [0.8] * (prompts % 2), [0.5] * prompts)
    assert result.confidence_interval[0] > 0
    assert result.promote == promoted
    told = f"{prompts} held-out prompts are too few"
    assert (told in result.reason and "--held-out" in result.reason) != promoted


def test_minimum_gain_must_be_exceeded_surely() -> None:
    better, champion = rewards(0.7, 1), rewards(0.3, 2)
    assert verdict(better, champion, gate=Gate(minimum_gain=0.1)).promote
    assert not verdict(better, champion, gate=Gate(minimum_gain=0.4)).promote


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
