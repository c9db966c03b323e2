"""Solar properties of clear double glazing at any angle, from its panes' values at normal
incidence: Fresnel's equations with absorption, and multiple reflection between the panes (Duffie
and Beckman, Solar Engineering of Thermal Processes, ch. 5). A pane's two polarisations are averaged
before panes are combined, as ISO 15099, WINDOW and EnergyPlus do."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import fsolve

ANGLES = 91
"""Tabulated incidence angles: 0, 1, … 90 degrees."""


@dataclass(frozen=True)
class Glazing:
    """Two equal clear panes. Transmittance and reflectance at normal incidence (0 to 1),
    thickness in m, conductivity in W/mK, gap in m of air, infrared emittance of all faces."""

    transmittance: float = 0.834
    reflectance: float = 0.075
    thickness: float = 0.003048
    conductivity: float = 1.0
    density: float = 2470.0
    specific_heat: float = 750.0
    gap: float = 0.012
    emittance: float = 0.84


@dataclass(frozen=True)
class Optics:
    """Transmitted, absorbed in the outer and in the inner pane, as shares of the incident: by
    angle in degrees, shape (91, 3), and hemispherical for diffuse light, shape (3,)."""

    by_angle: np.ndarray
    diffuse: np.ndarray


@cache
def optics(transmittance: float, reflectance: float) -> Optics:
    """Optics of two panes with these values at normal incidence.

    Raises ValueError where no clear pane has them.
    """
    index, transmission = _pane(transmittance, reflectance)
    angle = np.radians(np.arange(ANGLES, dtype=float))
    angle[-1] = np.radians(89.99)
    refracted = np.arcsin(np.sin(angle) / index)
    path = transmission ** (1 / np.cos(refracted))
    surface_s = (np.sin(refracted - angle) / np.sin(np.maximum(refracted + angle, 1e-9))) ** 2
    surface_p = (np.tan(refracted - angle) / np.tan(np.maximum(refracted + angle, 1e-9))) ** 2
    normal = ((index - 1) / (index + 1)) ** 2
    surface_s[0] = surface_p[0] = normal
    shares = _two_panes(*np.mean([_slab(r, path) for r in (surface_s, surface_p)], axis=0))
    by_angle = np.stack(shares, axis=1)
    by_angle[-1] = 0
    weight = np.sin(2 * angle)
    return Optics(by_angle, (by_angle * weight[:, None]).sum(0) / weight.sum())


def _slab(surface: np.ndarray, path: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transmittance and reflectance of a pane with `surface` reflectance, `path` transmission."""
    through = path * (1 - surface) ** 2 / (1 - (surface * path) ** 2)
    return through, surface * (1 + path * through)


def _two_panes(t: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    between = 1 / (1 - r * r)
    absorbed = 1 - t - r
    return t * t * between, absorbed * (1 + t * r * between), absorbed * t * between


def _pane(transmittance: float, reflectance: float) -> tuple[float, float]:
    """Refractive index and transmission of one passage at normal incidence."""

    def misfit(unknown: np.ndarray) -> np.ndarray:
        surface = ((unknown[0] - 1) / (unknown[0] + 1)) ** 2
        through, back = _slab(np.array(surface), np.array(unknown[1]))
        return np.array([through - transmittance, back - reflectance])

    (index, path), _, found, _ = fsolve(misfit, [1.5, 0.9], full_output=True)
    if found != 1 or index <= 1 or not 0 < path <= 1:
        raise ValueError(f"no clear pane has T {transmittance} and R {reflectance}")
    return float(index), float(path)
