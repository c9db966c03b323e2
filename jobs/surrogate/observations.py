"""Real buildings, measured hour by hour: checked, and summed up to what the surrogate predicts.

A file (CSV or Parquet) holds one building-year: a `time` column with its offset from UTC, hourly
OBSERVED columns, and the constant columns of config.DESIGN and `latitude`, `longitude`. Nothing is
guessed: what does not fit is refused with the column and the first bad row.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from infra.errors import InputError
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.config import DESIGN, INPUTS, LOADS, OBSERVED, OUTPUTS
from jobs.surrogate.designs import check_designs, northern, read_table
from jobs.surrogate.network import encode
from jobs.thermal.weather import (
    HOURS,
    MOST_AT_NIGHT,
    NOON_TOLERANCE,
    Weather,
    hours_from_noon,
    share_at_night,
    sky_temperature,
    standard_pressure,
)

LONGEST_GAP = 3
"""Hours that are filled in between neighbours."""
MOST_MISSING = 0.05
"""Of all hours of a column."""
MOST_OUTLIERS = 0.01
MOST_ALIKE = 72
"""Hours on end in which the air outside is as warm; what stands still longer is a broken sensor."""
LARGEST_LOAD = 1000.0
"""W/m2 of a room's floor in one hour; the leakiest design in the coldest climate needs a third."""
LEAST_SUN = 200.0
"""kWh/m2 a year on the horizontal; the poles get more."""
WORTH_CHECKING, MOST_APART = 100.0, 30.0
"""Loads from that many kWh/m2 a year on may differ by that factor from what a handbook says."""


def read_observation(path: Path) -> dict[str, float]:
    """One row of config.INPUTS and measured config.OUTPUTS (kWh/m2 a year, degC; others absent).

    Raises InputError for missing columns, gaps, outliers, wrong units and a shifted time zone.
    """
    table = read_table(path)
    names = [q.name for q in OBSERVED]
    wanted = ["time", "latitude", "longitude", *names, *(q.name for q in DESIGN)]
    if missing := [name for name in wanted if name not in table]:
        raise InputError(
            f"{path.name}: no column {', '.join(missing)}", "docs/surrogate.md lists the columns."
        )
    if table.empty:
        raise InputError(f"{path.name}: it has no rows", "Give hourly means of one year.")
    _check_constant(path.name, table[["latitude", "longitude", *(q.name for q in DESIGN)]])
    sides = table[["width", "depth"]].iloc[:1].apply(pd.to_numeric, errors="coerce")
    floor = float(sides.prod(axis=1, skipna=False).iloc[0])
    hourly = _hourly(path.name, table, names, LARGEST_LOAD * floor)
    latitude, longitude = (
        _place(path.name, table, *one) for one in (("latitude", 90), ("longitude", 180))
    )
    _check_noon(path.name, hourly, longitude)
    weather = _weather(hourly, latitude, longitude)
    at_night = share_at_night(weather.direct_normal, latitude, longitude, 0)
    if at_night > MOST_AT_NIGHT:
        raise InputError(
            f"{path.name}: {at_night:.0%} of the direct radiation falls while the sun is down at "
            f"latitude {latitude:g}",
            "Correct the latitude (south is negative), or the times.",
        )
    described = describe_weather(weather)
    if described["global_radiation"] < LEAST_SUN:
        raise InputError(
            f"{path.name}: the sun brings {described['global_radiation']:.3g} kWh/m2 a year",
            "Give direct_normal and diffuse_horizontal in W/m2 (are they kW/m2?).",
        )
    design = table[[q.name for q in DESIGN]].iloc[:1].assign(**described)
    inputs = northern(check_designs(design, path.name)).iloc[0]
    floor = inputs["width"] * inputs["depth"]
    loads = {n: float(hourly[n].sum() / 1000 / floor) for n in OUTPUTS[:LOADS]}
    _check_amounts(path.name, inputs, loads)
    air = {n: float(hourly[n].mean()) for n in OUTPUTS[4:6]}
    return {**{name: float(inputs[name]) for name in INPUTS}, **loads, **air}


def _check_constant(name: str, columns: pd.DataFrame) -> None:
    """A building that was rebuilt within the year, or two of them, are no observation."""
    for column, values in columns.items():
        there = values.dropna()
        changed = np.flatnonzero((values != there.iloc[0]) & values.notna()) if len(there) else []
        if len(changed):
            row = int(changed[0])
            raise InputError(
                f"{name}, row {row + 1}: {column} changes from {there.iloc[0]} to "
                f"{values.iloc[row]}",
                "Give one building in one state for a year in each file.",
            )


def _place(name: str, table: pd.DataFrame, column: str, most: float) -> float:
    given = table[column].iloc[0]
    numbers = table[[column]].apply(pd.to_numeric, errors="coerce")
    degrees = float(numbers[column].iloc[0])
    if not abs(degrees) <= most:
        raise InputError(f"{name}, row 1: {column} is {given!r}", f"Give degrees within ±{most:g}.")
    return degrees


