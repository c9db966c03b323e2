"""What EnergyPlus is told of a building: surfaces that face outwards, as large as ours."""

import numpy as np
import pytest

from benchmarks.epjson import epjson
from jobs.surrogate.designs import build
from jobs.surrogate.simulate import shuffled_designs

OUTWARD = {
    "south": (0, -1, 0), "east": (1, 0, 0), "north": (0, 1, 0), "west": (-1, 0, 0),
    "roof": (0, 0, 1), "floor": (0, 0, -1),
}  # fmt: skip


@pytest.mark.parametrize("design", shuffled_designs(3, 1).to_dict("records"))
def test_surfaces_face_outwards_and_are_as_large(design: dict[str, float]) -> None:
    building = build(design)
    model = epjson(building)
    areas = {}
    for name, surface in model["BuildingSurface:Detailed"].items():
        areas[name] = facing(surface["vertices"], name.split()[1])
    for window in model["FenestrationSurface:Detailed"].values():
        corners = [
            {f"vertex_{axis}_coordinate": window[f"vertex_{n}_{axis}_coordinate"] for axis in "xyz"}
            for n in range(1, 5)
        ]
        wall = window["building_surface_name"]
        areas[wall] -= facing(corners, wall.split()[1])
    for number, zone in enumerate(building.zones):
        for wall in zone.walls:
            assert areas.pop(f"Z{number} {wall.plane}") == pytest.approx(wall.area)
    assert list(areas) == ["Z1 south"], "the partition, seen from the back"
    assert model["BuildingSurface:Detailed"]["Z1 south"]["construction_name"] == "Z1 south"


def test_a_night_setback_is_told_by_the_hour() -> None:
    design = shuffled_designs(1, 1).to_dict("records")[0] | {"setback": 3, "heating_setpoint": 20}
    data = epjson(build(design))["Schedule:Compact"]["Z0 heating"]["data"]
    assert [field["field"] for field in data][2:] == [
        "Until: 06:00", 17.0, "Until: 22:00", 20.0, "Until: 24:00", 17.0,
    ]  # fmt: skip


def facing(vertices: list[dict[str, float]], plane: str) -> float:
    """The area in m2 as seen from outside (Newell); negative from inside."""
    points = np.array([[v[f"vertex_{axis}_coordinate"] for axis in "xyz"] for v in vertices])
    return float(np.cross(points, np.roll(points, -1, 0)).sum(0) @ OUTWARD[plane] / 2)
