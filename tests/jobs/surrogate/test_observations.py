"""A measured building-year: summed up when it is whole, refused with the reason when it is not."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.errors import InputError
from jobs.surrogate.climate import make_climate
from jobs.surrogate.config import DESIGN, INPUTS, CollectConfig
from jobs.surrogate.designs import build, results
from jobs.surrogate.observations import read_observation
from jobs.thermal.physics import simulate


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    """What meters of a simulated house in UTC+1 would have written."""
    design = {q.name: round((q.low + q.high) / 2, 3) for q in DESIGN}
    weather = make_climate(48, 9, 9, 5, 0.5, 3, seed=5)
    loads = simulate([build(design)], weather, 1, 5)
    times = pd.date_range("2023-01-01", periods=8760, freq="h", tz="UTC")
    table = pd.DataFrame({"time": times.tz_convert("Etc/GMT-1").strftime("%Y-%m-%dT%H:%M%z")})
    for zone, name in enumerate(("front", "back")):
        table[f"heating_{name}"] = loads.heating[0, zone]
        table[f"cooling_{name}"] = loads.cooling[0, zone]
        table[f"temperature_{name}"] = loads.temperature[0, zone]
    for name in ("dry_bulb", "direct_normal", "diffuse_horizontal", "wind_speed"):
        table[name] = getattr(weather, name)
    table.attrs["expected"] = results(pd.DataFrame([design]), loads).iloc[0]
    return table.assign(latitude=48.0, longitude=0.0, **design)


def write(folder: Path, table: pd.DataFrame) -> Path:
    path = folder / "house.csv"
    table.to_csv(path, index=False)
    return path


def test_loads_are_those_of_the_building_in_spite_of_small_gaps(measured, tmp_path) -> None:
    gappy = measured.copy()
    gappy.loc[100:102, "heating_front"] = np.nan
    gappy.loc[500, "temperature_back"] = 900.0
    row = read_observation(write(tmp_path, gappy.drop(index=[3000, 3001])))
    expected = measured.attrs["expected"]
    assert set(INPUTS) <= set(row) and "solar" not in row
    for name in ("heating_front", "heating_back", "cooling_front", "cooling_back"):
        assert row[name] == pytest.approx(expected[name], rel=0.01)
    assert row["temperature_back"] == pytest.approx(expected["temperature_back"], abs=0.05)


def gap(table: pd.DataFrame) -> None:
    table.loc[:1000, "wind_speed"] = np.nan


def shift(table: pd.DataFrame) -> None:
    table["time"] = table["time"].str.replace("+0100", "+0300", regex=False)


def local(table: pd.DataFrame) -> None:
    table["time"] = table["time"].str.removesuffix("+0100")


def kilowatt(table: pd.DataFrame) -> None:
    table["temperature_front"] += 273.15


def kilowatts(table: pd.DataFrame) -> None:
    table[["heating_front", "heating_back"]] /= 1000


def spikes(table: pd.DataFrame) -> None:
    table.loc[::50, "cooling_back"] = 100_000.0


def dim(table: pd.DataFrame) -> None:
    table[["direct_normal", "diffuse_horizontal"]] /= 1000


def twice(table: pd.DataFrame) -> None:
    table.loc[7, "time"] = table.loc[6, "time"]


def word(table: pd.DataFrame) -> None:
    table.loc[7, "time"] = "noon+0100"


def lacking(table: pd.DataFrame) -> None:
    del table["dry_bulb"]


def south(table: pd.DataFrame) -> None:
    table["latitude"] = -48.0


def degrees(table: pd.DataFrame) -> None:
    table["latitude"] = "48N"


def stuck(table: pd.DataFrame) -> None:
    table.loc[2000:2200, "dry_bulb"] = 0.0


def rebuilt(table: pd.DataFrame) -> None:
    table.loc[4000:, "wall_u"] = 0.2


def longer(table: pd.DataFrame) -> None:
    table.attrs.clear()
    table.loc[len(table)] = table.iloc[-1]
    table["time"] = pd.date_range("2024-01-01", periods=8761, freq="h", tz="UTC").map(str)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (south, "5% of the direct radiation falls while the sun is down at latitude -48"),
        (degrees, "row 1: latitude is '48N'"),
        (stuck, "dry_bulb is the same for 201 hours"),
        (rebuilt, "row 4001: wall_u changes from .* to 0.2"),
        (longer, "8761 rows, a year has 8760 hours"),
        (gap, "wind_speed lacks 11.4%"),
        (shift, r"noon is -2\.[0-3] h"),
        (local, "no offset from UTC"),
        (kilowatt, "temperature_front is out of -30 to 70 degC"),
        (kilowatts, "heating_front is .* degree hours say"),
        (spikes, "cooling_back is out of 0 to 66000 W"),
        (dim, "the sun brings"),
        (twice, "row 8: the hour is there twice"),
        (word, "row 8: time 'noon"),
        (lacking, "no column dry_bulb"),
    ],
)
def test_what_does_not_fit_is_refused(measured, tmp_path, spoil, named) -> None:
    table = measured.copy()
    spoil(table)
    with pytest.raises(InputError, match=named):
        read_observation(write(tmp_path, table))


def test_a_file_of_a_header_only_is_refused(measured, tmp_path) -> None:
    with pytest.raises(InputError, match="it has no rows"):
        read_observation(write(tmp_path, measured[:0]))


def test_semicolons_between_columns_are_told(measured, tmp_path) -> None:
    path = tmp_path / "house.csv"
    measured[:9].to_csv(path, index=False, sep=";", decimal=",")
    with pytest.raises(InputError, match="';' stands between"):
        read_observation(path)


def test_one_bad_file_and_nothing_is_stored(measured, tmp_path, run_job) -> None:
    from jobs.surrogate.collect import program

    files = tmp_path / "files"
    files.mkdir()
    write(files, measured)
    _, outcome = run_job(program, CollectConfig, "surrogate.collect", {}, files=files)
    assert outcome.metrics["observations"] == 1
    (files / "z.csv").write_text("time\n1\n")
    with pytest.raises(InputError, match=r"z\.csv"):
        run_job(program, CollectConfig, "surrogate.collect", {}, files=files)


def test_each_year_of_readings_is_judged_by_itself(measured, tmp_path, run_job) -> None:
    from jobs.surrogate.collect import program

    years = tmp_path / "years"
    years.mkdir()
    utc = measured.assign(
        time=pd.to_datetime(measured["time"], utc=True).map(pd.Timestamp.isoformat)
    )
    utc.to_csv(years / "good@20230101T0000.csv", index=False)
    spoilt = utc.copy()
    gap(spoilt)
    spoilt.to_csv(years / "gappy@20230101T0000.csv", index=False)
    _, outcome = run_job(program, CollectConfig, "surrogate.collect", {}, readings=years)
    assert outcome.metrics["observations"] == 1
    verdicts = outcome.artifacts["verdicts"].read_text().splitlines()
    gappy, good = (json.loads(line) for line in verdicts)
    assert gappy["file"] == "gappy@20230101T0000.csv" and "row" not in gappy
    assert gappy["error"].startswith("wind_speed lacks 11.4%")
    assert set(INPUTS) <= set(good["row"]) and good["row"]["heating_front"] > 0
