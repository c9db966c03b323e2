"""The win rate, and what is left of it at equal length."""

import random

import pytest

from tasks.dpo.winrate import win_rate


def row(win: float, ours: int, theirs: int) -> dict:
    return {"win": win, "candidate": {"length": ours}, "champion": {"length": theirs}}


def test_a_tie_is_half_a_win() -> None:
    found = win_rate([row(0.5, 5, 5)] * 20)
    assert (found.rate, found.low, found.high) == (0.5, 0.5, 0.5)
    assert found.length_controlled == pytest.approx(0.5, abs=1e-3)


def test_wins_by_length_alone_are_none_at_equal_length() -> None:
    chance = random.Random(0)
    rows = []
    for _ in range(600):
        longer = chance.gauss(8, 10)
        wins = chance.random() < 1 / (1 + 2.718 ** (-longer / 4))
        rows.append(row(float(wins), 50 + int(longer), 50))
    found = win_rate(rows)
    assert found.low > 0.6
    assert found.length_controlled == pytest.approx(0.5, abs=0.08)


def test_real_wins_stay() -> None:
    chance = random.Random(0)
    rows = [row(float(chance.random() < 0.8), 50 + chance.randint(-9, 9), 50) for _ in range(600)]
    found = win_rate(rows)
    assert found.length_controlled == pytest.approx(found.rate, abs=0.03)


@pytest.mark.parametrize(("win", "low", "high"), [(1.0, 0.8316, 1.0), (0.0, 0.0, 0.1684)])
def test_a_unanimous_judge_might_have_judged_otherwise(win: float, low: float, high: float) -> None:
    """Clopper and Pearson's bounds of 20 of 20: 0.025 ** (1 / 20)."""
    found = win_rate([row(win, 5, 5)] * 20)
    assert found.rate == win
    assert found.low == pytest.approx(low, abs=1e-4)
    assert found.high == pytest.approx(high, abs=1e-4)
