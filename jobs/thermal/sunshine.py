"""The sun on and in a building, and its radiant gains: W/m2 at every node of every surface.

`b` is a jobs.thermal.building.Stacked and `d` the number of a building in it.
"""

from math import acos, cos, degrees, sin, sqrt

import numpy as np
from numba import njit

from jobs.thermal.building import OUTDOORS
from jobs.thermal.exchange import side_plane, side_zone
from jobs.thermal.sunlight import normal, outlook, sunlit

COSINE_85 = 0.0871557
"""Perez's limit to the sun's height."""


@njit
def outlooks(b, d):
    """What each surface sees of sky, horizon and ground past the shades, shape (W, 3)."""
    looks = np.ones((b.surfaces[d], 3))
    shades = b.shades[d, : b.shade_count[d]]
    if len(shades):
        for s in range(b.surfaces[d]):
            if b.behind[d, s] == OUTDOORS:
                looks[s, 0], looks[s, 1], looks[s, 2] = outlook(b.box[d, s], b.plane[d, s], shades)
    return looks


@njit
def sunshine_on(b, d, now, sun, looks, source, transmitted):
    """Sun absorbed at the nodes: fills `source` (W/m2) and `transmitted` (W a zone)."""
    count = b.surfaces[d]
    source[:] = 0
    transmitted[:] = 0
    beam, diffuse, circumsolar, horizon = now[5], now[6], now[7], now[8]
    if beam <= 0 and diffuse <= 0:
        return
    c, s_ = cos(b.rotation[d]), sin(b.rotation[d])
    towards = np.array([sun[0] * c - sun[1] * s_, sun[0] * s_ + sun[1] * c, sun[2]])
    direct = beam + diffuse * circumsolar / max(COSINE_85, towards[2])
    ground = b.albedo[d] * (beam * towards[2] + diffuse)
    shades = b.shades[d, : b.shade_count[d]]
    patch = np.zeros(6)
    planes = np.zeros((b.zones[d], 6))
    for s in range(count):
        if b.behind[d, s] != OUTDOORS:
            continue
        n_x, n_y, n_z = normal(b.plane[d, s])
        cosine = n_x * towards[0] + n_y * towards[1] + n_z * towards[2]
        upward, sideways = (1 + n_z) / 2, sqrt(max(0.0, 1 - n_z * n_z))
        spread = (
            max(
                0.0,
                diffuse * (1 - circumsolar) * upward * looks[s, 0]
                + diffuse * horizon * sideways * looks[s, 1],
            )
            + ground * (1 - n_z) / 2 * looks[s, 2]
        )
        window = b.gap[d, s] > 0
        z = b.zone[d, s]
        lit = 0.0
        if cosine > 0 and direct > 0:
            lit = 1.0
            if window or looks[s].min() < 1:
                lit = sunlit(b.box[d, s], b.plane[d, s], towards, shades, b.zone_box[d, z], patch)
        if not window:
            source[s, 0] = b.faces[d, s, 0] * (direct * max(cosine, 0) * lit + spread)
            continue
        angle = degrees(acos(min(1.0, max(0.0, cosine))))
        low = min(int(angle), 89)
        part = angle - low
        arriving = direct * max(cosine, 0) * lit
        shares = b.angular[d, s]
        for pane in range(2):
            absorbed = spread * b.hemispherical[d, s, 1 + pane] + arriving * (
                shares[low, 1 + pane] * (1 - part) + shares[low + 1, 1 + pane] * part
            )
            source[s, 2 * pane] += absorbed / 2
            source[s, 2 * pane + 1] += absorbed / 2
        area = b.area[d, s]
        through = shares[low, 0] * (1 - part) + shares[low + 1, 0] * part
        scattered = spread * b.hemispherical[d, s, 0] * area
        if lit > 0:
            for p in range(6):
                planes[z, p] += arriving * through * area * patch[p] / lit
        size = b.zone_box[d, z]
        x, y, h = size[3] - size[0], size[4] - size[1], size[5] - size[2]
        areas = (x * h, y * h, x * h, y * h, x * y, x * y)
        others = 2 * (x * h + y * h + x * y) - areas[b.plane[d, s]]
        for p in range(6):
            if p != b.plane[d, s]:
                planes[z, p] += scattered * areas[p] / others
        transmitted[z] += arriving * through * area + scattered
    for z in range(b.zones[d]):
        if transmitted[z] > 0:
            _spread_inside(b, d, z, planes[z], source)


@njit
def _spread_inside(b, d, z, planes, source):
    """Absorb the sun that falls on the planes of a zone (W each); what is reflected goes round
    evenly until it is absorbed or leaves through the windows."""
    count = b.surfaces[d]
    area, soaking, reflected = np.zeros(6), 0.0, 0.0
    for s in range(count):
        for side in range(2):
            if side_zone(b, d, s, side) == z:
                area[side_plane(b, d, s, side)] += b.area[d, s]
                soaking += b.area[d, s] * _soaks(b, d, s, side)
    for s in range(count):
        for side in range(2):
            if side_zone(b, d, s, side) == z:
                p = side_plane(b, d, s, side)
                reflected += planes[p] * b.area[d, s] / area[p] * (1 - _soaks(b, d, s, side))
    for p in range(6):
        if area[p] == 0:
            reflected += planes[p]
    for s in range(count):
        for side in range(2):
            if side_zone(b, d, s, side) == z:
                p = side_plane(b, d, s, side)
                takes = planes[p] / area[p] + reflected / soaking
                if b.gap[d, s] > 0:
                    for pane in range(2):
                        part = takes * b.hemispherical[d, s, 2 - pane] / 2
                        source[s, 2 * pane] += part
                        source[s, 2 * pane + 1] += part
                else:
                    node = b.nodes[d, s] - 1 if side == 0 else 0
                    source[s, node] += takes * b.faces[d, s, 1 - side]


@njit
def _soaks(b, d, s, side):
    """Share of diffuse sun from inside that a face keeps or lets out."""
    if b.gap[d, s] > 0:
        return b.hemispherical[d, s].sum()
    return b.faces[d, s, 1 - side]


@njit
def radiant_gains(b, d, z, watts, source):
    """Spread radiant gains over the faces of a zone by area and emittance."""
    if watts == 0:
        return
    weight = 0.0
    for s in range(b.surfaces[d]):
        for side in range(2):
            if side_zone(b, d, s, side) == z:
                weight += b.area[d, s] * b.faces[d, s, 3 - side]
    for s in range(b.surfaces[d]):
        for side in range(2):
            if side_zone(b, d, s, side) == z:
                node = b.nodes[d, s] - 1 if side == 0 else 0
                source[s, node] += watts * b.faces[d, s, 3 - side] / weight
