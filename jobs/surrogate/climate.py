"""Made-up climates to train on, and what the surrogate is told of any weather."""

import numpy as np
import pandas as pd
from pvlib.irradiance import erbs, get_extra_radiation
from scipy.stats import norm

from jobs.surrogate.config import DEGREE_DAYS
from jobs.surrogate.solar import Sky, position, sky
from jobs.surrogate.weather import HOURS, Weather, sky_temperature, standard_pressure

LARGEST_CLEARNESS = 0.8
COSINE_85 = 0.0871557
"""Perez's limit to the sun's height."""
SPELL = 2.5
"""K, the deviation of a spell's mean."""
FACING = {"north": (0, 1), "east": (1, 0), "south": (0, -1), "west": (-1, 0)}


def make_climate(
    latitude: float,
    mean_temperature: float,
    seasonal_swing: float,
    daily_swing: float,
    clearness: float,
    wind: float,
    seed: int,
) -> Weather:
    """A year of weather with the statistics of config.CLIMATE: sines, and spells of some days.

    Direct and diffuse come from the clearness by Erbs et al. 1982 (pvlib), the sky's temperature
    from dew point and cloud cover by Clark and Allen 1978 and Walton 1983.
    """
    random = np.random.default_rng(seed)
    hour = np.arange(HOURS)
    day = hour // 24
    spell = _spells(random)[day]
    clear = np.clip(clearness + 0.13 * _spells(random)[day], 0.08, LARGEST_CLEARNESS)
    season = -np.cos(2 * np.pi * (day - 20) / 365)
    # brighter days swing more
    swing = daily_swing * clear / clearness
    dry_bulb = (
        mean_temperature
        + seasonal_swing * season
        + swing * np.sin(2 * np.pi * (hour % 24 - 8) / 24)
        + SPELL * spell
    )
    times = pd.date_range("2001-01-01 00:30", periods=HOURS, freq="h", tz="UTC")
    zenith, _ = position(times, latitude, 0.0)
    above = np.maximum(np.cos(zenith), 0) * get_extra_radiation(times).to_numpy()
    split = erbs(clear * above, np.minimum(np.degrees(zenith), 89.9), times)
    covered = 10 * (1 - clear / LARGEST_CLEARNESS)
    return Weather(
        name="made up",
        latitude=latitude,
        longitude=0.0,
        time_zone=0.0,
        altitude=0.0,
        dry_bulb=dry_bulb,
        sky_temperature=sky_temperature(dry_bulb, dry_bulb - 6 * clear / 0.6, covered),
        pressure=np.full(HOURS, standard_pressure(0.0)),
        direct_normal=np.clip(np.nan_to_num(np.asarray(split["dni"])), 0, 1100),
        diffuse_horizontal=np.nan_to_num(np.asarray(split["dhi"])),
        wind_speed=wind * random.gamma(2.0, 0.5, HOURS),
        wind_direction=(random.uniform(0, 360) + 90 * random.standard_normal(HOURS)) % 360,
    )


def _spells(random: np.random.Generator) -> np.ndarray:
    """365 daily values of mean 0 and deviation 1 that last some days (autoregressive, 0.7)."""
    values = np.empty(365)
    values[0] = random.standard_normal()
    for n in range(1, 365):
        values[n] = 0.7 * values[n - 1] + np.sqrt(1 - 0.49) * random.standard_normal()
    return values


def describe_weather(weather: Weather) -> dict[str, float]:
    """The quantities of config.WEATHER for a year of weather."""
    days = weather.dry_bulb.reshape(-1, 24)
    months = [part.mean() for part in np.array_split(days, 12)]
    above = sky(weather, 1)
    global_ = (above.beam * above.sun[:, 2] + above.diffuse).sum() / 1000
    return {
        "latitude": weather.latitude,
        "mean_temperature": float(days.mean()),
        "seasonal_swing": float(np.ptp(months) / 2),
        "daily_swing": float(np.ptp(days, axis=1).mean() / 2),
        "global_radiation": float(global_),
        "diffuse_share": float(above.diffuse.sum() / 1000 / global_),
        "wind": float(weather.wind_speed.mean()),
        **{f"{name}_radiation": _vertical(above, *to) for name, to in FACING.items()},
        **degree_days(weather.dry_bulb),
    }


def degree_days(temperature: np.ndarray) -> dict[str, np.ndarray]:
    """config.DEGREE_DAYS of a year whose temperatures lie, evenly weighted, along the last axis."""
    found = {}
    for quantity in DEGREE_DAYS:
        kind, _, base = quantity.name.split("_")
        short = float(base) - temperature if kind == "heating" else temperature - float(base)
        found[quantity.name] = 365 * np.maximum(short, 0).mean(-1)
    return found


def likely_degree_days(
    mean: np.ndarray, seasonal_swing: np.ndarray, daily_swing: np.ndarray
) -> dict[str, np.ndarray]:
    """config.DEGREE_DAYS of years of which the swings alone are known, each argument (N,).

    They are taken for sines, with spells that are normally distributed, as in `make_climate`.
    """
    wave = np.cos(2 * np.pi * (np.arange(12) + 0.5) / 12)
    spells = SPELL * norm.ppf((np.arange(5) + 0.5) / 5)
    year, day, spell = (each.ravel() for each in np.meshgrid(wave, wave, spells))
    return degree_days(
        mean[:, None] + seasonal_swing[:, None] * year + daily_swing[:, None] * day + spell
    )


def _vertical(above: Sky, east: float, north: float) -> float:
    """kWh/m2 on a vertical plane, its outward normal given; Perez's sky, ground reflecting 0.2."""
    cosine = np.maximum(above.sun[:, 0] * east + above.sun[:, 1] * north, 0)
    height = np.maximum(above.sun[:, 2], COSINE_85)
    beam = (above.beam + above.diffuse * above.circumsolar / height) * cosine
    rest = above.diffuse * ((1 - above.circumsolar) / 2 + above.horizon)
    ground = 0.1 * (above.beam * above.sun[:, 2] + above.diffuse)
    return float((beam + np.maximum(rest, 0) + ground).sum() / 1000)
