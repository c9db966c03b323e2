"""Against the example results of ASHRAE Standard 140-2020, where its data is at hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from infra.errors import InputError
from jobs.thermal.ashrae140 import (
    FREE_FLOAT,
    Cases,
    Row,
    draw,
    markdown,
    measure,
    summary,
    validate,
)
from jobs.thermal.glazing import optics
from jobs.thermal.physics import simulate
from jobs.thermal.weather import read_epw


@pytest.fixture(scope="module")
def validated(shared: Path):
    return validate(shared)


def test_every_load_and_temperature_is_inside_and_near_the_mean(validated) -> None:
    rows = validated[0]
    assert [r for r in rows if (r.annual or r.metric in FREE_FLOAT) and not r.inside] == []
    for row in rows:
        if row.annual:
            few_kwh = abs(row.value - row.mean) < 0.005
            assert abs(row.from_mean) <= 0.1 or few_kwh, row


def test_glass_lets_the_sun_through_as_the_cases_table_says(shared: Path) -> None:
    facts = json.loads((shared / "ashrae140" / "cases.json").read_text())
    fit = facts["glazing"]["clear_double"]["angular_transmittance"]["derived_fresnel_fit"]
    found = optics(0.834, 0.075).by_angle
    for row in fit["table"]:
        expected = [row["window_T"], row["outer_pane_A"], row["inner_pane_A"]]
        assert found[row["angle_deg"]] == pytest.approx(expected, abs=2e-4)


def test_the_balance_closes_in_every_case_and_hour(validated) -> None:
    loads = validated[1]
    assert (np.abs(loads.imbalance) <= 1e-3 * loads.turnover).all()
    assert (np.abs(loads.imbalance.sum(1)) <= 1e-3 * loads.turnover.sum(1)).all()


def test_cases_that_were_not_given_agree_with_energyplus(shared: Path) -> None:
    """MWh a year of EnergyPlus 25.1: NREL/BESTEST-GSR, results/historical/OpenStudio_3_10_0.csv."""
    facts = json.loads((shared / "ashrae140" / "cases.json").read_text())
    cases = facts["cases"]
    cases["220"] = cases["200"] | {"ext_ir_emittance": 0.9, "int_ir_emittance": 0.9}
    cases["250"] = cases["220"] | {"ext_solar_absorptance": 0.9}
    cases["270"] = cases["600"] | {
        "thermostat": "T20_20", "infiltration_ach": 0.0, "internal_gain_W": 0.0,
        "ext_solar_absorptance": 0.1, "int_solar_absorptance": 0.9,
    }  # fmt: skip
    known = {"220": (6.453, 0.611), "250": (4.894, 3.194), "270": (4.386, 7.522)}
    buildings = [Cases(facts).building(name) for name in known]
    loads = simulate(buildings, read_epw(shared / "weather" / "725650TYCST.epw"), 2)
    for number, (heating, cooling) in enumerate(known.values()):
        measured = measure(loads, number)
        assert measured["annual_heating"] == pytest.approx(heating, rel=0.02)
        assert measured["annual_sensible_cooling"] == pytest.approx(cooling, rel=0.03)
    cases["670"] = cases["600"] | {"glazing": "clear_single"}
    with pytest.raises(InputError, match="case 670: glazing clear_single"):
        Cases(facts).building("670")


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
