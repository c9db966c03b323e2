"""EnergyPlus weather files (EPW), read and checked line by line: no library names a broken line.

Imports nothing but numpy: the control plane checks the user's file with it.

Columns: EnergyPlus Auxiliary Programs, "EnergyPlus Weather File (EPW) Data Dictionary".
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from infra.errors import InputError

HEADER_LINES = 8
HOURS = 8760
FIRST_HOUR = datetime(2001, 1, 1)
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
NOON_TOLERANCE = 0.75
"""Hours that the radiation's daily centre may lie from the sun's noon."""
NIGHT, MOST_AT_NIGHT = -0.02, 0.02
"""Sine of an elevation at which it surely is night, and the share of direct radiation that may fall
then."""
LEAST_RADIATION = 20.0
"""kWh/m2 a year of direct and of diffuse radiation; the cloudiest towns get more."""
LEAST_INFRARED = 50.0
"""W/m2 from the sky; what is less stands for missing."""
PRESSURE_TOLERANCE = 0.08
"""Of a year's mean pressure, by that of the altitude; weather and a hill are less."""
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
        return replace(self, **arrays)


def read_epw(path: Path) -> Weather:
    """Read and check an EPW file of 8760 hours; blank lines and a 29 February are left out.

    Raises InputError that names the line for anything torn, out of range or missing, for a sun that
    shines at other hours than the place and the time zone let it, and for a pressure of another
    altitude.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "Give a readable EPW file.") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:  # older files
        text = content.decode("latin-1")
    if content.startswith(b"PK"):
        raise InputError(f"{path.name} is a zip archive", "Unpack it, and give the .epw file.")
    lines = re.split("\r\n|\r|\n", text.rstrip())
    first = _header_lines(lines)
    city, latitude, longitude, time_zone, altitude = _location(path, lines, first)
    rows: list[list[float]] = []
    leap = False
    for number, line in enumerate(lines[first:], first + 1):
        if not line.strip():
            continue
        row = line.split(",")
        values = _row(path, number, row)
        date = tuple(_number(path, number, "date", text) for text in row[1:4])
        if date[:2] == (2, 29):
            leap = True
            continue
        if len(rows) < HOURS:
            _check_date(path, number, date, len(rows))
        rows.append(values)
    if len(rows) != HOURS:
        raise _broken(path, len(lines), _wrong_length(len(rows), leap))
    known = dict(zip((c.name for c in COLUMNS), np.array(rows).T.copy(), strict=True))
    dry_bulb, infrared = known["temp_air"], known["ghi_infrared"]
    pressure = known["atmospheric_pressure"]
    _check_radiation(path, known)
    _check_noon(path, known["dni"] + known["dhi"], longitude, time_zone)
    _check_nights(path, known["dni"], latitude, longitude, time_zone)
    pressure = np.where(pressure < 999999, pressure, standard_pressure(altitude))
    _check_pressure(path, pressure, altitude)
    return Weather(
        name=city,
        latitude=latitude,
        longitude=longitude,
        time_zone=time_zone,
        altitude=altitude,
        dry_bulb=dry_bulb,
        sky_temperature=np.where(
            (infrared < 9999) & (infrared >= LEAST_INFRARED),
            (np.maximum(infrared, 1) / STEFAN_BOLTZMANN) ** 0.25 - 273.15,
            sky_temperature(dry_bulb, known["temp_dew"]),
        ),
        pressure=pressure,
        direct_normal=known["dni"],
        diffuse_horizontal=known["dhi"],
        wind_speed=known["wind_speed"],
        wind_direction=known["wind_direction"],
    )


def epw_files(folder: Path) -> list[Path]:
    """The EPW files of a folder, by name."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() == ".epw")


def solar_noon(longitude: float) -> float:
    """Mean hour of the sun's noon, UTC, at degrees east; the equation of time averages out."""
    return (12 - longitude / 15) % 24


def hours_from_noon(radiation: np.ndarray, longitude: float, time_zone: float) -> float:
    """Hours that the daily centre of hourly means of radiation lies after the sun's noon.

    `radiation` begins at midnight, `time_zone` hours ahead of UTC; `longitude` in degrees east.
    """
    angle = 2 * np.pi * (np.arange(len(radiation)) % 24 + 0.5) / 24
    centre = np.angle((radiation * np.exp(1j * angle)).sum()) * 24 / (2 * np.pi)
    return float((centre - time_zone - solar_noon(longitude) + 12) % 24 - 12)


def share_at_night(
    direct_normal: np.ndarray, latitude: float, longitude: float, time_zone: float
) -> float:
    """Share of a year's direct radiation (HOURS,) that falls in hours in which the sun is down.

    The sun's elevation is Spencer's (1971), good to half a degree.
    """
    highest = np.full(HOURS, -1.0)
    for moment in (0.0, 0.5, 1.0):
        clock = np.arange(HOURS) % 24 + moment
        year = 2 * np.pi * ((np.arange(HOURS) - time_zone) / 24 / 365)
        declination = (
            0.006918
            - 0.399912 * np.cos(year)
            + 0.070257 * np.sin(year)
            - 0.006758 * np.cos(2 * year)
            + 0.000907 * np.sin(2 * year)
        )
        of_time = 0.001868 * np.cos(year) - 0.032077 * np.sin(year)
        of_time -= 0.014615 * np.cos(2 * year) + 0.040849 * np.sin(2 * year)
        angle = np.pi * (clock - time_zone + longitude / 15 - 12) / 12 + of_time
        north, turned = np.radians(latitude), np.cos(declination) * np.cos(angle)
        sine = np.sin(north) * np.sin(declination) + np.cos(north) * turned
        highest = np.maximum(highest, sine)
    return float(direct_normal[highest < NIGHT].sum() / max(direct_normal.sum(), 1e-9))


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


