"""What a building is made of, and many of them stacked into arrays for the simulation.

A zone is a box, its south-west floor corner at `origin`; x runs east, y north, z up, in metres.
`Building.rotation` turns the whole clockwise, in degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, sqrt
from typing import NamedTuple

import numpy as np

from infra.errors import InputError
from jobs.thermal.glazing import Glazing, optics

PLANES = ("south", "east", "north", "west", "roof", "floor")
OUTDOORS, SHELTERED = -1, -2
"""What lies behind a wall: weather, or outdoor air without sun and wind (a raised floor)."""
CELL_SECONDS = 600
"""A layer is cut into cells through which heat diffuses in about this time."""
MOST_CELLS = 10
DAY = 144
"""Schedules hold a value for the end of every ten minutes of the day."""
Box = tuple[float, float, float, float, float, float]
"""Lowest x, y, z and highest x, y, z in m."""


@dataclass(frozen=True)
class Layer:
    """Thickness m, conductivity W/mK, density kg/m3, specific heat J/kgK; no mass by default."""

    thickness: float
    conductivity: float
    density: float = 0
    specific_heat: float = 0

    @property
    def resistance(self) -> float:
        return self.thickness / self.conductivity

    @property
    def capacity(self) -> float:
        """J/m2K"""
        return self.thickness * self.density * self.specific_heat


@dataclass(frozen=True)
class Wall:
    """An opaque surface on one side of a zone, its layers from outside to inside.

    `area` in m2 without windows; `behind` is OUTDOORS, SHELTERED or the number of another zone
    whose air touches the outer face. Absorptances (solar) and emittances (infrared), 0 to 1.
    """

    plane: str
    area: float
    layers: tuple[Layer, ...]
    behind: int = OUTDOORS
    outer_absorptance: float = 0.6
    outer_emittance: float = 0.9
    inner_absorptance: float = 0.6
    inner_emittance: float = 0.9
    roughness: float = 1.67
    """Of the outer face, on forced convection: 1.67 rough, 1 as smooth as glass (DOE-2)."""


@dataclass(frozen=True)
class Window:
    """A rectangle of double glazing on a facade: `box` in building coordinates, in m."""

    plane: str
    box: Box
    glazing: Glazing = field(default_factory=Glazing)


@dataclass(frozen=True)
class Zone:
    """A box of air with its surfaces.

    `size` along x, y, z in m. Air changes an hour, gains in W, setpoints in degC; each a number
    or a day of 144 ten-minute values. `heating` None: none; `cooling` likewise.
    """

    size: tuple[float, float, float]
    walls: tuple[Wall, ...]
    windows: tuple[Window, ...] = ()
    origin: tuple[float, float, float] = (0, 0, 0)
    air_changes: "float | Sequence[float]" = 0.5
    gains: "float | Sequence[float]" = 0.0
    radiant_share: float = 0.6
    heating: "float | Sequence[float] | None" = 20.0
    cooling: "float | Sequence[float] | None" = 27.0


@dataclass(frozen=True)
class Building:
    """Zones, opaque shades outside (axis-aligned boxes, one side may be flat), and the turn."""

    zones: tuple[Zone, ...]
    shades: tuple[Box, ...] = ()
    rotation: float = 0
    ground_reflectance: float = 0.2


class Stacked(NamedTuple):
    """Buildings as arrays: D designs, Z zones, W surfaces, N nodes, S shades, padded with zeros.

    Surfaces are walls and windows alike: chains of nodes from outside to inside, `capacity` in
    J/m2K a node, `conductance` in W/m2K between nodes.
    """

    surfaces: np.ndarray  # (D,) how many
    nodes: np.ndarray  # (D, W) how many
    capacity: np.ndarray  # (D, W, N)
    conductance: np.ndarray  # (D, W, N)
    zone: np.ndarray  # (D, W) number of the zone at the inner face
    behind: np.ndarray  # (D, W) number of the zone at the outer face, OUTDOORS or SHELTERED
    plane: np.ndarray  # (D, W) place in PLANES, seen from the inner zone
    area: np.ndarray  # (D, W) m2
    box: np.ndarray  # (D, W, 6) m
    faces: np.ndarray  # (D, W, 5) outer and inner absorptance, outer and inner emittance, roughness
    gap: np.ndarray  # (D, W) m of air between panes; 0 for a wall
    angular: np.ndarray  # (D, W, 91, 3) transmitted, absorbed outside and inside, by angle
    hemispherical: np.ndarray  # (D, W, 3) the same for diffuse light
    zones: np.ndarray  # (D,) how many
    zone_box: np.ndarray  # (D, Z, 6) m
    volume: np.ndarray  # (D, Z) m3
    air_changes: np.ndarray  # (D, Z, 144) 1/h
    gains: np.ndarray  # (D, Z, 144) W
    radiant_share: np.ndarray  # (D, Z)
    heating: np.ndarray  # (D, Z, 144) degC
    cooling: np.ndarray  # (D, Z, 144) degC
    shades: np.ndarray  # (D, S, 6) m
    shade_count: np.ndarray  # (D,)
    rotation: np.ndarray  # (D,) radians
    albedo: np.ndarray  # (D,)


@dataclass
class _Surface:
    """One surface on its way into the arrays."""

    zone: int
    plane: int
    area: float
    box: Box
    capacity: list[float]
    conductance: list[float]
    faces: tuple[float, ...]
    behind: int = OUTDOORS
    gap: float = 0
    glazing: Glazing | None = field(default=None)


def stack(buildings: Sequence[Building]) -> Stacked:
    """Check `buildings` and stack them. Raises InputError that names the design and the fault."""
    chains = []
    for number, building in enumerate(buildings):
        try:
            chains.append(_surfaces(building))
        except ValueError as error:
            raise InputError(f"design {number}: {error}", "Correct that design.") from None
    designs = len(buildings)
    most_zones = max(len(b.zones) for b in buildings)
    most_surfaces = max(len(c) for c in chains)
    most_nodes = max(len(s.capacity) for c in chains for s in c)
    most_shades = max(1, *(len(b.shades) for b in buildings))
    per_surface, per_zone = (designs, most_surfaces), (designs, most_zones)
    stacked = Stacked(
        surfaces=np.array([len(c) for c in chains]),
        nodes=np.zeros(per_surface, int),
        capacity=np.zeros((*per_surface, most_nodes)),
        conductance=np.zeros((*per_surface, most_nodes)),
        zone=np.zeros(per_surface, int),
        behind=np.full(per_surface, OUTDOORS),
        plane=np.zeros(per_surface, int),
        area=np.zeros(per_surface),
        box=np.zeros((*per_surface, 6)),
        faces=np.zeros((*per_surface, 5)),
        gap=np.zeros(per_surface),
        angular=np.zeros((*per_surface, 91, 3)),
        hemispherical=np.zeros((*per_surface, 3)),
        zones=np.array([len(b.zones) for b in buildings]),
        zone_box=np.zeros((*per_zone, 6)),
        volume=np.zeros(per_zone),
        air_changes=np.zeros((*per_zone, DAY)),
        gains=np.zeros((*per_zone, DAY)),
        radiant_share=np.zeros(per_zone),
        heating=np.zeros((*per_zone, DAY)),
        cooling=np.zeros((*per_zone, DAY)),
        shades=np.zeros((designs, most_shades, 6)),
        shade_count=np.array([len(b.shades) for b in buildings]),
        rotation=np.radians([b.rotation for b in buildings]),
        albedo=np.array([b.ground_reflectance for b in buildings], float),
    )
    for d, (building, chain) in enumerate(zip(buildings, chains, strict=True)):
        for s, surface in enumerate(chain):
            _put_surface(stacked, d, s, surface)
        for z, zone in enumerate(building.zones):
            _put_zone(stacked, d, z, zone)
        if building.shades:
            stacked.shades[d, : len(building.shades)] = building.shades
    return stacked


def _put_surface(stacked: Stacked, d: int, s: int, surface: _Surface) -> None:
    count = len(surface.capacity)
    stacked.nodes[d, s] = count
    stacked.capacity[d, s, :count] = surface.capacity
    stacked.conductance[d, s, : count - 1] = surface.conductance
    stacked.zone[d, s] = surface.zone
    stacked.behind[d, s] = surface.behind
    stacked.plane[d, s] = surface.plane
    stacked.area[d, s] = surface.area
    stacked.box[d, s] = surface.box
    stacked.faces[d, s] = surface.faces
    stacked.gap[d, s] = surface.gap
    if surface.glazing is not None:
        shares = optics(surface.glazing.transmittance, surface.glazing.reflectance)
        stacked.angular[d, s] = shares.by_angle
        stacked.hemispherical[d, s] = shares.diffuse


def _put_zone(stacked: Stacked, d: int, z: int, zone: Zone) -> None:
    stacked.zone_box[d, z] = [*zone.origin, *np.add(zone.origin, zone.size)]
    stacked.volume[d, z] = np.prod(zone.size)
    stacked.air_changes[d, z] = zone.air_changes
    stacked.gains[d, z] = zone.gains
    stacked.radiant_share[d, z] = zone.radiant_share
    stacked.heating[d, z] = -1e3 if zone.heating is None else zone.heating
    stacked.cooling[d, z] = 1e3 if zone.cooling is None else zone.cooling
    if (stacked.heating[d, z] > stacked.cooling[d, z]).any():
        raise InputError(
            f"design {d}: zone {z} is to be heated above the temperature to which it is cooled",
            "Keep the heating setpoint at or below the cooling setpoint.",
        )


def _surfaces(building: Building) -> list[_Surface]:
    found = []
    for number, zone in enumerate(building.zones):
        _positive(f"size of zone {number}", *zone.size)
        _finite(f"zone {number}", zone.air_changes, zone.gains, zone.heating, zone.cooling)
        if np.min(zone.air_changes) < 0 or not 0 <= zone.radiant_share <= 1:
            raise ValueError(f"zone {number} has negative air changes or no share as radiant share")
        for wall in zone.walls:
            found.append(_wall(number, zone, wall, len(building.zones)))
        for window in zone.windows:
            found.append(_window(number, window))
    return found


def _wall(number: int, zone: Zone, wall: Wall, zones: int) -> _Surface:
    _positive(f"area of the {wall.plane} wall of zone {number}", wall.area)
    if wall.behind >= zones or wall.behind == number or not wall.layers:
        raise ValueError(f"the {wall.plane} wall of zone {number} has no layers or nothing behind")
    capacity, conductance = [0.0], []
    for layer in wall.layers:
        _positive(f"layer of the {wall.plane} wall", layer.thickness, layer.conductivity)
        cells = 1
        if layer.capacity > 0:
            diffusivity = layer.conductivity * layer.thickness / layer.capacity
            cells = min(MOST_CELLS, ceil(layer.thickness / sqrt(diffusivity * CELL_SECONDS)))
        for _ in range(cells):
            capacity[-1] += layer.capacity / cells / 2
            capacity.append(layer.capacity / cells / 2)
            conductance.append(cells / layer.resistance)
    faces = (
        wall.outer_absorptance,
        wall.inner_absorptance,
        wall.outer_emittance,
        wall.inner_emittance,
    )
    if not all(0 <= value <= 1 for value in faces):
        raise ValueError(f"an absorptance or emittance of the {wall.plane} wall is not in 0 to 1")
    return _Surface(
        number,
        PLANES.index(wall.plane),
        wall.area,
        _face(zone, PLANES.index(wall.plane)),
        capacity,
        conductance,
        (*faces, wall.roughness),
        wall.behind,
    )


def _window(number: int, window: Window) -> _Surface:
    glazing = window.glazing
    sides = sorted(np.subtract(window.box[3:], window.box[:3]))
    _positive(f"{window.plane} window of zone {number}", *sides[1:])
    _positive("glazing", glazing.thickness, glazing.conductivity, glazing.gap)
    pane = glazing.thickness * glazing.density * glazing.specific_heat / 2
    through = glazing.conductivity / glazing.thickness
    return _Surface(
        number,
        PLANES.index(window.plane),
        float(sides[1] * sides[2]),
        window.box,
        [pane] * 4,
        [through, 0.0, through],
        (0.0, 0.0, glazing.emittance, glazing.emittance, 1.0),
        gap=glazing.gap,
        glazing=glazing,
    )


def _face(zone: Zone, plane: int) -> Box:
    low, high = list(zone.origin), list(np.add(zone.origin, zone.size))
    axis, upper = AXIS[plane], UPPER[plane]
    (low if upper else high)[axis] = (high if upper else low)[axis]
    return (*low, *high)  # type: ignore[return-value]


AXIS = (1, 0, 1, 0, 2, 2)
"""The axis that each of PLANES stands on."""
UPPER = (False, True, True, False, True, False)
"""Whether it is the plane with the greater coordinate."""


def _positive(what: str, *values: float) -> None:
    for value in values:
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{what}: {value} is not a positive number")


def _finite(what: str, *values: "float | Sequence[float] | None") -> None:
    for value in values:
        if value is not None and not np.isfinite(value).all():
            raise ValueError(f"{what}: a schedule holds a value that is not a number")
