"""Conduction through a chain of nodes from its outer to its inner face, implicit in time.

`rate` is the nodes' capacity over the step, `conductance` that between neighbours, both in W/m2K.
What lies between the faces is eliminated once, as long as neither changes: then a wall is two
equations for its faces,

    (outer + h) T[0]  − through T[-1] = load of the outer face + known flux
    (inner + h) T[-1] − through T[0]  = load of the inner face + known flux

with the coefficients `h` and the known fluxes of what the faces touch, and no step divides by node.
"""

from numba import njit


@njit
def condense(rate, conductance, n, weight, ahead, near, far):
    """Eliminate the nodes between the faces of a chain of `n` (Thomas's algorithm).

    Fills `weight`, `ahead` (the sweep's factors) and `near`, `far` (what each node takes of the
    outer and of the inner face's temperature). Returns outer, inner and through, W/m2K.
    """
    for i in range(1, n - 1):
        pivot = rate[i] + conductance[i - 1] + conductance[i]
        before = conductance[i - 1]
        if i > 1:
            pivot -= before * before * weight[i - 1]
        weight[i] = 1 / pivot
        ahead[i] = conductance[i] / pivot
        near[i] = before * (near[i - 1] if i > 1 else 1.0) / pivot
        far[i] = 0.0
    if n == 2:
        return rate[0] + conductance[0], rate[1] + conductance[0], conductance[0]
    far[n - 2] = ahead[n - 2]
    for i in range(n - 3, 0, -1):
        near[i] += ahead[i] * near[i + 1]
        far[i] = ahead[i] * far[i + 1]
    outer = rate[0] + conductance[0] * (1 - near[1])
    inner = rate[n - 1] + conductance[n - 2] * (1 - far[n - 2])
    return outer, inner, conductance[0] * far[1]


@njit
def drive(rate, conductance, n, weight, ahead, T, source, alone):
    """What the temperatures before the step and the sources bring to both faces, W/m2.

    Fills `alone`: the nodes' temperatures if both faces were at 0.
    """
    y = 0.0
    for i in range(1, n - 1):
        y = weight[i] * (rate[i] * T[i] + source[i] + conductance[i - 1] * y)
        alone[i] = y
    for i in range(n - 3, 0, -1):
        y = alone[i] + ahead[i] * y
        alone[i] = y
    outer, inner = rate[0] * T[0] + source[0], rate[n - 1] * T[n - 1] + source[n - 1]
    if n > 2:
        outer += conductance[0] * alone[1]
        inner += conductance[n - 2] * alone[n - 2]
    return outer, inner


@njit
def settle(rate, n, near, far, alone, first, last, T):
    """Set all temperatures from those of the faces. Returns the heat that was stored, W/m2."""
    stored = rate[0] * (first - T[0]) + rate[n - 1] * (last - T[n - 1])
    T[0], T[n - 1] = first, last
    for i in range(1, n - 1):
        now = alone[i] + near[i] * first + far[i] * last
        stored += rate[i] * (now - T[i])
        T[i] = now
    return stored