def _header_lines(lines: list[str]) -> int:
    """How many come before the data: a comment with a line break makes them more."""
    for number, line in enumerate(lines[: 2 * HEADER_LINES], 1):
        if line.upper().startswith("DATA PERIODS"):
            return number
    return HEADER_LINES


def _check_date(path: Path, number: int, date: tuple[float, ...], hours: int) -> None:
    """The row after `hours` others must stand at its hour of the year."""
    expected = FIRST_HOUR + timedelta(hours=hours)
    if date == (expected.month, expected.day, expected.hour + 1):
        return
    month, day, hour = date
    before = expected - timedelta(hours=1)
    if hours and date == (before.month, before.day, before.hour + 1):
        raise _broken(path, number, f"hour {hour:g} is there twice; one row an hour is wanted")
    if not hours and month in range(1, 13):
        raise _broken(
            path,
            number,
            f"the data begin on {day:g} {MONTHS[int(month) - 1]}, hour {hour:g}, not on 1 January, "
            "hour 1",
        )
    raise _broken(
        path,
        number,
        f"month {month:g}, day {day:g}, hour {hour:g} where month {expected.month}, "
        f"day {expected.day}, hour {expected.hour + 1} should stand",
    )


def _wrong_length(hours: int, leap: bool) -> str:
    what = f"the file ends after {hours} hours of data, not {HOURS}"
    if hours > HOURS:
        return what
    if leap:
        what += " (29 February is left out)"
    missing = FIRST_HOUR + timedelta(hours=hours)
    return f"{what}: {missing.day} {MONTHS[missing.month - 1]}, hour {missing.hour + 1} is missing"


def _check_noon(path: Path, radiation: np.ndarray, longitude: float, time_zone: float) -> None:
    shift = hours_from_noon(radiation, longitude, time_zone)
    if abs(shift) > NOON_TOLERANCE:
        raise InputError(
            f"{path.name}, line 1: the sun's noon is {shift:+.1f} h from where it must be at "
            f"longitude {longitude:g} in the time zone UTC{time_zone:+g}",
            "Give hours in the time zone of the first line (are they UTC?), or correct that line.",
        )


def _check_radiation(path: Path, known: dict[str, np.ndarray]) -> None:
    for name in ("dni", "dhi"):
        total = known[name].sum() / 1000
        if total < LEAST_RADIATION:
            raise InputError(
                f"{path.name}: {name} brings {total:.3g} kWh/m2 a year",
                "Give direct normal and diffuse horizontal radiation in Wh/m2 (are they kWh/m2, or "
                "is one of them missing?).",
            )


def _check_nights(
    path: Path, direct: np.ndarray, latitude: float, longitude: float, time_zone: float
) -> None:
    share = share_at_night(direct, latitude, longitude, time_zone)
    if share > MOST_AT_NIGHT:
        raise InputError(
            f"{path.name}, line 1: {share:.0%} of the direct radiation falls while the sun is "
            f"down at latitude {latitude:g}",
            "Correct the latitude (south is negative), or give rows from January to December.",
        )


def _check_pressure(path: Path, pressure: np.ndarray, altitude: float) -> None:
    mean, wanted = pressure.mean(), standard_pressure(altitude)
    if abs(mean / wanted - 1) > PRESSURE_TOLERANCE:
        raise InputError(
            f"{path.name}: the mean pressure is {mean:.0f} Pa, {altitude:g} m have {wanted:.0f} Pa",
            "Correct the altitude of the first line (in feet?) or the pressure (at sea level?); "
            "999999 says that it is missing.",
        )


def _location(path: Path, lines: list[str], header: int) -> tuple[str, float, float, float, float]:
    first = lines[0].split(",") if lines else []
    if not first or first[0].strip().upper() != "LOCATION" or len(first) < 10:
        raise _broken(path, 1, "it does not begin with LOCATION and its nine fields")
    found = []
    bounds = (("latitude", 90), ("longitude", 180), ("time zone", 14), ("altitude", 9000))
    for (name, bound), text in zip(bounds, first[6:10], strict=True):
        found.append(_number(path, 1, name, text))
        if not abs(found[-1]) <= bound:
            raise _broken(path, 1, f"{name} {text} is beyond ±{bound}")
    if len(lines) <= header:
        raise _broken(path, len(lines), "the file ends before its data")
    return first[1], found[0], found[1], found[2], found[3]


def _row(path: Path, number: int, row: list[str]) -> list[float]:
    """The values of COLUMNS in one row."""
    if ",".join(row).count(";") >= 21:
        raise _broken(path, number, "semicolons stand between the fields, not commas")
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
