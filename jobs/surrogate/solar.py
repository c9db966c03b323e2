"""Sun and sky for every step: pvlib's solar position and the coefficients of its Perez model."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from pvlib.atmosphere import get_relative_airmass
from pvlib.irradiance import get_extra_radiation, perez
from pvlib.solarposition import get_solarposition

from jobs.surrogate.weather import Weather


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
    times = weather.times(steps_per_hour)
    zenith, azimuth = position(times, weather.latitude, weather.longitude, weather.altitude)
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
        "dni_extra": get_extra_radiation(times).to_numpy(),
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


def position(
    times: pd.DatetimeIndex, latitude: float, longitude: float, altitude: float
) -> tuple[np.ndarray, np.ndarray]:
    """The sun's zenith and azimuth in radians at even `times`, each (steps,); altitude in m.

    The last one is kept: a climate is made, described and simulated under the same sun.
    """
    return _position(times[0], times[1] - times[0], len(times), latitude, longitude, altitude)


@lru_cache(maxsize=2)
def _position(start, step, steps, latitude, longitude, altitude):
    times = pd.date_range(start, periods=steps, freq=step)
    found = get_solarposition(times, latitude, longitude, altitude)
    return np.radians(found["zenith"].to_numpy()), np.radians(found["azimuth"].to_numpy())


def solar_noon(longitude: float) -> float:
    """Mean hour of the sun's noon, UTC, at degrees east; the equation of time averages out."""
    return (12 - longitude / 15) % 24
