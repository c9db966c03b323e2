"""The report of a search says what was found, whether fear paid, and what is not to be trusted."""

from pathlib import Path

import pytest

from tasks.surrogate.optimisation import SHOWN, draw, told


def rows(outside: list[str]) -> list[dict]:
    return [
        {
            "front": front,
            "cost": 50.0 + number,
            "predicted": 80.0 - number,
            "deviation": 4.0,
            "simulated": 82.0 - number if number % 2 else None,
            "outside": outside,
            "design": dict.fromkeys(SHOWN, 0.25),
        }
        for front in ("neutral", "averse")
        for number in range(6)
    ]


def metrics(averse: float) -> dict[str, float]:
    one = {"designs": 6, "checked": 3, "deviation": 4, "surprise": 2, "above_interval": 0.0}
    found = {f"{front}_{k}": float(v) for front in ("neutral", "averse") for k, v in one.items()}
    worst = {"neutral_worst_surprise": 9.0, "averse_worst_surprise": averse}
    return found | worst | {"evaluated": 30000.0}


@pytest.mark.parametrize(
    ("averse", "said"),
    [
        (1.0, "avoided 8.0 kWh/m2 of the worst surprise"),
        (8.5, "made no notable difference"),
        (15.0, "did not avoid bad surprises: the worst is larger by 6.0 kWh/m2"),
        (-20.0, "avoided 9.0 kWh/m2"),
    ],
)
def test_the_report_says_whether_fear_of_risk_paid(averse: float, said: str) -> None:
    text = told("house", rows([]), metrics(averse), 2.0)
    assert said in text and "30,000 designs" in text and "adds 2 standard deviations" in text
    assert text.count("| 49.0 |") == 0 and text.count(" ± 4.0 |") == 3, "only simulated designs"
    assert "Outside" not in text


def test_a_foreign_climate_is_named() -> None:
    text = told("house", rows(["mean_temperature"]), metrics(1.0), 1.0)
    assert "Outside the training ranges: mean_temperature" in text


def test_the_fronts_are_drawn(tmp_path: Path) -> None:
    draw(rows([]), 1.0, tmp_path / "fronts.png")
    assert (tmp_path / "fronts.png").read_bytes().startswith(b"\x89PNG")
