"""What a year of weather asks of rooms that are always the same: what the surrogate is told of how
temperature, sun, sky, wind and pressure go together through the hours.

Each room has one window, to the north, east, south or west, and two nodes: its air, without
capacity, and its mass, inside the insulation (lumped by the hour as in EN ISO 13790, annex C).
They stand for no design, and they are no simulation of one: two years that ask the same of these
rooms ask much the same of any.
"""

from math import sqrt
from typing import NamedTuple

import numpy as np
from numba import njit

from jobs.thermal.solar import Sky
from jobs.thermal.weather import Weather

COSINE_85 = 0.0871557
"""Perez's limit to the sun's height."""
FACING = {"north": (0.0, 1.0), "east": (1.0, 0.0), "south": (0.0, -1.0), "west": (-1.0, 0.0)}
"""Outward normals, east and north."""


class Room(NamedTuple):
    """For each m2 of floor: W/m2K of walls and of the roof (beside the sheltered floor), m2 of
    glass, air changes in 1/h, Wh/m2K of mass."""

    walls: float
    roof: float
    floor: float
    glass: float
    air_changes: float
    capacity: float


ROOMS = {
    "light": Room(0.9, 0.8, 0.5, 0.12, 0.9, 40.0),
    "heavy": Room(0.4, 0.4, 0.3, 0.22, 0.4, 200.0),
}
HEIGHT, GAINS, HEATED_TO, COOLED_TO = 3.2, 7.5, 19.5, 25.5
"""m, W/m2 and degC of every room."""
WARMUP = 24 * 15
STILL, ROUGH, NEAR = 2.2, 1.67, 0.8
"""Of the film outside, as the simulation has it: W/m2K of a face 5 K warmer than still air, the
roughness, and the wind near the house by that at 10 m."""


def incident(above: Sky, facing: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Beam with the circumsolar, all else, both in W/m2 on a vertical plane, and the cosine of the
    sun's angle to it; each (steps,). Perez's sky, ground reflecting 0.2."""
    east, north = FACING[facing]
    cosine = np.maximum(above.sun[:, 0] * east + above.sun[:, 1] * north, 0)
    height = np.maximum(above.sun[:, 2], COSINE_85)
    beam = (above.beam + above.diffuse * above.circumsolar / height) * cosine
    rest = above.diffuse * ((1 - above.circumsolar) / 2 + above.horizon)
    ground = 0.1 * (above.beam * above.sun[:, 2] + above.diffuse)
    return beam, np.maximum(rest, 0) + ground, cosine


def reference_loads(weather: Weather, above: Sky) -> dict[str, float]:
    """Heating and cooling of every room by `<load>_<room>_<facing>`, kWh/m2 a year.

    `above` is the sky of `weather`, one step an hour.
    """
    flat = above.beam * above.sun[:, 2] + above.diffuse
    hourly = np.stack([weather.dry_bulb, weather.sky_temperature, weather.pressure])
    planes = {facing: incident(above, facing) for facing in FACING}
    walls = np.mean([beam + rest for beam, rest, _ in planes.values()], axis=0)
    found = {}
    for facing, (beam, rest, cosine) in planes.items():
        through = 0.72 * (1 - (1 - cosine) ** 5) * beam + 0.62 * rest
        for name, room in ROOMS.items():
            heating, cooling = _year(
                hourly, weather.wind_speed, through, walls, flat, np.array(room), WARMUP
            )
            found[f"heating_{name}_{facing}"] = heating
            found[f"cooling_{name}_{facing}"] = cooling
    return found


@njit(cache=True)
def _year(hourly, wind, through, on_walls, on_roof, room, warmup):
    """Heating and cooling of one room in kWh/m2; `through` W/m2 of glass, `on_…` W/m2."""
    hours = len(wind)
    walls, roof, floor, glass, changes, capacity = room
    touching = 14.0
    mass, heating, cooling = 20.0, 0.0, 0.0
    for step in range(-warmup, hours):
        k = step % hours
        outdoor, cold = hourly[0, k], hourly[1, k]
        air = changes * HEIGHT / 3600 * 1006 * hourly[2, k] / (287.055 * (outdoor + 273.15))
        film = STILL + ROUGH * (sqrt(STILL**2 + (3.26 * (NEAR * wind[k]) ** 0.89) ** 2) - STILL)
        to_sky = 4.6 * (outdoor - cold)
        behind = (
            walls * (outdoor + (0.6 * on_walls[k] - 0.354 * to_sky) / (film + 5))
            + roof * (outdoor + (0.6 * on_roof[k] - to_sky) / (film + 5))
            + floor * outdoor
        )
        conducting = walls + roof + floor
        pane = glass / (1 / (film + 5) + 0.3)
        outside = outdoor - 0.354 * to_sky / (film + 5)
        sun = glass * through[k]
        # mass, one implicit step: own × mass = known + touching × air's temperature
        own = capacity + touching + conducting
        known = capacity * mass + behind + 0.7 * sun + 0.5 * GAINS
        given = pane * outside + air * outdoor + 0.3 * sun + 0.5 * GAINS + touching * known / own
        loses = pane + air + touching - touching * touching / own
        free = given / loses
        inside = min(max(free, HEATED_TO), COOLED_TO)
        mass = (known + touching * inside) / own
        if step >= 0:
            power = loses * (inside - free) / 1000
            heating += max(power, 0.0)
            cooling += max(-power, 0.0)
    return heating, cooling
