"""EPW files: whole ones are read, broken ones are refused with the line."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pvlib.solarposition import get_solarposition

from infra.errors import InputError
from jobs.surrogate.climate import describe_weather
from jobs.thermal.solar import position, sky
from jobs.thermal.weather import HOURS, read_epw, sky_temperature, standard_pressure
from tests.helpers.epw import lines


@pytest.fixture
def write(tmp_path: Path):
    def write(content: list[str]) -> Path:
        path = tmp_path / "here.epw"
        path.write_text("\n".join(content) + "\n")
        return path

    return write


@pytest.mark.parametrize("leap", [False, True])
def test_a_whole_file_is_a_year_without_leap_day(write, leap: bool) -> None:
    weather = read_epw(write(lines(leap)))
    assert weather.hours == HOURS
    assert (weather.latitude, weather.longitude, weather.time_zone) == (45, 10, 1)
    assert weather.altitude == 200 and weather.direct_normal[10] == 100
    assert weather.sky_temperature[0] == pytest.approx((290 / 5.670374e-8) ** 0.25 - 273.15)


@pytest.mark.parametrize(
    ("latitude", "zone", "longitude"),
    [("-33.9", "10.0", "151.2"), ("78.2", "1.0", "15.6"), ("0.0", "5.5", "80.0")],
)
def test_any_place_is_described_and_its_sun_stands_right(
    write, latitude: str, zone: str, longitude: str
) -> None:
    """South of the equator, beyond the polar circle, on the equator with a half-hour zone."""
    place = {"latitude": latitude, "longitude": longitude, "time_zone": zone}
    weather = replace(read_epw(write(lines())), **{n: float(v) for n, v in place.items()})
    told = describe_weather(weather)
    assert all(np.isfinite(value) for value in told.values())
    above = sky(weather, 2)
    days = np.arange(len(above.sun)) // 48
    noon = above.sun[np.arange(len(days)) % 48 == 24]
    assert all(np.isfinite(part).all() for part in vars(above).values())
    north = noon[noon[:, 2] > 0, 1]
    assert (north > 0).all() == (latitude == "-33.9"), "where the sun is at noon"
    lit = np.bincount(days, above.sun[:, 2] > 0)
    assert (lit.min() == 0 and lit.max() == 48) == (latitude == "78.2"), "polar night and day"


def change(field: int, value: str):
    def apply(content: list[str]) -> None:
        row = content[107].split(",")
        row[field] = value
        content[107] = ",".join(row)

    return apply


def quoted(content: list[str]) -> None:
    """A quotation mark that is never closed, long before what is wrong."""
    change(5, '"?9')(content)
    content[208] = content[208].replace(",290,9,0,", ",290,9,-5,")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (change(6, "warm"), "line 108: temp_air 'warm' is not a number"),
        (change(6, "99.9"), "line 108: temp_air is missing"),
        (change(6, "277"), "line 108: temp_air is missing"),
        (change(14, "-5"), "line 108: dni is -5, out of range"),
        (change(21, "nan"), "line 108: wind_speed is nan"),
        (
            change(1, "nan"),
            "line 108: month nan, day 5, hour 4 where month 1, day 5, hour 4 should",
        ),
        (
            change(2, "inf"),
            "line 108: month 1, day inf, hour 4 where month 1, day 5, hour 4 should",
        ),
        (quoted, "line 209: dni is -5, out of range"),
        (change(3, "9"), "line 108: month 1, day 5, hour 9 where month 1, day 5, hour 4 should"),
        (
            lambda c: c.__delitem__(107),
            "line 108: month 1, day 5, hour 5 where month 1, day 5, hour 4 should",
        ),
        (lambda c: c.__setitem__(107, "1,2"), "line 108: 2 fields"),
        (lambda c: c.__delitem__(slice(5000, None)), "the file ends after 4992 hours"),
        (lambda c: c.__delitem__(slice(4, None)), "line 4: the file ends before its data"),
        (lambda c: c.__setitem__(0, "hello"), "line 1: it does not begin with LOCATION"),
        (lambda c: c.__setitem__(0, c[0].replace("45.0", "145")), "line 1: latitude 145"),
        (lambda c: c.clear(), "line 1"),
    ],
)
def test_a_broken_file_names_the_line(write, spoil, named: str) -> None:
    content = lines()
    spoil(content)
    with pytest.raises(InputError, match=named.replace("(", r"\(")):
        read_epw(write(content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_epw(tmp_path / "none.epw")


def test_missing_pressure_and_infrared_are_worked_out(write) -> None:
    content = lines()
    change(9, "999999")(content)
    change(12, "9999")(content)
    weather = read_epw(write(content))
    hour = 107 - 8
    assert weather.pressure[hour] == pytest.approx(standard_pressure(200)) != 98000
    expected = sky_temperature(np.array([5.0]), np.array([1.0]))[0]
    assert weather.sky_temperature[hour] == pytest.approx(expected)
    assert standard_pressure(0) == 101325


def test_the_reference_weather_has_its_published_checks(shared: Path) -> None:
    weather = read_epw(shared / "weather" / "725650TYCST.epw")
    assert weather.dry_bulb.mean() == pytest.approx(10.875, abs=1e-3)
    assert weather.direct_normal.sum() / 1000 == pytest.approx(1977.58, abs=0.01)


@pytest.mark.parametrize(
    ("latitude", "longitude", "altitude"),
    [(0, 0, 0), (39.8, -104.9, 1650), (-33.9, 151.2, 10), (66.5, 25.7, 0), (-90, 0, 2800)],
)
def test_the_sun_stands_where_pvlib_has_it_but_for_its_parallax(
    latitude: float, longitude: float, altitude: float
) -> None:
    times = pd.date_range("2001-01-01 00:05", periods=HOURS * 6, freq="10min", tz="UTC")
    wanted = get_solarposition(times, latitude, longitude, altitude)
    zenith, azimuth = position(times, latitude, longitude)
    apart = towards(zenith, azimuth) - towards(
        np.radians(wanted["zenith"].to_numpy()), np.radians(wanted["azimuth"].to_numpy())
    )
    assert np.degrees(np.linalg.norm(apart, axis=1).max()) < 0.004


def towards(zenith: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    across = np.sin(zenith)
    return np.stack([across * np.sin(azimuth), across * np.cos(azimuth), np.cos(zenith)], axis=1)
