"""Made-up climates to train on, and what the surrogate is told of any weather."""

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pandas as pd
from pvlib.irradiance import erbs, get_extra_radiation
from scipy.signal import lfilter
from scipy.stats import gamma, norm

from jobs.surrogate.config import DEGREE_DAYS
from jobs.surrogate.reference_rooms import FACING, incident, reference_loads
from jobs.thermal.solar import Sky, position, sky
from jobs.thermal.weather import HOURS, Weather, sky_temperature, standard_pressure

LARGEST_CLEARNESS = 0.8
LARGEST_ALTITUDE = 2600.0
SPELL = 2.5
"""K, the deviation of a spell's mean."""


def place(drawn: Mapping[str, float]) -> dict[str, float]:
    """The arguments of `make_climate` of a row of config.CLIMATE: seasons and warmth are those that
    its latitude and altitude let expect, and more or less."""
    told = {name: drawn[name] for name in ("latitude", "daily_swing", "clearness", "wind")}
    latitude, altitude = drawn["latitude"], LARGEST_ALTITUDE * drawn["height"] ** 4
    least, most = 0.3 + 0.05 * latitude, 3 + 0.33 * latitude
    return told | {
        "mean_temperature": 26 - 0.0065 * latitude**2 - 0.004 * altitude + drawn["warmth"],
        "seasonal_swing": least + (most - least) * drawn["seasonality"],
        "altitude": altitude,
        "dryness": drawn["dryness"],
    }


def make_climate(
    latitude: float,
    mean_temperature: float,
    seasonal_swing: float,
    daily_swing: float,
    clearness: float,
    wind: float,
    seed: int,
    altitude: float = 0.0,
    dryness: float = 7.0,
) -> Weather:
    """A year of weather with these statistics (see `place`), and all else by `seed`: sines and
    spells of some days, and how temperature, clouds, wind and sky go together.

    `altitude` in m; `dryness`: K that the dew point lies below the day's mean temperature.

    Direct and diffuse come from the clearness by Erbs et al. 1982 (pvlib), the sky's temperature
    from dew point and clouds by Clark and Allen 1978 and Walton 1983, each more or less of it.
    """
    random = np.random.default_rng(seed)
    hour = np.arange(HOURS)
    day = hour // 24
    season = -np.cos(2 * np.pi * (day - random.uniform(10, 35)) / 365)
    spell = _spells(random, random.uniform(0.5, 0.85))
    clear = _clearness(random, clearness, spell, season[::24], altitude)
    # brighter days swing more, and so do some seasons
    swing = (clear / clear.mean()) ** random.uniform(0.2, 1) * (
        1 + random.uniform(-0.3, 0.3) * season[::24]
    )
    swing = swing * random.gamma(8, 1 / 8, 365) ** random.uniform(0, 1)
    unsteady = min(1, 0.2 + latitude / 40)  # no spells to speak of at the equator
    spell_size = (
        unsteady * random.uniform(0.8, 5.5) * (1 - random.uniform(0, 0.6) * season[::24] * unsteady)
    )
    spell = spell * (1 + random.uniform(-0.2, 0.2) * spell)
    dry_bulb = (
        mean_temperature
        + seasonal_swing * season
        + random.uniform(0, 0.2) * seasonal_swing * _harmonic(random, day, 2)
        + random.uniform(0, 0.1) * seasonal_swing * _harmonic(random, day, 3)
        + daily_swing * swing[day] * _day(random)[hour % 24]
        + _smooth(spell_size * spell + unsteady * _months(random))
    )
    above, extra = _extraterrestrial(latitude)
    zenith_cosine = above / extra
    sky_clear = _hourly_clearness(random, clear, zenith_cosine)
    direct, diffuse = _split(random, sky_clear, zenith_cosine, extra)
    drier = (clear / clear.mean()) * (1 + random.uniform(-0.5, 0.5) * season[::24])
    dew = _smooth(dry_bulb.reshape(-1, 24).mean(1) - dryness * drier)
    covered = 10 * np.clip(1 - clear / clear.max(), 0, 1)[day] * random.uniform(0.3, 1.1)
    cold = sky_temperature(dry_bulb, np.minimum(dew, dry_bulb - 0.2), covered)
    blowing = _wind(random, season, clear)
    return Weather(
        name="made up",
        latitude=latitude,
        longitude=0.0,
        time_zone=0.0,
        altitude=altitude,
        dry_bulb=dry_bulb,
        sky_temperature=np.minimum(cold + random.uniform(-5, 4), dry_bulb),
        pressure=np.full(HOURS, standard_pressure(altitude)),
        direct_normal=direct,
        diffuse_horizontal=diffuse,
        wind_speed=wind * blowing / blowing.mean(),
        wind_direction=(random.uniform(0, 360) + 90 * random.standard_normal(HOURS)) % 360,
    )


