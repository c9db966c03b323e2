"""The simulation's loop over designs and steps, compiled: one building a core."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
from numba import njit, prange

from jobs.thermal import building, conduction, convection, exchange, sunlight, sunshine
from jobs.thermal.building import DAY
from jobs.thermal.conduction import condense, drive, settle
from jobs.thermal.convection import air_density
from jobs.thermal.exchange import carroll, coefficients, side_zone
from jobs.thermal.sunshine import outlooks, radiant_gains, sunshine_on

AIR_HEAT = 1006.0
"""Specific heat of dry air, J/kgK."""
CONVERGED = 1e-6
"""K between two rounds over coupled zones."""
ROUNDS = 200
SOURCES = (building, conduction, convection, exchange, sunlight, sunshine)
"""Modules whose functions or constants are compiled into the loop."""


@cache
def compiled():
    """The loop over designs, compiled or loaded from numba's cache.

    numba looks only at the file of this function to tell whether what it keeps is stale; `stamp`,
    which it holds like any other constant of the function, tells it of all the others.
    """
    stamp = hashlib.sha256()
    for module in SOURCES:
        stamp.update(Path(str(module.__file__)).read_bytes())
    return _loop(stamp.hexdigest())


def _loop(stamp: str):
    @njit(cache=True, parallel=True)
    def loop(b, series, sun, steps_per_hour, warmup):
        assert len(stamp) > 0
        designs, zones = b.volume.shape
        hours = series.shape[0] // steps_per_hour
        heating = np.zeros((designs, zones, hours), np.float32)
        cooling = np.zeros((designs, zones, hours), np.float32)
        temperature = np.zeros((designs, zones, hours), np.float32)
        transmitted = np.zeros((designs, zones))
        imbalance = np.zeros((designs, hours), np.float32)
        turnover = np.zeros((designs, hours), np.float32)
        for d in prange(designs):
            _march(
                b, d, series, sun, steps_per_hour, warmup,
                heating[d], cooling[d], temperature[d], transmitted[d], imbalance[d], turnover[d],
            )  # fmt: skip
        return heating, cooling, temperature, transmitted, imbalance, turnover

    return loop


@njit
def _march(
    b, d, series, sun, per_hour, warmup,
    heating, cooling, temperature, transmitted, imbalance, turnover,
):  # fmt: skip
    """One building through the year; fills the last six arrays."""
    steps, zones, count = series.shape[0], b.zones[d], b.surfaces[d]
    most, dt = b.capacity.shape[2], 3600.0 / per_hour
    rate, G = b.capacity[d, :count] / dt, b.conductance[d, :count].copy()
    T, source = np.full((count, most), 20.0), np.zeros((count, most))
    chains = np.zeros((5, count, most))  # weight, ahead, near, far, alone
    walls, loads = np.zeros((count, 3)), np.zeros((count, 2))
    for s in range(count):
        walls[s] = condense(rate[s], G[s], b.nodes[d, s], *_four(chains, s))
    air, radiant, old_air = np.full(zones, 20.0), np.full(zones, 20.0), np.empty(zones)
    convective, infrared = np.zeros((count, 2)), np.zeros((count, 2))
    outer_h, outer_source = np.zeros(count), np.zeros(count)
    transmitted_now = np.zeros(zones)
    power, infiltration, gains = np.zeros(zones), np.zeros(zones), np.zeros(zones)
    script_f, looks = carroll(b, d), outlooks(b, d)
    for step in range(-warmup * 24 * per_hour, steps):
        k = step % steps
        slot = ((k % (24 * per_hour)) + 1) * (DAY // 24) // per_hour - 1
        outdoor, pressure = series[k, 0], series[k, 2]
        old_air[:] = air
        sunshine_on(b, d, series[k], sun[k], looks, source, transmitted_now)
        coefficients(
            b, d, series[k], T, G, air, radiant, script_f,
            convective, infrared, outer_h, outer_source,
        )  # fmt: skip
        for z in range(zones):
            gains[z] = b.gains[d, z, slot]
            flow = b.air_changes[d, z, slot] * b.volume[d, z] / 3600
            infiltration[z] = flow * air_density(pressure, outdoor) * AIR_HEAT
            radiant_gains(b, d, z, gains[z] * b.radiant_share[d, z], source)
        for s in range(count):
            n = b.nodes[d, s]
            if b.gap[d, s] > 0:
                walls[s] = condense(rate[s], G[s], n, *_four(chains, s))
            loads[s] = drive(
                rate[s], G[s], n, chains[0, s], chains[1, s], T[s], source[s], chains[4, s]
            )
        for _ in range(ROUNDS if zones > 1 else 1):
            change = 0.0
            for z in range(zones):
                was_air, was_radiant = air[z], radiant[z]
                store = b.volume[d, z] * air_density(pressure, 20.0) * AIR_HEAT / dt
                _solve_zone(
                    b, d, z, walls, loads, convective, infrared, outer_h, outer_source,
                    store + infiltration[z],
                    store * old_air[z]
                    + infiltration[z] * outdoor
                    + gains[z] * (1 - b.radiant_share[d, z]),
                    b.heating[d, z, slot], b.cooling[d, z, slot], air, radiant, power,
                )  # fmt: skip
                change = max(change, abs(air[z] - was_air), abs(radiant[z] - was_radiant))
            if change < CONVERGED:
                break
        balance, size = 0.0, 0.0
        for s in range(count):
            area, n = b.area[d, s], b.nodes[d, s]
            h_in, known_in = _touches(
                b, d, s, 0, convective, infrared, outer_h, outer_source, air, radiant
            )
            h_out, known_out = _touches(
                b, d, s, 1, convective, infrared, outer_h, outer_source, air, radiant
            )
            outer, inner, through = walls[s]
            share = through / (outer + h_out)
            last = (loads[s, 1] + known_in + share * (loads[s, 0] + known_out)) / (
                inner + h_in - share * through
            )
            first = (loads[s, 0] + known_out + through * last) / (outer + h_out)
            stored = area * settle(
                rate[s], n, chains[2, s], chains[3, s], chains[4, s], first, last, T[s]
            )
            given = source[s, :n].sum() * area
            lost = area * (h_out * first - known_out) if b.behind[d, s] < 0 else 0.0
            balance += given - lost - stored
            size += given + abs(lost) + abs(stored)
        if step < 0:
            continue
        hour = k // per_hour
        for z in range(zones):
            store = b.volume[d, z] * air_density(pressure, 20.0) * AIR_HEAT / dt
            stored = store * (air[z] - old_air[z])
            lost = infiltration[z] * (air[z] - outdoor)
            into_air = gains[z] * (1 - b.radiant_share[d, z])
            balance += into_air + power[z] - lost - stored
            size += into_air + abs(power[z]) + abs(lost) + abs(stored)
            heating[z, hour] += max(power[z], 0) / per_hour
            cooling[z, hour] += max(-power[z], 0) / per_hour
            temperature[z, hour] += air[z] / per_hour
            transmitted[z] += transmitted_now[z] / per_hour / 1000
        imbalance[hour] += balance / per_hour
        turnover[hour] += size / per_hour


@njit
def _four(chains, s):
    return chains[0, s], chains[1, s], chains[2, s], chains[3, s]


@njit
def _touches(b, d, s, side, convective, infrared, outer_h, outer_source, air, radiant):
    """Coefficient in W/m2K and known flux in W/m2 of what a face touches: a zone or outdoors."""
    z = side_zone(b, d, s, side)
    if z < 0:
        return outer_h[s], outer_source[s]
    hc, hr = convective[s, side], infrared[s, side]
    return hc + hr, hc * air[z] + hr * radiant[z]


@njit
def _solve_zone(
    b, d, z, walls, loads, convective, infrared, outer_h, outer_source,
    air_h, air_known, heat_to, cool_to, air, radiant, power,
):  # fmt: skip
    """Air and mean radiant temperature of one zone and the power that holds its setpoint.

    With every face eliminated to p + u·air + v·radiant, two equations are left.
    """
    k, known, coupling = air_h, air_known, 0.0
    radiant_air, radiant_known, radiant_own = 0.0, 0.0, 0.0
    for s in range(b.surfaces[d]):
        for side in range(2):
            if side_zone(b, d, s, side) != z:
                continue
            h, flux = _touches(
                b, d, s, 1 - side, convective, infrared, outer_h, outer_source, air, radiant
            )
            share = walls[s, 2] / (walls[s, side] + h)
            area, hc, hr = b.area[d, s], convective[s, side], infrared[s, side]
            total = walls[s, 1 - side] - share * walls[s, 2] + hc + hr
            p = (loads[s, 1 - side] + share * (loads[s, side] + flux)) / total
            u, v = hc / total, hr / total
            k += area * hc * (1 - u)
            known += area * hc * p
            coupling += area * hc * v
            radiant_known += area * hr * p
            radiant_air += area * hr * u
            radiant_own += area * hr * (1 - v)
    k -= coupling * radiant_air / radiant_own
    known += coupling * radiant_known / radiant_own
    air[z] = min(max(known / k, heat_to), cool_to)
    power[z] = k * air[z] - known
    if heat_to < known / k < cool_to:
        power[z] = 0.0
    radiant[z] = (radiant_known + radiant_air * air[z]) / radiant_own
