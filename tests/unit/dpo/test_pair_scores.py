"""What held-out pairs say of the policies, and how surely."""

import pytest

from tasks.dpo.pair_scores import pair_scores


def pair(group: str, champion: float, candidate: float) -> dict:
    """A pair of one prompt or group, with how much likelier each policy finds its chosen answer."""
    return {
        "group": group,
        "tokens": [4.0, 4.0],
        "base": [-9.0, -9.0],
        "champion": [-9.0 + champion, -9.0],
        "candidate": [-9.0 + candidate, -9.0],
    }


def test_pairs_of_one_prompt_that_agree_are_no_further_evidence() -> None:
    one = [pair(f"prompt {n}", -1, 1 if n % 3 else -1) for n in range(30)]
    once, eight_times = pair_scores(one, 0.1), pair_scores(one * 8, 0.1)
    for alone, together in zip(once, eight_times, strict=True):
        assert (together.champion, together.candidate) == (0, pytest.approx(2 / 3))
        assert together.gain == pytest.approx(alone.gain)
        assert together.low == pytest.approx(alone.low) and together.low < together.gain
        assert together.high == pytest.approx(alone.high)


def test_a_pair_is_ranked_by_reward_and_by_likelihood_and_a_tie_is_half() -> None:
    longer = {**pair("p", 0, 1), "tokens": [9.0, 4.0]}
    by_reward, by_likelihood = pair_scores([longer], 0.1)
    assert (by_reward.name, by_reward.champion, by_reward.candidate) == ("pairs by reward", 0.5, 1)
    assert by_likelihood.champion == by_likelihood.candidate == 1
