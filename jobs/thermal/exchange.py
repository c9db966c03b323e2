"""Convection and infrared at all faces of a building, compiled for the simulation's inner loop.

`b` is a jobs.thermal.building.Stacked and `d` the number of a building in it; the side of a
surface is 0 for its inner and 1 for its outer face.
"""

from math import cos, sin, sqrt

import numpy as np
from numba import njit

from jobs.thermal.building import OUTDOORS
from jobs.thermal.convection import air_gap, exterior, natural, radiative, window_inside
from jobs.thermal.sunlight import normal


@njit
def side_zone(b, d, s, side):
    """Zone at the inner (0) or the outer face (1); negative where there is none."""
    return b.zone[d, s] if side == 0 else b.behind[d, s]


@njit
def side_plane(b, d, s, side):
    plane = b.plane[d, s]
    if side == 0:
        return plane
    return (plane + 2) % 4 if plane < 4 else 9 - plane


@njit
def carroll(b, d):
    """Carroll's radiation factor of each face with its grey emittance, shape (W, 2).

    F = 1 / (1 − A F / ΣA F) by plane, then 1 / (1/F + (1 − ε)/ε); Carroll 1980, as in EnergyPlus's
    Engineering Reference, "Mean radiant temperature network".
    """
    count = b.surfaces[d]
    factors = np.zeros((count, 2))
    for z in range(b.zones[d]):
        area, f = np.zeros(6), np.ones(6)
        for s in range(count):
            for side in range(2):
                if side_zone(b, d, s, side) == z:
                    area[side_plane(b, d, s, side)] += b.area[d, s]
        for _ in range(200):
            total = (area * f).sum()
            for p in range(6):
                f[p] = 1 / (1 - min(0.9, area[p] * f[p] / total))
        for s in range(count):
            for side in range(2):
                if side_zone(b, d, s, side) == z:
                    e = max(b.faces[d, s, 3 - side], 1e-6)
                    factors[s, side] = 1 / (1 / f[side_plane(b, d, s, side)] + (1 - e) / e)
    return factors


@njit
def coefficients(
    b, d, now, T, G, air, radiant, script_f, convective, infrared, outer_h, outer_source
):
    """Coefficients of all faces from the last temperatures, and what the outdoors gives.

    An outer face gains outer_source − outer_h × its temperature, W/m2.
    """
    outdoor, cold, pressure, wind, from_ = now[0], now[1], now[2], now[3], now[4]
    c, s_ = cos(b.rotation[d]), sin(b.rotation[d])
    wind_x = sin(from_) * c - cos(from_) * s_
    wind_y = sin(from_) * s_ + cos(from_) * c
    for s in range(b.surfaces[d]):
        last = b.nodes[d, s] - 1
        n_x, n_y, n_z = normal(b.plane[d, s])
        window, tall = b.gap[d, s] > 0, b.box[d, s, 5] - b.box[d, s, 2]
        if window:
            e = b.faces[d, s, 2]
            G[s, 1] = air_gap(b.gap[d, s], tall, T[s, 1], T[s, 2], e, pressure)
        for side in range(2):
            z = side_zone(b, d, s, side)
            if z >= 0:
                face = T[s, last] if side == 0 else T[s, 0]
                if window:
                    convective[s, side] = window_inside(face, air[z], tall, pressure)
                else:
                    facing = -n_z if side == 0 else n_z
                    convective[s, side] = natural(face - air[z], facing)
                infrared[s, side] = radiative(script_f[s, side], face, radiant[z])
        if b.behind[d, s] >= 0:
            continue
        face = T[s, 0]
        if b.behind[d, s] == OUTDOORS:
            height = (b.box[d, s, 2] + b.box[d, s, 5]) / 2
            near = wind * (max(height, 0.1) / 10) ** 0.14
            windward = n_z > 0.5 or n_x * wind_x + n_y * wind_y > 0
            h = exterior(face - outdoor, n_z, near, windward, b.faces[d, s, 4])
        else:
            h = natural(face - outdoor, n_z)
        e, upward = b.faces[d, s, 2], (1 + n_z) / 2
        clear = upward * sqrt(upward)
        to_sky = radiative(e * clear, face, cold)
        to_air = radiative(e * (1 - clear), face, outdoor)
        outer_h[s] = h + to_sky + to_air
        outer_source[s] = (h + to_air) * outdoor + to_sky * cold
