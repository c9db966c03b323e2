"""Surface heat transfer coefficients in W/m2K, compiled for the simulation's inner loop."""

from math import exp, sqrt

import numpy as np
from numba import njit

SIGMA = 5.670374419e-8
KELVIN = 273.15
TURBULENT = 2.5e5 * exp(0.72 * 90 / 5)
"""Rayleigh number from which the flow along a vertical pane is turbulent (ISO 15099)."""
LEAST = 0.1
"""W/m2K; keeps a surface that is as warm as its air attached to it."""


@njit
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


@njit
def exterior(difference: float, facing: float, wind: float, windward: bool, rough: float) -> float:
    """Exterior convection by DOE-2 with MoWiTT's coefficients (Yazdanian and Klems 1994).

    `wind` in m/s at the height of the surface; `rough` multiplies the forced part.
    """
    still = natural(difference, facing)
    forced = 3.26 * wind**0.89 if windward else 3.55 * wind**0.617
    return still + rough * (sqrt(still * still + forced * forced) - still)


@njit
def radiative(emittance: float, one: float, other: float) -> float:
    """Linearised infrared exchange between temperatures in degC (Stefan and Boltzmann)."""
    a, b = one + KELVIN, other + KELVIN
    return emittance * SIGMA * (a * a + b * b) * (a + b)


@njit
def window_inside(face: float, air: float, height: float, pressure: float) -> float:
    """Natural convection at the room's side of a vertical pane (ISO 15099:2003, 8.3.2.2), which
    EnergyPlus, too, takes for windows beside TARP for walls. `height` in m, `pressure` in Pa."""
    rayleigh, conductivity = _air(
        air + (face - air) / 4 + KELVIN, height, abs(face - air), pressure
    )
    laminar = min(rayleigh, TURBULENT)
    nusselt = 0.56 * laminar**0.25 + 0.13 * (np.cbrt(rayleigh) - np.cbrt(laminar))
    return max(LEAST, nusselt * conductivity / height)


@njit
def _air(mean: float, length: float, difference: float, pressure: float) -> tuple[float, float]:
    """Rayleigh number of dry air over a length, and its conductivity in W/mK (ISO 15099, Annex B).

    `mean` in K, `length` in m, `difference` in K, `pressure` in Pa.
    """
    conductivity = 2.873e-3 + 7.76e-5 * mean
    viscosity = 3.723e-6 + 4.94e-8 * mean
    heat = 1002.737 + 1.2324e-2 * mean
    density = pressure / (287.055 * mean)
    rayleigh = density**2 * length**3 * 9.81 * heat * difference / (mean * viscosity * conductivity)
    return rayleigh, conductivity


@njit
def air_gap(
    width: float, height: float, outer: float, inner: float, emittance: float, pressure: float
) -> float:
    """Conductance of a vertical air gap between panes (ISO 15099:2003, 5.3.3; infrared 5.2).

    `width`, `height` in m; temperatures of the panes in degC; `pressure` in Pa.
    """
    mean = (outer + inner) / 2 + KELVIN
    rayleigh, conductivity = _air(mean, width, abs(outer - inner), pressure)
    if rayleigh <= 1e4:
        nusselt = 1 + 1.7596678e-10 * rayleigh**2.2984755
    elif rayleigh <= 5e4:
        nusselt = 0.028154 * rayleigh**0.4134
    else:
        nusselt = 0.0673838 * rayleigh ** (1 / 3)
    nusselt = max(nusselt, 0.242 * (rayleigh * width / height) ** 0.272)
    between = 1 / (2 / emittance - 1)
    return nusselt * conductivity / width + radiative(between, outer, inner)


@njit
def air_density(pressure: float, temperature: float) -> float:
    """Of dry air, kg/m3, from Pa and degC."""
    return pressure / (287.055 * (temperature + KELVIN))
