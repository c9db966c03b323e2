"""Designs and climates: drawn over their ranges, and bad tables refused with the place."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.errors import InputError
from jobs.surrogate.climate import describe_weather, make_climate
from jobs.surrogate.config import (
    CLIMATE,
    DEGREE_DAYS,
    DESIGN,
    GIVEN,
    INPUTS,
    WEATHER,
    SimulateConfig,
)
from jobs.surrogate.data import CLIMATES_A_GENERATION, from_simulation
from jobs.surrogate.designs import (
    build,
    check_designs,
    complete,
    northern,
    out_of_range,
    read_lines,
    read_table,
    results,
    sample,
    sample_climates,
)
from jobs.surrogate.simulate import program, shuffled_designs
from jobs.thermal.physics import simulate
from tests.helpers.epw import lines
from tests.jobs.surrogate.houses import make_weather


@pytest.fixture
def table() -> pd.DataFrame:
    """Designs in the middle of every range."""
    middle = {q.name: (q.low + q.high) / 2 for q in DESIGN + WEATHER}
    return pd.DataFrame([middle] * 4)


def test_sobol_fills_the_ranges_evenly_and_repeats() -> None:
    rows = sample(DESIGN, 256, 3)
    for quantity in DESIGN:
        share = (rows[quantity.name] - quantity.low) / (quantity.high - quantity.low)
        assert np.histogram(share, 4, (0, 1))[0].tolist() == [64] * 4
    pd.testing.assert_frame_equal(rows, sample(DESIGN, 256, 3))
    assert not rows.equals(sample(DESIGN, 256, 4))
    far = 2**40 * 1_000_003  # as the seed of a version may be
    assert not rows.equals(sample(DESIGN, 256, far)) and sample_climates(2, far)[1]()


def test_designs_do_not_go_with_their_climates() -> None:
    designs, climates = shuffled_designs(4096, 0), sample(CLIMATE, 1024, 0)
    assert sorted(designs.iloc[:, 0]) == sorted(sample(DESIGN, 4096, 0).iloc[:, 0])
    climates = climates.iloc[np.arange(4096) % 1024]
    together = np.corrcoef(designs.to_numpy().T, climates.to_numpy().T)
    assert np.abs(together[: len(DESIGN), len(DESIGN) :]).max() < 0.1


def test_every_drawn_climate_is_inside_what_the_surrogate_is_told() -> None:
    for make in sample_climates(12, 1):
        weather = make()
        for quantity in WEATHER:
            value = describe_weather(weather)[quantity.name]
            assert quantity.low <= value <= quantity.high, quantity.name


def test_a_climate_has_the_statistics_that_were_asked_for() -> None:
    weather = make_climate(50, 10, 9, 5, 0.5, 4, seed=2)
    told = describe_weather(weather)
    assert told["mean_temperature"] == pytest.approx(10, abs=0.6)
    assert told["seasonal_swing"] == pytest.approx(9, abs=2)
    assert told["wind"] == pytest.approx(4, rel=0.05)
    assert told["south_radiation"] > told["north_radiation"]
    assert (weather.direct_normal >= 0).all() and weather.direct_normal.max() <= 1100


def test_degree_days_that_are_not_told_are_estimated(table: pd.DataFrame) -> None:
    names = [quantity.name for quantity in DEGREE_DAYS]
    told = pd.DataFrame([describe_weather(make()) for make in sample_climates(32, 5)])
    numbers = pd.concat([table, table] * 4, ignore_index=True).assign(**told)
    guessed = check_designs(numbers.drop(columns=names), "designs")
    error = (guessed[names] - numbers[names]).abs().mean()
    assert (error < 60).all(), "K d a year, of up to 7900"
    pd.testing.assert_frame_equal(check_designs(numbers, "designs"), numbers[list(INPUTS)])
    some = numbers.copy()
    some.loc[1, names[2]] = np.nan
    some.loc[2, names] = np.nan
    for found in (complete(some), check_designs(some, "designs")):
        pd.testing.assert_frame_equal(found.drop([1, 2]), numbers.drop([1, 2])[list(INPUTS)])
        pd.testing.assert_frame_equal(found.loc[[1, 2], names], guessed.loc[[1, 2], names])


def test_degree_days_that_some_lines_leave_out_are_estimated(table, tmp_path) -> None:
    names = [quantity.name for quantity in DEGREE_DAYS]
    rows = table.drop(columns=names).to_dict("records")
    guessed = check_designs(pd.DataFrame(rows), "d.csv")
    told = [rows[0] | dict.fromkeys(names, 5.0), rows[1] | {names[2]: 4000.0}, rows[2]]
    lines = "".join(json.dumps(row) + "\n" for row in told)
    pd.DataFrame(told).to_csv(tmp_path / "d.csv", index=False)
    for given in (read_lines(lines, "d.jsonl"), read_table(tmp_path / "d.csv")):
        found = check_designs(given, "d")
        assert found.loc[0, names].tolist() == [5.0] * 4
        pd.testing.assert_frame_equal(found.loc[1:, names], guessed.loc[1:2, names])
    with pytest.raises(InputError, match="row 2: heating_degrees_18 is 'much', not a number"):
        check_designs(pd.DataFrame([told[0], told[1] | {names[2]: "much"}]), "d")


@pytest.mark.parametrize(("factor", "unit"), [(24, "kelvin-hours"), (1.8, "Fahrenheit-days")])
def test_degree_days_in_other_units_are_recognised(table, factor, unit) -> None:
    names = [quantity.name for quantity in DEGREE_DAYS]
    climates = pd.DataFrame([describe_weather(make()) for make in sample_climates(16, 6)])
    numbers = pd.concat([table] * 4, ignore_index=True).assign(**climates)
    wrong = numbers.assign(**{name: numbers[name] * factor for name in names})
    with pytest.raises(InputError, match=f"looks like {unit}"):
        check_designs(wrong, "d.csv")
    with pytest.raises(InputError, match=f"heating_degrees_18 looks like {unit}"):
        check_designs(wrong.drop(columns=["heating_degrees_5", "heating_degrees_12"]), "d.csv")
    found = 0
    for row in range(16):
        check_designs(numbers.iloc[[row]], "d.csv")
        try:
            check_designs(wrong.iloc[[row]], "d.csv")
        except InputError:
            found += 1
    assert found >= 12, "single ones too, where there are enough of them"


def test_degree_days_out_of_order_are_refused(table) -> None:
    table["heating_degrees_12"] = table["heating_degrees_18"] + 0.5  # rounded
    check_designs(table, "d.csv")
    table.loc[2, "heating_degrees_5"] = table.loc[2, "heating_degrees_18"] + 2
    with pytest.raises(InputError, match=r"row 3: heating_degrees_5 is .*, more than heating"):
        check_designs(table, "d.csv")


def test_every_corner_of_the_ranges_can_be_built_and_its_balance_closes() -> None:
    designs = sample(DESIGN, 16, 0)
    for name in ("low", "high"):
        designs.loc[len(designs)] = {q.name: getattr(q, name) for q in DESIGN}
    buildings = [build(row) for row in designs.to_dict("records")]
    loads = simulate(buildings, make_weather(24 * 5), 1, 2)
    assert (np.abs(loads.imbalance) <= 1e-3 * loads.turnover).all()
    found = results(designs, loads)
    gained = found[["heating_front", "heating_back"]].mean(axis=1) + found["solar"]
    gained += designs["gains"] * 120 / 1000
    lost = found[["cooling_front", "cooling_back"]].mean(axis=1) + found["loss"]
    np.testing.assert_allclose(gained, lost)


@pytest.mark.parametrize(
    ("column", "value", "named"),
    [
        ("width", float("nan"), "row 3: width is nan"),
        ("gains", "much", "row 3: gains is 'much'"),
        ("depth", -4.0, "row 3: depth is -4, a negative m"),
        ("overhang", -0.1, "row 3: overhang is -0.1"),
        ("roof_u", 0.0, "a roof_u is 0"),
        ("window_front", 40.0, "row 3: window_front is 40, more than all"),
        ("window_back", 1.5, "row 3: window_back is 1.5"),
        ("heating_setpoint", 293.15, "row 3: heating_setpoint is 293.15, above cooling_setpoint"),
    ],
)
def test_a_bad_value_is_named_with_its_row(table, column, value, named) -> None:
    table[column] = table[column].astype(object)
    table.loc[2, column] = value
    with pytest.raises(InputError, match=named):
        check_designs(table, "designs.csv")


@pytest.mark.parametrize(
    ("column", "factor", "named"),
    [
        ("window_front", 100, "per cent"),
        ("mass", 1000, "millimetres"),
        ("width", 1000, "millimetres"),
        ("global_radiation", 1000, "Wh/m2"),
        ("global_radiation", 3.6, "MJ/m2"),
        ("global_radiation", 0.001, "MWh/m2"),
        ("south_radiation", 1000, "Wh/m2"),
        ("height", 100, "centimetres"),
    ],
)
def test_units_that_are_wrong_by_a_factor_are_recognised(table, column, factor, named) -> None:
    table[column] *= factor
    with pytest.raises(InputError, match=f"{column} looks like {named}"):
        check_designs(table, "designs.csv")


def test_a_deep_overhang_is_no_wrong_unit(table) -> None:
    check_designs(table.assign(overhang=2.5), "designs.csv")
    with pytest.raises(InputError, match="overhang looks like"):
        check_designs(table.assign(overhang=120.0), "designs.csv")


def test_kelvin_missing_columns_and_empty_tables(table) -> None:
    with pytest.raises(InputError, match="heating_setpoint looks like kelvin"):
        check_designs(table.assign(heating_setpoint=293.15), "d.csv")
    with pytest.raises(InputError, match="heating_setpoint looks like Fahrenheit"):
        check_designs(table.assign(heating_setpoint=68.0), "d.csv")
    with pytest.raises(InputError, match="no column depth"):
        check_designs(table.drop(columns="depth"), "d.csv")
    with pytest.raises(InputError, match="holds no row"):
        check_designs(table.iloc[:0], "d.csv")


@pytest.mark.parametrize(
    ("given", "radians"),
    [
        ([0.3, 2.1, 4.4, 6.1], True),
        ([np.pi, np.pi, np.pi, 3.1416], True),
        ([0, 90, 180, 270], False),
        ([0, 1, 3, 6], False),
        ([3.2, 3.4, 3.1, 3.3], False),
        ([0, 0, 0, 0], False),
        ([0.3, 2.1, 4.4, 180.0], False),
    ],
)
def test_radians_are_told_from_degrees(table, given, radians) -> None:
    table["orientation"] = given
    if not radians:
        check_designs(table, "d.csv")
        return
    with pytest.raises(InputError, match="orientation looks like radians"):
        check_designs(table, "d.csv")


def test_a_single_row_may_face_any_whole_degree(table) -> None:
    with pytest.raises(InputError, match="round them to whole ones"):
        check_designs(table.iloc[:1].assign(orientation=1.5708), "d.csv")
    for orientation in (0.0, 2.0, 3.0, 5.2):
        check_designs(table.iloc[:1].assign(orientation=orientation), "d.csv")


def test_watts_of_the_whole_house_are_told_from_watts_a_square_metre(table) -> None:
    floor = 2 * table["width"] * table["depth"]
    with pytest.raises(InputError, match="gains look like W of the whole house"):
        check_designs(table.assign(gains=4 * floor), "d.csv")
    assert out_of_range(check_designs(table.assign(gains=40.0), "d.csv")) == [["gains"]] * 4


def test_the_south_is_the_north_mirrored(table) -> None:
    table["orientation"] = [0.0, 90.0, 200.0, 350.0]
    south = table.assign(latitude=-table["latitude"], north_radiation=900, south_radiation=500)
    seen = northern(check_designs(south, "d.csv"))
    assert (seen["latitude"] == table["latitude"]).all()
    assert (seen["north_radiation"] == 500).all() and (seen["south_radiation"] == 900).all()
    assert seen["orientation"].tolist() == [180.0, 90.0, 340.0, 190.0]
    assert (seen["east_radiation"] == table["east_radiation"]).all()
    assert out_of_range(south) == [[]] * 4


def test_out_of_range_is_flagged_not_refused(table) -> None:
    table.loc[1, "gains"] = 16.0
    table.loc[1, "latitude"] = 70.0
    assert out_of_range(check_designs(table, "d.csv")) == [[], ["gains", "latitude"], [], []]


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
def test_tables_of_three_kinds_are_read(table, tmp_path, kind) -> None:
    path = tmp_path / f"designs.{kind}"
    if kind == "csv":
        table.to_csv(path, index=False)
    elif kind == "parquet":
        table.to_parquet(path)
    else:
        table.to_json(path, orient="records", lines=True)
    pd.testing.assert_frame_equal(check_designs(read_table(path), path.name), table[list(INPUTS)])
    path.write_bytes(b"\x00broken")
    with pytest.raises(InputError):
        check_designs(read_table(path), path.name)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / f"none.{kind}")


def test_a_broken_line_is_named() -> None:
    with pytest.raises(InputError, match="standard input, line 3 is no JSON object"):
        read_lines('{"width": 1}\n\n[1, 2]\n', "standard input")
    assert read_lines('{"width": 1}\n\n', "standard input")["width"].tolist() == [1]


def test_designs_in_the_users_weather_are_trained_on(run_job, tmp_path: Path) -> None:
    epw = tmp_path / "town.epw"
    epw.write_text("\n".join(lines()))
    config = {"designs": 36, "climates": 32, "seed": 1}
    _, outcome = run_job(program, SimulateConfig, "surrogate.simulate", config, weather=epw)
    table = from_simulation(outcome.artifacts["simulated"], 2, 1)
    there = table["climate"] == 2 * CLIMATES_A_GENERATION + GIVEN
    assert there.sum() == 2 and set(table.loc[there, "part"]) == {"train"}
    assert table.loc[~there, "part"].value_counts().to_dict()["held_out"] >= 6
