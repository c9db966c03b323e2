"""The reference: a thermal simulation of many buildings at once, in steps of an hour or less.

    loads = simulate(buildings, read_epw(Path("town.epw")))

Walls conduct in one dimension through cells with mass (implicit Euler, Thomas's algorithm); faces
exchange convection with their air (TARP, DOE-2) and infrared with each other through Carroll's
mean radiant temperature (1980) or with sky, air and ground (Walton 1983). The sun comes by Perez's
sky, past shades, through Fresnel's glass, onto the planes it strikes. Heating and cooling are
ideal. Left out: moisture, air flow between zones, thermal bridges, sunlight from one zone into
the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import acos, cos, degrees, sin, sqrt

import numpy as np
from numba import njit, prange

from infra.errors import InputError
from jobs.surrogate.building import DAY, OUTDOORS, Building, Stacked, stack
from jobs.surrogate.convection import air_density, air_gap, exterior, natural, radiative
from jobs.surrogate.solar import sky
from jobs.surrogate.sunlight import normal, outlook, sunlit
from jobs.surrogate.weather import Weather

AIR_HEAT = 1006.0
"""Specific heat of dry air, J/kgK."""
STEPS = (1, 2, 3, 6)
CONVERGED = 1e-6
"""K between two rounds over coupled zones."""
ROUNDS = 200
COSINE_85 = 0.0871557
"""Perez's limit to the sun's height."""


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
    results = _simulate(stack(buildings), series, above.sun, steps_per_hour, warmup_days)
    return Loads(*results)


def _interpolate(hourly: np.ndarray, steps: int) -> np.ndarray:
    """Values at the ends of all steps of a series that stands at the ends of hours."""
    hours = np.arange(len(hourly) + 1)
    ends = np.arange(1, len(hourly) * steps + 1) / steps
    return np.interp(ends, hours, np.concatenate([hourly[-1:], hourly]))


@njit(cache=True, parallel=True)
def _simulate(b: Stacked, series: np.ndarray, sun: np.ndarray, steps_per_hour: int, warmup: int):
    designs, zones = b.volume.shape
    hours = series.shape[0] // steps_per_hour
    heating = np.zeros((designs, zones, hours), np.float32)
    cooling = np.zeros((designs, zones, hours), np.float32)
    temperature = np.zeros((designs, zones, hours), np.float32)
    transmitted = np.zeros((designs, zones))
    imbalance = np.zeros((designs, hours), np.float32)
    turnover = np.zeros((designs, hours), np.float32)
    for d in prange(designs):
        _simulate_one(
            b, d, series, sun, steps_per_hour, warmup,
            heating[d], cooling[d], temperature[d], transmitted[d], imbalance[d], turnover[d],
        )  # fmt: skip
    return heating, cooling, temperature, transmitted, imbalance, turnover


@njit(cache=True)
def _simulate_one(
    b, d, series, sun, per_hour, warmup,
    heating, cooling, temperature, transmitted, imbalance, turnover,
):  # fmt: skip
    """One building through the year; fills the last six arrays."""
    steps, zones, count = series.shape[0], b.zones[d], b.surfaces[d]
    dt = 3600.0 / per_hour
    most = b.capacity.shape[2]
    T = np.full((count, most), 20.0)
    old = np.empty((count, most))
    G = b.conductance[d, :count].copy()
    air, radiant, old_air = np.full(zones, 20.0), np.full(zones, 20.0), np.empty(zones)
    source = np.zeros((count, most))
    outer_h, outer_source = np.zeros(count), np.zeros(count)
    transmitted_now = np.zeros(zones)
    convective, infrared = np.zeros((count, 2)), np.zeros((count, 2))
    pivot, rhs = np.zeros((count, most)), np.zeros((count, most))
    power, infiltration, gains = np.zeros(zones), np.zeros(zones), np.zeros(zones)
    script_f = _carroll(b, d)
    looks = _outlooks(b, d)
    for step in range(-warmup * 24 * per_hour, steps):
        k = step % steps
        hour = k // per_hour
        slot = ((k % (24 * per_hour)) + 1) * (DAY // 24) // per_hour - 1
        outdoor, pressure = series[k, 0], series[k, 2]
        old[:] = T
        old_air[:] = air
        _sunshine(b, d, series[k], sun[k], looks, source, transmitted_now)
        _exchange(
            b, d, series[k], T, G, air, radiant, script_f,
            convective, infrared, outer_h, outer_source,
        )  # fmt: skip
        for z in range(zones):
            gains[z] = b.gains[d, z, slot]
            flow = b.air_changes[d, z, slot] * b.volume[d, z] / 3600
            infiltration[z] = flow * air_density(pressure, outdoor) * AIR_HEAT
            _radiant_gains(b, d, z, gains[z] * b.radiant_share[d, z], source)
        for s in range(count):
            if b.behind[d, s] < 0:
                _sweep(
                    b.capacity[d, s], G[s], old[s], source[s], b.nodes[d, s], dt,
                    outer_h[s], outer_source[s], False, pivot[s], rhs[s],
                )  # fmt: skip
        for _ in range(ROUNDS if zones > 1 else 1):
            change = 0.0
            for z in range(zones):
                was_air, was_radiant = air[z], radiant[z]
                store = b.volume[d, z] * air_density(pressure, 20.0) * AIR_HEAT / dt
                _solve_zone(
                    b, d, z, G, old, source, convective, infrared, dt,
                    store + infiltration[z],
                    store * old_air[z]
                    + infiltration[z] * outdoor
                    + gains[z] * (1 - b.radiant_share[d, z]),
                    b.heating[d, z, slot], b.cooling[d, z, slot],
                    air, radiant, power, pivot, rhs,
                )  # fmt: skip
                change = max(change, abs(air[z] - was_air), abs(radiant[z] - was_radiant))
            if change < CONVERGED:
                break
        for s in range(count):
            n = b.nodes[d, s]
            if b.behind[d, s] >= 0:
                other = b.behind[d, s]
                h = convective[s, 1] + infrared[s, 1]
                known = convective[s, 1] * air[other] + infrared[s, 1] * radiant[other]
                _sweep(
                    b.capacity[d, s], G[s], old[s], source[s], n, dt,
                    h, known, False, pivot[s], rhs[s],
                )  # fmt: skip
            z = b.zone[d, s]
            inner_h = convective[s, 0] + infrared[s, 0]
            known = convective[s, 0] * air[z] + infrared[s, 0] * radiant[z]
            T[s, n - 1] = (rhs[s, n - 1] + known) / (pivot[s, n - 1] + inner_h)
            for i in range(n - 2, -1, -1):
                T[s, i] = (rhs[s, i] + G[s, i] * T[s, i + 1]) / pivot[s, i]
        if step < 0:
            continue
        balance, size = 0.0, 0.0
        for s in range(count):
            area, n = b.area[d, s], b.nodes[d, s]
            sun_and_gains = source[s, :n].sum() * area
            lost = 0.0
            if b.behind[d, s] < 0:
                lost = area * (outer_h[s] * T[s, 0] - outer_source[s])
            stored = 0.0
            for i in range(n):
                stored += area * b.capacity[d, s, i] * (T[s, i] - old[s, i]) / dt
            balance += sun_and_gains - lost - stored
            size += sun_and_gains + abs(lost) + abs(stored)
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


@njit(cache=True)
def _side_zone(b, d, s, side):
    """Zone at the inner (0) or the outer face (1); negative where there is none."""
    return b.zone[d, s] if side == 0 else b.behind[d, s]


@njit(cache=True)
def _side_plane(b, d, s, side):
    plane = b.plane[d, s]
    if side == 0:
        return plane
    return (plane + 2) % 4 if plane < 4 else 9 - plane


@njit(cache=True)
def _carroll(b, d):
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
                if _side_zone(b, d, s, side) == z:
                    area[_side_plane(b, d, s, side)] += b.area[d, s]
        for _ in range(200):
            total = (area * f).sum()
            for p in range(6):
                f[p] = 1 / (1 - min(0.9, area[p] * f[p] / total))
        for s in range(count):
            for side in range(2):
                if _side_zone(b, d, s, side) == z:
                    e = max(b.faces[d, s, 3 - side], 1e-6)
                    factors[s, side] = 1 / (1 / f[_side_plane(b, d, s, side)] + (1 - e) / e)
    return factors


@njit(cache=True)
def _outlooks(b, d):
    """What each surface sees of sky, horizon and ground past the shades, shape (W, 3)."""
    looks = np.ones((b.surfaces[d], 3))
    shades = b.shades[d, : b.shade_count[d]]
    if len(shades):
        for s in range(b.surfaces[d]):
            if b.behind[d, s] == OUTDOORS:
                looks[s, 0], looks[s, 1], looks[s, 2] = outlook(b.box[d, s], b.plane[d, s], shades)
    return looks


@njit(cache=True)
def _sunshine(b, d, now, sun, looks, source, transmitted):
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


@njit(cache=True)
def _spread_inside(b, d, z, planes, source):
    """Absorb the sun that falls on the planes of a zone (W each); what is reflected goes round
    evenly until it is absorbed or leaves through the windows."""
    count = b.surfaces[d]
    area, soaking, reflected = np.zeros(6), 0.0, 0.0
    for s in range(count):
        for side in range(2):
            if _side_zone(b, d, s, side) == z:
                area[_side_plane(b, d, s, side)] += b.area[d, s]
                soaking += b.area[d, s] * _soaks(b, d, s, side)
    for s in range(count):
        for side in range(2):
            if _side_zone(b, d, s, side) == z:
                p = _side_plane(b, d, s, side)
                reflected += planes[p] * b.area[d, s] / area[p] * (1 - _soaks(b, d, s, side))
    for p in range(6):
        if area[p] == 0:
            reflected += planes[p]
    for s in range(count):
        for side in range(2):
            if _side_zone(b, d, s, side) == z:
                p = _side_plane(b, d, s, side)
                takes = planes[p] / area[p] + reflected / soaking
                if b.gap[d, s] > 0:
                    for pane in range(2):
                        part = takes * b.hemispherical[d, s, 2 - pane] / 2
                        source[s, 2 * pane] += part
                        source[s, 2 * pane + 1] += part
                else:
                    node = b.nodes[d, s] - 1 if side == 0 else 0
                    source[s, node] += takes * b.faces[d, s, 1 - side]


@njit(cache=True)
def _soaks(b, d, s, side):
    """Share of diffuse sun from inside that a face keeps or lets out."""
    if b.gap[d, s] > 0:
        return b.hemispherical[d, s].sum()
    return b.faces[d, s, 1 - side]


@njit(cache=True)
def _radiant_gains(b, d, z, watts, source):
    """Spread radiant gains over the faces of a zone by area and emittance."""
    if watts == 0:
        return
    weight = 0.0
    for s in range(b.surfaces[d]):
        for side in range(2):
            if _side_zone(b, d, s, side) == z:
                weight += b.area[d, s] * b.faces[d, s, 3 - side]
    for s in range(b.surfaces[d]):
        for side in range(2):
            if _side_zone(b, d, s, side) == z:
                node = b.nodes[d, s] - 1 if side == 0 else 0
                source[s, node] += watts * b.faces[d, s, 3 - side] / weight


@njit(cache=True)
def _exchange(b, d, now, T, G, air, radiant, script_f, convective, infrared, outer_h, outer_source):
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
        if b.gap[d, s] > 0:
            tall = b.box[d, s, 5] - b.box[d, s, 2]
            e = b.faces[d, s, 2]
            G[s, 1] = air_gap(b.gap[d, s], tall, T[s, 1], T[s, 2], e, pressure)
        for side in range(2):
            z = _side_zone(b, d, s, side)
            if z >= 0:
                face = T[s, last] if side == 0 else T[s, 0]
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


@njit(cache=True)
def _sweep(capacity, G, old, source, n, dt, h, known, backward, pivot, rhs):
    """Thomas's forward elimination along a chain whose first face has the coefficient `h` to a
    known flux `known`; fills pivots and right-hand sides up to the last node."""
    for j in range(n):
        i = n - 1 - j if backward else j
        ahead = (G[i - 1] if backward else G[i]) if j < n - 1 else 0.0
        behind = (G[i] if backward else G[i - 1]) if j > 0 else 0.0
        pivot[i] = capacity[i] / dt + ahead + behind
        rhs[i] = capacity[i] / dt * old[i] + source[i]
        if j == 0:
            pivot[i] += h
            rhs[i] += known
        else:
            previous = i + 1 if backward else i - 1
            factor = behind / pivot[previous]
            pivot[i] -= factor * behind
            rhs[i] += factor * rhs[previous]


@njit(cache=True)
def _solve_zone(
    b, d, z, G, old, source, convective, infrared, dt,
    air_h, air_known, heat_to, cool_to, air, radiant, power, pivot, rhs,
):  # fmt: skip
    """Air and mean radiant temperature of one zone and the power that holds its setpoint.

    With every face eliminated to p + u·air + v·radiant, two equations are left.
    """
    k, known, radiant_air, radiant_known, radiant_own, coupling = (
        air_h,
        air_known,
        0.0,
        0.0,
        0.0,
        0.0,
    )
    for s in range(b.surfaces[d]):
        for side in range(2):
            if _side_zone(b, d, s, side) != z:
                continue
            far, n = _side_zone(b, d, s, 1 - side), b.nodes[d, s]
            if far >= 0:  # the others were eliminated before the rounds
                h = convective[s, 1 - side] + infrared[s, 1 - side]
                flux = convective[s, 1 - side] * air[far] + infrared[s, 1 - side] * radiant[far]
                _sweep(
                    b.capacity[d, s], G[s], old[s], source[s], n, dt,
                    h, flux, side == 1, pivot[s], rhs[s],
                )  # fmt: skip
            end = n - 1 if side == 0 else 0
            area, hc, hr = b.area[d, s], convective[s, side], infrared[s, side]
            total = pivot[s, end] + hc + hr
            p, u, v = rhs[s, end] / total, hc / total, hr / total
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
