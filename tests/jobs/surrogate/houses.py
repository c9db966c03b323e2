"""A small house and made-up weather."""

import numpy as np

from jobs.thermal.building import SHELTERED, Building, Layer, Wall, Window, Zone
from jobs.thermal.weather import Weather

BRICK = (Layer(0.1, 0.04, 30, 1400), Layer(0.12, 0.5, 1500, 900))
BOARD = (Layer(0.1, 0.04, 30, 1400), Layer(0.012, 0.16, 950, 840))


def make_weather(hours: int = 24 * 14, **constant: float) -> Weather:
    """Cold bright days at 45 degrees north; `constant` values replace a series."""
    hour = np.arange(hours)
    day = np.sin(2 * np.pi * (hour % 24 - 9) / 24)
    series = {
        "dry_bulb": 4 + 7 * day,
        "sky_temperature": -10 + 7 * day,
        "pressure": np.full(hours, 98000.0),
        "direct_normal": 700 * np.clip(np.sin(2 * np.pi * (hour % 24 - 6) / 24), 0, 1),
        "diffuse_horizontal": 90 * np.clip(np.sin(2 * np.pi * (hour % 24 - 6) / 24), 0, 1),
        "wind_speed": 3 + day,
        "wind_direction": (hour * 37.0) % 360,
    }
    series |= {name: np.full(hours, float(value)) for name, value in constant.items()}
    return Weather("nowhere", 45, 10, 1, 200, **series)


def make_house(layers=BRICK, rotation=0.0, window="south", shades=(), **zone) -> Building:
    """One room, 6 × 5 × 3 m, with a window of 6 m2."""
    x, y, z = 6.0, 5.0, 3.0
    gross = {"south": x * z, "east": y * z, "north": x * z, "west": y * z}
    boxes = {
        "south": (1, 0, 0.8, 4, 0, 2.8),
        "east": (x, 1, 0.8, x, 4, 2.8),
        "west": (0, 1, 0.8, 0, 4, 2.8),
        "north": (1, y, 0.8, 4, y, 2.8),
    }
    walls = [Wall(p, area - (6 if p == window else 0), layers) for p, area in gross.items()]
    walls += [Wall("roof", x * y, BOARD), Wall("floor", x * y, BRICK, behind=SHELTERED)]
    windows = (Window(window, boxes[window]),) if window else ()
    settings = {"gains": 150.0} | zone
    return Building((Zone((x, y, z), tuple(walls), windows, **settings),), shades, rotation)