def _check_amounts(name: str, inputs: pd.Series, loads: dict[str, float]) -> None:
    """Loads of a year must be of the size that there can be: meters may count in kW."""
    handbook = encode(torch.tensor([inputs.to_list()]))[1][:LOADS, 0].tolist()
    for (load, measured), said in zip(loads.items(), handbook, strict=True):
        if max(measured, said) < WORTH_CHECKING:
            continue
        if not said / MOST_APART <= measured <= said * MOST_APART:
            raise InputError(
                f"{name}: {load} is {measured:.3g} kWh/m2 a year, degree hours say {said:.3g}",
                "Give it in W (is it kW, or that of several buildings?), or correct the design.",
            )


def _hourly(name: str, table: pd.DataFrame, columns: list[str], most: float) -> pd.DataFrame:
    """A year of whole hours, short gaps filled, index in UTC; loads above `most` W are outliers."""
    time = pd.to_datetime(table["time"], utc=True, errors="coerce", format="ISO8601")
    if time.isna().any():
        row = int(np.flatnonzero(time.isna())[0])
        raise InputError(
            f"{name}, row {row + 1}: time {table['time'].iloc[row]!r} is no time",
            "Write ISO 8601 with the offset, e.g. 2025-01-31T14:00+01:00.",
        )
    if not table["time"].astype(str).str.contains(r"(?:Z|[+-]\d{2}:?\d{2})$").all():
        raise InputError(
            f"{name}: the times have no offset from UTC", "Write e.g. 2025-01-31T14:00+01:00."
        )
    if time.duplicated().any():
        row = int(np.flatnonzero(time.duplicated())[0])
        raise InputError(f"{name}, row {row + 1}: the hour is there twice", "Keep one of them.")
    if len(table) > HOURS:
        raise InputError(
            f"{name}: it has {len(table)} rows, a year has {HOURS} hours",
            "Give hourly means of one year; of a leap year leave the last day out.",
        )
    numbers = table[columns].apply(pd.to_numeric, errors="coerce").set_axis(pd.DatetimeIndex(time))
    span = pd.date_range(numbers.index.min(), periods=HOURS, freq="h")
    if not numbers.index.isin(span).all():
        raise InputError(
            f"{name}: the times are not whole steps of an hour in one year of {HOURS} hours",
            "Give hourly means of one year.",
        )
    hourly = numbers.reindex(span)
    for quantity in OBSERVED:
        values = hourly[quantity.name]
        # a width that is no number is told of later
        high = most if quantity.unit == "W" and 0 < most < quantity.high else quantity.high
        odd = (values < quantity.low) | (values > high)
        if odd.mean() > MOST_OUTLIERS:
            raise InputError(
                f"{name}: {quantity.name} is out of {quantity.low:g} to {high:g} "
                f"{quantity.unit} in {odd.mean():.0%} of the hours",
                f"Give it in {quantity.unit}.",
            )
        hourly[quantity.name] = values.mask(odd)
    lacking = hourly.isna().mean()
    if lacking.max() > MOST_MISSING:
        raise InputError(
            f"{name}: {lacking.idxmax()} lacks {lacking.max():.1%} of the year's hours",
            f"At most {MOST_MISSING:.0%} may be missing.",
        )
    air = hourly["dry_bulb"].dropna()
    longest = int(air.groupby((air != air.shift()).cumsum()).size().max())
    if longest > MOST_ALIKE:
        raise InputError(
            f"{name}: dry_bulb is the same for {longest} hours on end",
            "Leave hours empty in which the sensor did not work.",
        )
    filled = hourly.interpolate(limit=LONGEST_GAP, limit_area="inside")
    return filled.fillna(filled.groupby(pd.DatetimeIndex(filled.index).hour).transform("mean"))


def _check_noon(name: str, hourly: pd.DataFrame, longitude: float) -> None:
    """The radiation's daily centre of mass must be where the sun's noon is."""
    radiation = (hourly["direct_normal"] + hourly["diffuse_horizontal"]).to_numpy()
    midnight = pd.DatetimeIndex(hourly.index).hour.to_numpy()[0]
    shift = hours_from_noon(np.roll(radiation, midnight), longitude, 0)
    if abs(shift) > NOON_TOLERANCE:
        raise InputError(
            f"{name}: the sun's noon is {shift:+.1f} h from where it must be at longitude "
            f"{longitude:g}",
            "Correct the times' offset from UTC (summer time?), or the longitude.",
        )


def _weather(hourly: pd.DataFrame, latitude: float, longitude: float) -> Weather:
    """The measured weather from January to December, UTC."""
    time = pd.DatetimeIndex(hourly.index)
    order = np.argsort(time.dayofyear.to_numpy() * 24 + time.hour, kind="stable")
    dry_bulb = hourly["dry_bulb"].to_numpy()[order]
    return Weather(
        name="measured",
        latitude=latitude,
        longitude=longitude,
        time_zone=0.0,
        altitude=0.0,
        dry_bulb=dry_bulb,
        sky_temperature=sky_temperature(dry_bulb, dry_bulb - 10),
        pressure=np.full(HOURS, standard_pressure(0.0)),
        direct_normal=hourly["direct_normal"].to_numpy()[order],
        diffuse_horizontal=hourly["diffuse_horizontal"].to_numpy()[order],
        wind_speed=hourly["wind_speed"].to_numpy()[order],
        wind_direction=np.zeros(HOURS),
    )
