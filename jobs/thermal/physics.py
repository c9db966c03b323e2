"""The reference: a thermal simulation of many buildings at once, in steps of an hour or less.

    loads = simulate(buildings, read_epw(Path("town.epw")))

Walls conduct in one dimension through cells with mass (implicit Euler); faces
exchange convection with their air (TARP, DOE-2) and infrared with each other through Carroll's
mean radiant temperature (1980) or with sky, air and ground (Walton 1983). The sun comes by Perez's
sky, past shades, through Fresnel's glass, onto the planes it strikes. Heating and cooling are
ideal. Left out: moisture, air flow between zones, thermal bridges, sunlight from one zone into
the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import InputError
from jobs.thermal.building import Building, stack
from jobs.thermal.march import compiled
from jobs.thermal.solar import sky
from jobs.thermal.weather import Weather

STEPS = (1, 2, 3, 6)


@dataclass(frozen=True)
class Loads:
    """What a simulation gives; D designs, Z zones, H hours.

    `heating`, `cooling` (mean W) and `temperature` (mean degC of the air): shape (D, Z, H).
    `transmitted`: kWh of sun through the windows of each zone, shape (D, Z).
    `imbalance` and `turnover`: W that the hour's energy balance fails by, and the sum of all its
    terms' sizes, shape (D, H).
    """

    heating: np.ndarray
    cooling: np.ndarray
    temperature: np.ndarray
    transmitted: np.ndarray
    imbalance: np.ndarray
    turnover: np.ndarray

    @property
    def annual_heating(self) -> np.ndarray:
        """kWh, shape (D, Z)."""
        return self.heating.sum(2, dtype=float) / 1000

    @property
    def annual_cooling(self) -> np.ndarray:
        """kWh, sensible, shape (D, Z)."""
        return self.cooling.sum(2, dtype=float) / 1000


def simulate(
    buildings: Sequence[Building], weather: Weather, steps_per_hour: int = 6, warmup_days: int = 25
) -> Loads:
    """Simulate every building through `weather`, after `warmup_days` from the end of it.

    Raises InputError for an unusable building (named by its number) or step.
    """
    if steps_per_hour not in STEPS:
        raise InputError(f"{steps_per_hour} steps an hour", f"Use one of {STEPS}.")
    if not buildings:
        raise InputError("no design to simulate", "Give at least one.")
    above = sky(weather, steps_per_hour)
    series = np.stack(
        [
            _interpolate(array, steps_per_hour)
            for array in (weather.dry_bulb, weather.sky_temperature)
        ]
        + [
            np.repeat(array, steps_per_hour)
            for array in (weather.pressure, weather.wind_speed, np.radians(weather.wind_direction))
        ]
        + [above.beam, above.diffuse, above.circumsolar, above.horizon],
        axis=1,
    )
    results = compiled()(stack(buildings), series, above.sun, steps_per_hour, warmup_days)
    return Loads(*results)


def _interpolate(hourly: np.ndarray, steps: int) -> np.ndarray:
    """Values at the ends of all steps of a series that stands at the ends of hours."""
    hours = np.arange(len(hourly) + 1)
    ends = np.arange(1, len(hourly) * steps + 1) / steps
    return np.interp(ends, hours, np.concatenate([hourly[-1:], hourly]))
