"""EnergyPlus weather files (EPW), read and checked line by line: no library names a broken line.

Imports nothing but numpy: the control plane checks the user's file with it.

Columns: EnergyPlus Auxiliary Programs, "EnergyPlus Weather File (EPW) Data Dictionary".
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from infra.errors import InputError

HEADER_LINES = 8
HOURS = 8760
FIRST_HOUR = datetime(2001, 1, 1)
STEFAN_BOLTZMANN = 5.670374419e-8
"""W/m2K4, CODATA 2018."""


@dataclass(frozen=True)
class Column:
    """One column of the data rows: its place (from 0), its range, and what stands for missing."""

    place: int
    name: str
    low: float
    high: float
    missing: float


COLUMNS = (
    Column(6, "temp_air", -90, 70, 99.9),
    Column(7, "temp_dew", -90, 70, 99.9),
    Column(9, "atmospheric_pressure", 31000, 120000, 999999),
    Column(12, "ghi_infrared", 0, 700, 9999),
    Column(14, "dni", 0, 1500, 9999),
    Column(15, "dhi", 0, 1200, 9999),
    Column(20, "wind_direction", 0, 360, 999),
    Column(21, "wind_speed", 0, 60, 999),
)
REPLACEABLE = {"temp_dew", "atmospheric_pressure", "ghi_infrared"}
"""Columns that are worked out where they are missing."""


@dataclass(frozen=True)
class Weather:
    """A year of hourly weather, local standard time; each array has shape (hours,).

    `latitude` and `longitude` in degrees north and east, `time_zone` in hours ahead of UTC,
    `altitude` in m. `dry_bulb` in degC at the end of the hour, `sky_temperature` in degC,
    `pressure` in Pa, `direct_normal` and `diffuse_horizontal` in W/m2 as means of the hour,
    `wind_speed` in m/s at 10 m, `wind_direction` in degrees from north, clockwise.
    """

    name: str
    latitude: float
    longitude: float
    time_zone: float
    altitude: float
    dry_bulb: np.ndarray
    sky_temperature: np.ndarray
    pressure: np.ndarray
    direct_normal: np.ndarray
    diffuse_horizontal: np.ndarray
    wind_speed: np.ndarray
    wind_direction: np.ndarray

    @property
    def hours(self) -> int:
        return len(self.dry_bulb)

    def first_days(self, days: int) -> "Weather":
        """The same place, its first `days` days only."""
        arrays = {k: v[: 24 * days] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return Weather(**(vars(self) | arrays))


def read_epw(path: Path) -> Weather:
    """Read and check an EPW file of 8760 hours; a 29 February is left out.

    Raises InputError that names the line for anything torn, out of range or missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "Give a readable EPW file.") from error
    lines = text.rstrip().splitlines()
    city, latitude, longitude, time_zone, altitude = _location(path, lines)
    rows: list[list[float]] = []
    for number, line in enumerate(lines[HEADER_LINES:], HEADER_LINES + 1):
        row = line.split(",")
        values = _row(path, number, row)
        month, day, hour = (_number(path, number, "date", text) for text in row[1:4])
        if (month, day) == (2, 29):
            continue
        expected = FIRST_HOUR + timedelta(hours=len(rows))
        if (month, day, hour) != (expected.month, expected.day, expected.hour + 1):
            raise _broken(
                path,
                number,
                f"month {month:g}, day {day:g}, hour {hour:g} where month {expected.month}, "
                f"day {expected.day}, hour {expected.hour + 1} should stand",
            )
        rows.append(values)
    if len(rows) != HOURS:
        what = f"the file ends after {len(rows)} hours of data, not {HOURS}"
        raise _broken(path, len(lines), what)
    known = dict(zip((c.name for c in COLUMNS), np.array(rows).T.copy(), strict=True))
    dry_bulb, infrared = known["temp_air"], known["ghi_infrared"]
    pressure = known["atmospheric_pressure"]
    return Weather(
        name=city,
        latitude=latitude,
        longitude=longitude,
        time_zone=time_zone,
        altitude=altitude,
        dry_bulb=dry_bulb,
        sky_temperature=np.where(
            (infrared < 9999) & (infrared > 0),
            (np.maximum(infrared, 1) / STEFAN_BOLTZMANN) ** 0.25 - 273.15,
            sky_temperature(dry_bulb, known["temp_dew"]),
        ),
        pressure=np.where(pressure < 999999, pressure, standard_pressure(altitude)),
        direct_normal=known["dni"],
        diffuse_horizontal=known["dhi"],
        wind_speed=known["wind_speed"],
        wind_direction=known["wind_direction"],
    )


def standard_pressure(altitude: float) -> float:
    """Pressure in Pa at `altitude` in m (ASHRAE Handbook of Fundamentals 2017, ch. 1, eq. 3)."""
    return 101325 * (1 - 2.25577e-5 * altitude) ** 5.2559


def sky_temperature(
    dry_bulb: np.ndarray, dew_point: np.ndarray, cover: np.ndarray | float = 0.0
) -> np.ndarray:
    """Sky temperature in degC from dry bulb and dew point in degC (Clark and Allen 1978).

    `cover`: opaque clouds in tenths (Walton 1983). A missing dew point counts as 10 K below the
    dry bulb.
    """
    dew = np.where(dew_point < 99, dew_point, dry_bulb - 10) + 273.15
    clouds = 1 + 0.0224 * cover - 0.0035 * cover**2 + 0.00028 * cover**3
    emissivity = (0.787 + 0.764 * np.log(dew / 273)) * clouds
    return emissivity**0.25 * (dry_bulb + 273.15) - 273.15


def _location(path: Path, lines: list[str]) -> tuple[str, float, float, float, float]:
    first = lines[0].split(",") if lines else []
    if not first or first[0].strip().upper() != "LOCATION" or len(first) < 10:
        raise _broken(path, 1, "it does not begin with LOCATION and its nine fields")
    found = []
    bounds = (("latitude", 90), ("longitude", 180), ("time zone", 14), ("altitude", 9000))
    for (name, bound), text in zip(bounds, first[6:10], strict=True):
        found.append(_number(path, 1, name, text))
        if not abs(found[-1]) <= bound:
            raise _broken(path, 1, f"{name} {text} is beyond ±{bound}")
    if len(lines) <= HEADER_LINES:
        raise _broken(path, len(lines), "the file ends before its data")
    return first[1], found[0], found[1], found[2], found[3]


def _row(path: Path, number: int, row: list[str]) -> list[float]:
    """The values of COLUMNS in one row."""
    if len(row) < 22:
        raise _broken(path, number, f"{len(row)} fields where at least 22 are needed")
    values = []
    for column in COLUMNS:
        value = _number(path, number, column.name, row[column.place])
        values.append(value)
        if value >= column.missing and column.name in REPLACEABLE:
            continue
        if not column.low <= value <= column.high:
            what = "missing" if value >= column.missing else f"{value:g}, out of range"
            raise _broken(path, number, f"{column.name} is {what}")
    return values


def _number(path: Path, number: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _broken(path, number, f"{name} {text.strip()!r} is not a number") from None


def _broken(path: Path, number: int, what: str) -> InputError:
    return InputError(
        f"{path.name}, line {number}: {what}",
        "Give a whole EPW file of one year; EnergyPlus's own are at climate.onebuilding.org.",
    )
