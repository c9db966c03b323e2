"""Sun and sky for every step: pvlib's solar position and the coefficients of its Perez model."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from pvlib.atmosphere import get_relative_airmass
from pvlib.irradiance import get_extra_radiation, perez
from pvlib.solarposition import get_solarposition

from jobs.thermal.weather import FIRST_HOUR, Weather


@dataclass(frozen=True)
class Sky:
    """Sun and sky at every step; arrays of shape (steps,) or (steps, 3).

    `sun`: unit vector to the sun (east, north, up), zeros at night. `beam`: direct normal W/m2.
    `diffuse`: diffuse horizontal W/m2. `circumsolar` and `horizon`: F1 and F2 of Perez et al. 1990.
    """

    sun: np.ndarray
    beam: np.ndarray
    diffuse: np.ndarray
    circumsolar: np.ndarray
    horizon: np.ndarray


def sky(weather: Weather, steps_per_hour: int) -> Sky:
    """The sky of `weather`: each step has its own sun, and the hour's means are kept.

    What an hour's record holds of beam falls into the steps of it when the sun is up. The Perez
    coefficients (pvlib's `perez`, all-sites composite 1990) are read back from its components on
    a horizontal and a vertical plane, so that any plane can be served from them.
    """
    times = _middles(weather, steps_per_hour)
    zenith, azimuth = position(times, weather.latitude, weather.longitude)
    up = zenith < np.pi / 2
    steps_up = np.repeat(up.reshape(-1, steps_per_hour).sum(1), steps_per_hour)
    share = np.where(up, steps_per_hour / np.maximum(steps_up, 1), 0.0)
    beam = np.repeat(weather.direct_normal, steps_per_hour) * share
    diffuse = np.repeat(weather.diffuse_horizontal, steps_per_hour)
    some = np.maximum(diffuse, 1e-9)
    zenith_degrees = np.minimum(np.degrees(zenith), 90)
    arguments = {
        "surface_azimuth": 180,
        "dhi": some,
        "dni": beam,
        "dni_extra": np.asarray(get_extra_radiation(times)),
        "solar_zenith": zenith_degrees,
        "solar_azimuth": np.degrees(azimuth),
        "airmass": get_relative_airmass(np.minimum(zenith_degrees, 89.9)),
        "return_components": True,
    }
    flat = perez(surface_tilt=0, **arguments)
    upright = perez(surface_tilt=90, **arguments)
    lit = up & (diffuse > 0)
    towards = np.stack(
        [np.sin(zenith) * np.sin(azimuth), np.sin(zenith) * np.cos(azimuth), np.cos(zenith)], 1
    )
    return Sky(
        sun=np.where(up[:, None], towards, 0.0),
        beam=beam,
        diffuse=diffuse,
        circumsolar=np.where(lit, 1 - np.asarray(flat["poa_isotropic"]) / some, 0.0),
        horizon=np.where(lit, np.asarray(upright["poa_horizon"]) / some, 0.0),
    )


def _middles(weather: Weather, steps_per_hour: int) -> pd.DatetimeIndex:
    """Of all steps, UTC; the year is 2001, which has no leap day."""
    step = pd.Timedelta(hours=1) / steps_per_hour
    start = pd.Timestamp(FIRST_HOUR, tz="UTC") - pd.Timedelta(hours=weather.time_zone) + step / 2
    return pd.date_range(start, periods=weather.hours * steps_per_hour, freq=step)


def position(
    times: pd.DatetimeIndex, latitude: float, longitude: float
) -> tuple[np.ndarray, np.ndarray]:
    """The sun's zenith and azimuth in radians at even `times`, each (steps,).

    Along a meridian the sun's direction only turns, but for its parallax (0.0024 deg).
    """
    first, second = times[:2].to_list()
    east, north, up = _at_the_equator(first, second - first, len(times), longitude)
    cosine, sine = np.cos(np.radians(latitude)), np.sin(np.radians(latitude))
    zenith = np.arccos(np.clip(up * cosine + north * sine, -1, 1))
    return zenith, np.arctan2(east, north * cosine - up * sine) % (2 * np.pi)


@lru_cache(maxsize=4)
def _at_the_equator(start, step, steps, longitude):
    """Unit vectors to the sun as (east, north, up)."""
    times = pd.date_range(start, periods=steps, freq=step)
    found = np.radians(np.asarray(get_solarposition(times, 0.0, longitude)[["zenith", "azimuth"]]))
    across = np.sin(found[:, 0])
    return across * np.sin(found[:, 1]), across * np.cos(found[:, 1]), np.cos(found[:, 0])
