"""The gate of surrogates says yes to a better one, and no to one that is worse in any way."""

import random

import pytest

from tasks.surrogate.gate import accuracies, judge
from tasks.surrogate.parameters import SurrogateParameters

FINE = {
    "candidate_error": 0.05,
    "candidate_coverage": 0.91,
    "candidate_balance": 0.0,
    "candidate_broken": 0.01,
    "candidate_old_error": 0.05,
    "champion_old_error": 0.05,
}


def rows(candidate: float, champion: float, climates: int = 30) -> list[dict]:
    """Designs whose sides err by about these shares of a mean load of 100."""
    random.seed(0)

    def side(error: float) -> dict:
        return {"mean": [100 + random.gauss(0, 125 * error) for _ in range(4)]}

    return [
        {
            "climate": number % climates,
            "truth": [100.0] * 4,
            "candidate": side(candidate),
            "champion": side(champion),
            "handbook": side(0.3),
        }
        for number in range(climates * 8)
    ]


def verdict(better: list[dict], changed: dict[str, float], has_champion: bool = True):
    parameters = SurrogateParameters.model_validate({})
    return judge(better, FINE | changed, has_champion, parameters)


def test_a_surely_better_candidate_is_promoted_and_a_first_one_beats_the_handbook() -> None:
    assert verdict(rows(0.05, 0.10), {}).promote
    assert verdict(rows(0.05, 0.10), {}).gain == pytest.approx(0.05, abs=0.02)
    first = verdict(rows(0.05, 0.01), {}, has_champion=False)
    assert first.promote and "handbook" in first.checks[0].explanation
    assert not verdict(rows(0.32, 0.01), {}, has_champion=False).promote


def test_a_gain_in_a_few_climates_is_no_sure_one() -> None:
    result = verdict(rows(0.05, 0.10, climates=7), {})
    assert result.confidence_interval[0] > 0 and not result.promote
    assert "7 held-out climates are too few" in result.reason and "--climates" in result.reason
    assert verdict(rows(0.05, 0.10, climates=8), {}).promote


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"candidate_error": 0.2}, "error of the loads"),
        ({"candidate_coverage": 0.80}, "coverage"),
        ({"candidate_coverage": 0.99}, "coverage"),
        ({"candidate_balance": 0.02}, "energy imbalance"),
        ({"candidate_broken": 0.2}, "broken physics"),
        ({"candidate_old_error": 0.06}, "error on earlier climates"),
        ({"candidate_error": float("nan")}, "error of the loads"),
    ],
)
def test_a_better_candidate_with_one_fault_is_refused(change, named) -> None:
    given = verdict(rows(0.05, 0.10), change)
    failed = [check.name for check in given.checks if not check.passed]
    assert not given.promote and len(failed) == 1 and failed[0].startswith(named)


def test_an_equal_or_worse_candidate_is_refused() -> None:
    for candidate, champion in ((0.05, 0.05), (0.10, 0.05)):
        assert not verdict(rows(candidate, champion), {}).promote


def test_accuracy_is_by_climate_and_leaves_out_what_nobody_measured() -> None:
    given = [
        {
            "climate": 1,
            "truth": [100.0, None, 100.0, 100.0],
            "candidate": {"mean": [90, 0, 100, 110]},
        },
        {"climate": 2, "truth": [100.0] * 4, "candidate": {"mean": [100, 100, 100, 100]}},
    ]
    assert accuracies(given, "candidate") == pytest.approx([1 - 20 / 3 / 100, 1])
