"""What a handbook says of designs: loads by degree hours, the base that the networks correct.

Heating and cooling of a room are what its heat losses take from, or leave of, the outdoor air and
what sun and gains add to it (variable-base degree hours, ASHRAE Fundamentals, ch. 19), summed over
four sines of the year. Days and spells spread the temperature around them, less where there is
more mass. A hyperbola stands for the mean of what lies above zero: root and squares only, so that
onnxruntime is fast.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from jobs.surrogate.config import INPUTS

HOURS = 8760
CONSTANTS: dict[str, float] = {
    "glass": 1.966,  # W/m2K
    "windy": 0.0871,  # of that, for each m/s over 3.5
    "opaque": 0.7238,  # of the U-values that are given
    "air": 0.3768,  # Wh/m3K
    "transmitted": 0.5156,  # of the sun on glass
    "shaded": 1.789,  # of the front's sun under an endless overhang, and
    "shade_height": 2.706,  # the overhang, in heights of the room, that does half of it
    "absorbed": 0.026,  # of the sun on opaque parts, by W/m2K
    "sky": 2.126,  # W/m2 lost to the sky, by W/m2K
    "gains": 0.8505,
    "mixed": 0.2125,  # what the rooms share of their warmth
    "capacity": 3834.0,  # Wh/m3K of concrete, with the surfaces that it lies in
    "daily": 2.331,  # of the square of the daily swing, K2
    "sunny": 0.5976,  # of the square of the K that the sun heats by
    "spells": 14.93,  # K2
    "daily_mass": 0.249,  # 1/h
    "spell_mass": 0.0451,  # 1/h
    "brighter": 0.8649,  # the sun of midsummer over the year's, at the pole,
    "brighter_south": -0.3212,  # more on the south
    "brighter_poleward": -0.1119,  # and there towards the pole
    "setback": 0.3001,  # of the setback, where there is mass
    "setback_light": 1.443,  # more of it, where there is none
}
"""Fitted to simulated designs: `python -m benchmarks.surrogate_handbook`."""
SINES = (0.9239, 0.3827, -0.9239, -0.3827)
"""Of the year, each for a quarter of it: cosines of 22.5 and 67.5 degrees."""


def handbook(rows: Tensor, constant: Mapping[str, float | Tensor]) -> tuple[Tensor, Tensor]:
    """What is known of each room, and what it needs.

    `rows`: designs (inputs, B). Returns for the front and the back room in turn: heat loss in
    W/m2K, sun in W/m2, the K that it and the gains heat by, the time constant in h, (8, B); and
    heating and cooling in W/m2 and the mean temperature in degC, (6, B).

    Designs lie along the last axis, and rooms and seasons before it: so every step is one long
    vector operation, several times as fast in onnxruntime as columns beside each other. The sun
    comes from the radiation on the facades, interpolated in the azimuth.
    """
    given = dict(zip(INPUTS, rows.split(1), strict=True))
    turn = given["orientation"] * (torch.pi / 180)
    sine, cosine = torch.sin(turn), torch.cos(turn)
    north, east = given["north_radiation"], given["east_radiation"]
    south, west = given["south_radiation"], given["west_radiation"]
    facing = (north - south) * cosine + (east - west) * sine
    along, across = north + south, east + west
    even = across + (along - across) * (cosine * cosine)
    height, wall_u, roof_u = given["height"], given["wall_u"], given["roof_u"]
    facade = height / given["depth"]
    glass = facade * torch.cat([given["window_front"], given["window_back"]])
    overhang = given["overhang"]
    shaded = constant["shaded"] * overhang / (overhang + constant["shade_height"] * height)
    shaded = shaded.clamp(max=1)
    incident = torch.cat([(even + facing) * (1 - shaded), even - facing])
    sun = glass * incident * (constant["transmitted"] * (500 / HOURS))

    opaque = facade - glass + height * 2 / given["width"]
    walls = wall_u * opaque
    pane = constant["glass"] * (1 + constant["windy"] * (given["wind"] - 3.5))
    loss = pane * glass + (walls + (roof_u + given["floor_u"])) * constant["opaque"]
    loss = loss + constant["air"] * given["infiltration"] * height
    warmed = walls * ((along + across) * (250 / HOURS))  # in this order: half floats end at 65,504
    warmed = warmed + roof_u * (given["global_radiation"] * (1000 / HOURS))
    cooled = roof_u + walls * 0.5 + glass
    added = given["gains"] * constant["gains"] + sun
    added = added + warmed * constant["absorbed"] - cooled * constant["sky"]
    resistance = 1 / loss
    free = added * resistance
    free = free + (torch.cat([free[1:], free[:1]]) - free) * (constant["mixed"] * 0.5)
    by_sun = sun * resistance
    inertia = given["mass"] * (opaque + 2) * constant["capacity"] * resistance

    light = 1 / (1 + inertia * constant["daily_mass"])
    daily = given["daily_swing"]
    spread = daily * daily * constant["daily"] + by_sun * by_sun * constant["sunny"]
    spread = spread * light + constant["spells"] / (1 + inertia * constant["spell_mass"]) + 0.3
    spread = spread * (2 / torch.pi)
    facing_south = torch.cat([-cosine, cosine])
    poleward = torch.sin(given["latitude"] * (torch.pi / 180))
    brighter = poleward * constant["brighter"] + facing_south * (
        constant["brighter_south"] + poleward * constant["brighter_poleward"]
    )
    swing = by_sun * brighter + given["seasonal_swing"]
    felt = free + given["mean_temperature"]
    lowered = given["setback"] * (light * constant["setback_light"] + constant["setback"])
    cold, warm = given["heating_setpoint"] - lowered - felt, felt - given["cooling_setpoint"]
    sines = torch.tensor(SINES)[:, None, None]
    seasons = torch.cat([cold, warm]) + torch.cat([-swing, swing]) * sines
    above = seasons + torch.sqrt(seasons * seasons + torch.cat([spread, spread]))
    degrees = above.sum(0) * 0.125
    air = felt + degrees[:2] - degrees[2:]
    loads = degrees * torch.cat([loss, loss])
    return torch.cat([loss, sun, free, inertia]), torch.cat([loads, air])
