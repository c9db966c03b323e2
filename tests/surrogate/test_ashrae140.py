"""Against the example results of ASHRAE Standard 140-2020, where its data is at hand."""

from pathlib import Path

import numpy as np
import pytest

from jobs.surrogate.ashrae140 import FREE_FLOAT, Row, draw, markdown, summary, validate


@pytest.fixture(scope="module")
def validated(shared: Path):
    return validate(shared)


def test_nine_in_ten_are_inside_and_every_load_is_near_the_mean(validated) -> None:
    rows = validated[0]
    judged = [r for r in rows if r.annual or r.metric in FREE_FLOAT]
    assert sum(r.inside for r in judged) >= 0.9 * len(judged)
    for row in rows:
        if row.annual:
            few_kwh = abs(row.value - row.mean) < 0.005
            assert abs(row.from_mean) <= 0.1 or few_kwh, row


def test_the_balance_closes_in_every_case_and_hour(validated) -> None:
    loads = validated[1]
    assert (np.abs(loads.imbalance) <= 1e-3 * loads.turnover).all()
    assert (np.abs(loads.imbalance.sum(1)) <= 1e-3 * loads.turnover.sum(1)).all()


def test_table_and_plot_say_what_is_outside(tmp_path: Path) -> None:
    rows = [
        Row("600", "annual_heating", "MWh", 4.0, 3.0, 5.0, 4.0),
        Row("610", "annual_heating", "MWh", 6.0, 3.0, 5.0, 4.0),
        Row("600FF", "free_float_max", "degC", 60.0, 62.0, 68.0, 65.0),
    ]
    table = markdown(rows)
    assert "+1.000 MWh" in table and "-2.000 degC" in table and "-5.00 K" in table
    assert "1 of 2 annual loads" in summary(rows) and "+50.0%" in summary(rows)
    draw(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
