"""Surface heat transfer coefficients in W/m2K, compiled for the simulation's inner loop."""

from math import sqrt

import numpy as np
from numba import njit

SIGMA = 5.670374419e-8
KELVIN = 273.15
LEAST = 0.1
"""W/m2K; keeps a surface that is as warm as its air attached to it."""


@njit(cache=True)
def natural(difference: float, facing: float) -> float:
    """Natural convection (TARP: Walton 1983; ASHRAE Fundamentals) at a flat surface.

    `difference`: surface less air, in K; `facing`: the upward part of the surface's normal into
    that air, 1 for a floor or the top of a roof, 0 for a wall, -1 for a ceiling.
    """
    root = np.cbrt(abs(difference))
    if abs(facing) < 1e-6:
        return max(LEAST, 1.31 * root)
    if difference * facing > 0:
        return max(LEAST, 9.482 * root / (7.238 - abs(facing)))
    return max(LEAST, 1.810 * root / (1.382 + abs(facing)))


@njit(cache=True)
def exterior(difference: float, facing: float, wind: float, windward: bool, rough: float) -> float:
    """Exterior convection by DOE-2 with MoWiTT's coefficients (Yazdanian and Klems 1994).

    `wind` in m/s at the height of the surface; `rough` multiplies the forced part.
    """
    still = natural(difference, facing)
    forced = 3.26 * wind**0.89 if windward else 3.55 * wind**0.617
    return still + rough * (sqrt(still * still + forced * forced) - still)


@njit(cache=True)
def radiative(emittance: float, one: float, other: float) -> float:
    """Linearised infrared exchange between temperatures in degC (Stefan and Boltzmann)."""
    a, b = one + KELVIN, other + KELVIN
    return emittance * SIGMA * (a * a + b * b) * (a + b)


@njit(cache=True)
def air_gap(
    width: float, height: float, outer: float, inner: float, emittance: float, pressure: float
) -> float:
    """Conductance of a vertical air gap between panes (ISO 15099:2003, 5.3.3; infrared 5.2).

    `width`, `height` in m; temperatures of the panes in degC; `pressure` in Pa.
    """
    mean = (outer + inner) / 2 + KELVIN
    conductivity = 2.873e-3 + 7.76e-5 * mean
    viscosity = 3.723e-6 + 4.94e-8 * mean
    heat = 1002.737 + 1.2324e-2 * mean
    density = pressure / (287.055 * mean)
    rayleigh = (
        density**2 * width**3 * 9.81 * heat * abs(outer - inner) / (mean * viscosity * conductivity)
    )
    if rayleigh <= 1e4:
        nusselt = 1 + 1.7596678e-10 * rayleigh**2.2984755
    elif rayleigh <= 5e4:
        nusselt = 0.028154 * rayleigh**0.4134
    else:
        nusselt = 0.0673838 * rayleigh ** (1 / 3)
    nusselt = max(nusselt, 0.242 * (rayleigh * width / height) ** 0.272)
    between = 1 / (2 / emittance - 1)
    return nusselt * conductivity / width + radiative(between, outer, inner)


@njit(cache=True)
def air_density(pressure: float, temperature: float) -> float:
    """Of dry air, kg/m3, from Pa and degC."""
    return pressure / (287.055 * (temperature + KELVIN))
