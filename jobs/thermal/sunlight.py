"""Where the sun falls: shading and the patch of sun inside, by rays from points of a surface."""

from math import asin, cos, pi, sin, sqrt

import numpy as np
from numba import njit

from jobs.thermal.building import AXIS, UPPER

POINTS = 6
"""Rays start from POINTS × POINTS points of a surface."""
AZIMUTHS, HEIGHTS = 24, 8
"""Directions in which a surface looks at sky and ground."""
_AXIS = np.array(AXIS)
_UPPER = np.array(UPPER)


@njit
def normal(plane: int) -> tuple[float, float, float]:
    """Outward unit normal of a plane of a box, building coordinates."""
    sign = 1.0 if _UPPER[plane] else -1.0
    axis = _AXIS[plane]
    return (
        sign if axis == 0 else 0.0,
        sign if axis == 1 else 0.0,
        sign if axis == 2 else 0.0,
    )


@njit
def _meets(start: np.ndarray, direction: np.ndarray, box: np.ndarray) -> bool:
    """Whether the ray meets the box beyond its start (the slab method of Kay and Kajiya 1986)."""
    near, far = 1e-6, 1e9
    for axis in range(3):
        if abs(direction[axis]) < 1e-12:
            if start[axis] < box[axis] or start[axis] > box[axis + 3]:
                return False
            continue
        one = (box[axis] - start[axis]) / direction[axis]
        other = (box[axis + 3] - start[axis]) / direction[axis]
        near, far = max(near, min(one, other)), min(far, max(one, other))
    return near <= far


@njit
def _leaves_by(start: np.ndarray, direction: np.ndarray, box: np.ndarray) -> int:
    """The plane through which a ray that starts in or on a box leaves it."""
    first, found = 1e9, 5
    for plane in range(6):
        axis = _AXIS[plane]
        going = direction[axis] > 1e-12 if _UPPER[plane] else direction[axis] < -1e-12
        if going:
            edge = box[axis + 3] if _UPPER[plane] else box[axis]
            distance = (edge - start[axis]) / direction[axis]
            if distance < first:
                first, found = distance, plane
    return found


@njit
def _point(box: np.ndarray, plane: int, i: int, j: int, point: np.ndarray) -> None:
    along = ((i + 0.5) / POINTS, (j + 0.5) / POINTS)
    used = 0
    for axis in range(3):
        if axis == _AXIS[plane]:
            point[axis] = box[axis]
        else:
            point[axis] = box[axis] + along[used] * (box[axis + 3] - box[axis])
            used += 1


@njit
def sunlit(
    box: np.ndarray,
    plane: int,
    sun: np.ndarray,
    shades: np.ndarray,
    inside: np.ndarray,
    patch: np.ndarray,
) -> float:
    """Share of a surface that the sun reaches past `shades` (S, 6); fills `patch` (6,) with the
    shares of it that go on to each plane of the box `inside`."""
    patch[:] = 0
    point, inward = np.empty(3), -sun
    for i in range(POINTS):
        for j in range(POINTS):
            _point(box, plane, i, j, point)
            hidden = False
            for shade in range(shades.shape[0]):
                if _meets(point, sun, shades[shade]):
                    hidden = True
                    break
            if not hidden:
                patch[_leaves_by(point, inward, inside)] += 1 / POINTS**2
    return patch.sum()


@njit
def outlook(box: np.ndarray, plane: int, shades: np.ndarray) -> tuple[float, float, float]:
    """Shares of sky, horizon and ground that a surface sees past `shades`, each 0 to 1.

    Directions are drawn evenly over the cosine-weighted hemisphere.
    """
    seen, all_of = np.zeros(3), np.zeros(3)
    point, direction = np.empty(3), np.empty(3)
    outward = normal(plane)
    axis = _AXIS[plane]
    first, second = (axis + 1) % 3, (axis + 2) % 3
    for h in range(HEIGHTS):
        tilt = asin(sqrt((h + 0.5) / HEIGHTS))
        for a in range(AZIMUTHS):
            turn = 2 * pi * (a + 0.5) / AZIMUTHS
            direction[axis] = outward[axis] * cos(tilt)
            direction[first] = sin(tilt) * cos(turn)
            direction[second] = sin(tilt) * sin(turn)
            kind = 0 if direction[2] > 0 else 2
            for i in range(POINTS):
                for j in range(POINTS):
                    _point(box, plane, i, j, point)
                    free = 1.0
                    for shade in range(shades.shape[0]):
                        if _meets(point, direction, shades[shade]):
                            free = 0.0
                            break
                    seen[kind] += free
                    all_of[kind] += 1
                    if 0 < direction[2] < 0.2:
                        seen[1] += free
                        all_of[1] += 1
    for kind in range(3):
        seen[kind] = seen[kind] / all_of[kind] if all_of[kind] > 0 else 1.0
    return seen[0], seen[1], seen[2]
