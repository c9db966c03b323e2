"""The parts of the demo's domain, and the check whether an answer is the part that was asked for.

A design is compact JSON, e.g. {"part":"gear","teeth":20,"module":2,"bore":6}, lengths in mm.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MODULES = (1, 1.25, 1.5, 2, 2.5, 3, 4, 5)
"""Gear modules in mm, first series of ISO 54 up to 5."""
NEMA = {17: (31.0, 22.0, 42.3), 23: (47.14, 38.1, 56.4)}
"""Stepper frame → (hole spacing, pilot diameter, face width) in mm, NEMA ICS 16."""
MOTOR_HOLE = {17: 3.4, 23: 5.5}
"""Clearance holes in mm for the M3 and M5 screws of these frames, ISO 273 medium."""
THREADS = (3, 4, 5, 6, 8, 10, 12)
"""Coarse metric threads in mm, ISO 261."""
LENGTHS = (6, 8, 10, 12, 16, 20, 25, 30, 35, 40, 45, 50, 60)
"""Nominal screw lengths in mm, ISO 888."""
HEADS = ("hex", "socket", "countersunk")
FIELDS = {
    "gear": ("teeth", "module", "bore"),
    "bracket": ("nema", "width", "thickness"),
    "screw": ("thread", "length", "head"),
}
LEAST_WALL = 2.0
"""Least material beside a hole or between bore and tooth root, mm."""

Design = dict[str, Any]


@dataclass(frozen=True)
class Verification:
    """What is right about an answer; `parameters_right` is a share, 0 to 1."""

    parses: bool
    right_part: bool
    parameters_right: float
    geometry_valid: bool

    @property
    def success(self) -> bool:
        return self.right_part and self.parameters_right == 1 and self.geometry_valid


def write(design: Design) -> str:
    """A design as compact JSON, fields in their order."""
    part = design["part"]
    ordered = {"part": part} | {name: design[name] for name in FIELDS[part]}
    return json.dumps(ordered, separators=(",", ":"))


def verify(target: str, completion: str) -> Verification:
    """Compare an answer with the design that was asked for; never raises for any answer."""
    wanted = json.loads(target)
    try:
        answer = json.loads(completion)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        return Verification(False, False, 0.0, False)
    if answer.get("part") != wanted["part"]:
        return Verification(True, False, 0.0, is_valid(answer))
    names = FIELDS[wanted["part"]]
    right = sum(_same(answer.get(name), wanted[name]) for name in names) / len(names)
    if set(answer) - {"part", *names}:
        right = min(right, 0.5)
    return Verification(True, True, right, is_valid(answer))


def is_valid(design: Design) -> bool:
    """Whether the part can be made: complete, of standard sizes, with material everywhere."""
    part = design.get("part")
    if not isinstance(part, str) or part not in FIELDS:
        return False
    try:
        return VALID[part](*(design.get(name) for name in FIELDS[part]))
    except TypeError:
        return False


def _gear(teeth: Any, module: Any, bore: Any) -> bool:
    """The bore leaves a wall below the root circle, whose diameter is m (z - 2.5), ISO 53."""
    if not (_is_number(teeth) and _is_number(module) and _is_number(bore)):
        return False
    whole = float(teeth).is_integer() and 8 <= teeth <= 200
    root = module * (teeth - 2.5)
    return whole and module in MODULES and 0 < bore <= root - 2 * LEAST_WALL


def _bracket(nema: Any, width: Any, thickness: Any) -> bool:
    """The motor's hole pattern lies inside a square plate."""
    if not (_is_number(nema) and _is_number(width) and _is_number(thickness)) or nema not in NEMA:
        return False
    spacing, pilot, face = NEMA[int(nema)]
    needed = max(spacing + MOTOR_HOLE[int(nema)], pilot) + 2 * LEAST_WALL
    return width >= max(needed, face) and 1 <= thickness <= 20 and width <= 400


def _screw(thread: Any, length: Any, head: Any) -> bool:
    if not (_is_number(thread) and _is_number(length)):
        return False
    return thread in THREADS and length in LENGTHS and length >= thread and head in HEADS


VALID: dict[str, Callable[..., bool]] = {"gear": _gear, "bracket": _bracket, "screw": _screw}


def _is_number(value: Any) -> bool:
    """A number of a size that a part can have; JSON knows NaN and integers beyond any float."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _same(answer: Any, wanted: Any) -> bool:
    if _is_number(wanted):
        return _is_number(answer) and abs(answer - wanted) < 1e-9
    return type(answer) is type(wanted) and answer == wanted