def _wind(random: np.random.Generator, season: np.ndarray, clear: np.ndarray) -> np.ndarray:
    """Of each hour, of any mean: by season, stronger on the afternoons of bright days, with gusts
    that last some hours, weeks and calms."""
    hour = np.arange(HOURS)
    bright = (clear / clear.mean()) ** random.uniform(0, 1)
    noon = np.cos(2 * np.pi * (hour % 24 - random.uniform(12.5, 16.5)) / 24)
    blowing = (1 + random.uniform(-0.4, 0.4) * season) * np.maximum(
        1 + random.uniform(-0.2, 0.7) * bright[hour // 24] * noon, 0.05
    )
    # two gamma distributions by way of the normal one, whose hours go together
    gusts, weeks = random.uniform(2.5, 15), random.uniform(3, 15)
    lasting = random.uniform(0, 0.97)
    fresh = np.sqrt(1 - lasting**2) * random.standard_normal(HOURS)
    normal = lfilter([1.0], [1.0, -lasting], fresh)
    blowing = blowing * gamma.ppf(norm.cdf(normal), gusts, scale=1 / gusts)
    blowing = blowing * random.gamma(weeks, 1 / weeks, 365)[hour // 24]
    calm = np.quantile(blowing, random.uniform(0, 0.3) * random.integers(0, 2))
    return np.maximum(blowing - calm, 0.0)


def _harmonic(random: np.random.Generator, day: np.ndarray, number: int) -> np.ndarray:
    """A sine that comes `number` times a year, at any time."""
    return np.cos(2 * np.pi * number * (day / 365 + random.uniform(0, 1)))


def _spells(random: np.random.Generator, lasting: float) -> np.ndarray:
    """365 daily values of mean 0 and deviation 1 that last some days (autoregressive)."""
    values = np.empty(365)
    values[0] = random.standard_normal()
    for n in range(1, 365):
        fresh = np.sqrt(1 - lasting**2) * random.standard_normal()
        values[n] = lasting * values[n - 1] + fresh
    return values


def _months(random: np.random.Generator) -> np.ndarray:
    """Of each day, (365,), K: typical years are put together of months of different years."""
    months = random.uniform(0, 1.5) * random.standard_normal(12)
    return months[np.arange(365) * 12 // 365]


def _smooth(daily: np.ndarray) -> np.ndarray:
    """Daily values, (365,), as hourly ones without jumps at midnight."""
    days = np.concatenate([daily[-1:], daily, daily[:1]])
    return np.interp((np.arange(HOURS) + 0.5) / 24 + 0.5, np.arange(len(days)), days)


def _day(random: np.random.Generator) -> np.ndarray:
    """The shape of a day's temperatures, (24,): from −1 to 1, of mean 0, warmest after noon."""
    hour, peak = np.arange(24), random.uniform(13.5, 16.5)
    shape = np.cos(2 * np.pi * (hour - peak) / 24)
    shape = shape + random.uniform(0, 0.35) * np.cos(4 * np.pi * (hour - peak + 1) / 24)
    shape = 2 * shape / np.ptp(shape)
    return shape - shape.mean()


def _clearness(
    random: np.random.Generator,
    mean: float,
    spell: np.ndarray,
    season: np.ndarray,
    altitude: float,
) -> np.ndarray:
    """Of each day, (365,): by season, and with the spells of warm and cold as the season has it."""
    along = random.uniform(-0.3, 0.3) + random.uniform(-0.1, 0.5) * season
    own = _spells(random, random.uniform(0.1, 0.7))
    going = along * spell + np.sqrt(1 - along**2) * own
    clear = mean * (1 + random.uniform(-0.3, 0.3) * season) + random.uniform(0.06, 0.22) * going
    return np.clip(clear, 0.08, LARGEST_CLEARNESS + 2e-5 * altitude)


@lru_cache(maxsize=1)
def _sun_times() -> pd.DatetimeIndex:
    return pd.date_range("2001-01-01 00:30", periods=HOURS, freq="h", tz="UTC")


def _extraterrestrial(latitude: float) -> tuple[np.ndarray, np.ndarray]:
    """W/m2 beyond the atmosphere, on the horizontal and towards the sun, each (HOURS,)."""
    zenith, _ = position(_sun_times(), latitude, 0.0)
    extra = np.asarray(get_extra_radiation(_sun_times()))
    return np.maximum(np.cos(zenith), 0) * extra, extra


def _air_mass(height: np.ndarray) -> np.ndarray:
    """Relative, of the sine of the sun's height (Kasten and Young 1989 up to 12)."""
    degrees = np.degrees(np.arcsin(np.clip(height, 0, 1)))
    return np.minimum(1 / (height + 0.50572 * (degrees + 6.07995) ** -1.6364), 12)


def _hourly_clearness(
    random: np.random.Generator, clear: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """Of each hour: mornings or evenings brighter, a low sun dimmer, clouds that come and go."""
    hour = np.arange(HOURS)
    tilt = 1 + random.uniform(-0.25, 0.25) * np.clip((hour % 24 - 11.5) / 6, -1, 1)
    dimmed = np.exp(-random.uniform(0.01, 0.09) * (_air_mass(height) - 1.5))
    clouds = np.exp(random.uniform(0.02, 0.3) * random.standard_normal(HOURS))
    return np.clip(clear[hour // 24] * tilt * dimmed * clouds, 0.03, 0.85)


def _split(
    random: np.random.Generator, clear: np.ndarray, height: np.ndarray, extra: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Direct normal and diffuse horizontal W/m2, each (HOURS,), of the hours' clearness."""
    zenith = np.minimum(np.degrees(np.arccos(height)), 89.9)
    global_ = clear * height * extra
    part = np.asarray(erbs(global_, zenith, _sun_times())["dhi"]) / np.maximum(global_, 1e-9)
    diffuse = np.clip(part * random.uniform(0.75, 1.25), 0.05, 1) * global_
    direct = np.where(height > 0.05, (global_ - diffuse) / np.maximum(height, 0.05), 0.0)
    clearest = random.uniform(0.66, 0.86) * np.exp(-random.uniform(0.05, 0.13) * _air_mass(height))
    direct = np.clip(direct, 0, clearest * extra)
    return direct, np.maximum(global_ - direct * height, 0)


def describe_weather(weather: Weather) -> dict[str, float]:
    """The quantities of config.WEATHER for a year of weather."""
    days = weather.dry_bulb.reshape(-1, 24)
    months = [part.mean() for part in np.array_split(days, 12)]
    above = sky(weather, 1)
    global_ = (above.beam * above.sun[:, 2] + above.diffuse).sum() / 1000
    degrees = degree_days(weather.dry_bulb)
    return {
        "latitude": weather.latitude,
        "mean_temperature": float(days.mean()),
        "seasonal_swing": float(np.ptp(months) / 2),
        "daily_swing": float(np.ptp(days, axis=1).mean() / 2),
        "global_radiation": float(global_),
        "diffuse_share": float(above.diffuse.sum() / 1000 / global_),
        "wind": float(weather.wind_speed.mean()),
        **{f"{name}_radiation": _vertical(above, name) for name in FACING},
        **{name: float(value) for name, value in degrees.items()},
        "pressure": float(weather.pressure.mean() / 1000),
        "sky_depression": float((weather.dry_bulb - weather.sky_temperature).mean()),
        **reference_loads(weather, above),
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


def _vertical(above: Sky, facing: str) -> float:
    """kWh/m2 a year on a vertical plane."""
    beam, rest, _ = incident(above, facing)
    return float((beam + rest).sum() / 1000)
