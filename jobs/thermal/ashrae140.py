"""Validation on the thermal fabric cases of ASHRAE Standard 140-2020.

    python -m jobs.thermal.ashrae140 --data ../shared/data --output validation

`--data` holds `ashrae140/cases.json` and `ranges.csv` (results of six programs, Annex B8) and
`weather/`. Prints the table of every case and metric, and writes it as `ashrae140.md` and
`ashrae140.png`. Peaks are of hourly means, as in the standard.
"""

import argparse
import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import InputError
from jobs.thermal.building import DAY, SHELTERED, Box, Building, Layer, Wall, Window, Zone
from jobs.thermal.glazing import Glazing
from jobs.thermal.physics import Loads, simulate
from jobs.thermal.weather import read_epw

FREE_FLOAT = ("free_float_max", "free_float_min", "free_float_mean")


@dataclass(frozen=True)
class Row:
    """One metric of one case beside the range of the example results."""

    case: str
    metric: str
    unit: str
    value: float
    low: float
    high: float
    mean: float

    @property
    def inside(self) -> bool:
        return self.low <= self.value <= self.high

    @property
    def outside_by(self) -> float:
        """Distance to the range in its unit; 0 inside, negative below."""
        return min(0.0, self.value - self.low) + max(0.0, self.value - self.high)

    @property
    def from_mean(self) -> float:
        """Relative difference from the mean, a fraction; infinite from a mean of nothing."""
        if not self.mean:
            return 0.0 if not self.value else math.copysign(math.inf, self.value)
        return self.value / self.mean - 1

    @property
    def annual(self) -> bool:
        return self.metric.startswith("annual")


class Cases:
    """The cases of a `cases.json` as buildings."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def names(self) -> list[str]:
        return list(self.facts["cases"])

    def building(self, name: str) -> Building:
        """The building of one case."""
        case = self.facts["cases"][name]
        albedo = self.facts["surface_radiation"]["ground_reflectance"]["value"]
        if case.get("two_zone"):
            return Building(self._sunspace(case), ground_reflectance=albedo)
        geometry = self.facts["geometry"]
        size = geometry["zone"]
        openings = geometry["window_sets"][case["window_set"]]["windows"]
        places = [(o["plane"].split()[0], self._box(o, size)) for o in openings]
        if case["glazing"] not in (None, "clear_double", "opaque_window"):
            raise InputError(
                f"case {name}: glazing {case['glazing']} is none of clear_double, opaque_window",
                "Only these two are known.",
            )
        clear = case["glazing"] == "clear_double"
        walls = self._walls(case, size, case["constructions"], places, () if clear else places)
        zone = self._zone(
            case, size, walls, tuple(Window(p, b, self._glazing()) for p, b in places if clear)
        )
        shades = geometry["shading_sets"][case["shading_set"]].get("surfaces", [])
        return Building((zone,), tuple(_shade(s) for s in shades), ground_reflectance=albedo)

    def _sunspace(self, case: dict[str, Any]) -> tuple[Zone, Zone]:
        zones = self.facts["sunspace_960"]["zones"]
        back, sunny = zones["back_zone"], zones["sun_zone"]
        common = self.facts["sunspace_960"]["common_wall"]
        light = {"walls": "light_wall", "roof": "light_roof", "floor": "light_floor"}
        heavy = {"walls": "heavy_wall", "roof": "light_roof", "floor": "heavy_floor"}
        shared = Wall(
            "south",
            common["area_m2"],
            self._layers(common["construction"]),
            behind=1,
            outer_absorptance=common["solar_absorptance_each_face"],
            outer_emittance=common["ir_emittance_each_face"],
            inner_absorptance=common["solar_absorptance_each_face"],
            inner_emittance=common["ir_emittance_each_face"],
        )
        back_walls = self._walls(case, back, light, (), (), without="south")
        places = [
            ("south", (w["x_m"][0], w["y_m"], w["z_m"][0], w["x_m"][1], w["y_m"], w["z_m"][1]))
            for w in sunny["windows"]
        ]
        sun_walls = self._walls(case, sunny, heavy, places, (), without="north")
        return (
            self._zone(case, back, (*back_walls, shared), ()),
            self._zone(
                case | {"thermostat": "NONE", "internal_gain_W": sunny["internal_gain_W"]},
                sunny,
                sun_walls,
                tuple(Window(p, b, self._glazing()) for p, b in places),
                origin=(sunny["x_m"][0], sunny["y_m"][0], 0.0),
            ),
        )

    def _zone(self, case, size, walls, windows, origin=(0.0, 0.0, 0.0)) -> Zone:
        heating, cooling = self._thermostat(case["thermostat"])
        air = np.full(DAY, case["infiltration_ach"])
        volume = size["width_x_m"] * size["depth_y_m"] * size["height_m"]
        if case["night_ventilation"]:
            fan = self.facts["air_flow"]["night_ventilation"]["fan_flow_m3_h"] / volume
            hours = np.arange(DAY) // 6
            air = air + np.where((hours >= 18) | (hours < 7), fan, 0)
        gains = self.facts["internal_gains"]
        return Zone(
            size=(size["width_x_m"], size["depth_y_m"], size["height_m"]),
            walls=walls,
            windows=windows,
            origin=origin,
            air_changes=tuple(air),
            gains=case["internal_gain_W"],
            radiant_share=gains["radiative_fraction"],
            heating=heating,
            cooling=cooling,
        )

    def _walls(self, case, size, constructions, windows, opaque, without="") -> tuple[Wall, ...]:
        x, y, z = size["width_x_m"], size["depth_y_m"], size["height_m"]
        inner = case["int_solar_absorptance"]
        if inner is None:
            inner = self.facts["surface_radiation"]["default"]["int_solar_absorptance"]
        faces = {
            "outer_absorptance": case["ext_solar_absorptance"],
            "outer_emittance": case["ext_ir_emittance"],
            "inner_absorptance": inner,
            "inner_emittance": case["int_ir_emittance"],
        }
        areas = {"south": x * z, "east": y * z, "north": x * z, "west": y * z}
        walls = []
        for plane, gross in areas.items():
            if plane != without:
                net = gross - sum(_area(box) for p, box in windows if p == plane)
                walls.append(Wall(plane, net, self._layers(constructions["walls"]), **faces))
        for plane, box in opaque:
            pane = self._layers("opaque_window")
            walls.append(Wall(plane, _area(box), pane, roughness=1.0, **faces))
        walls.append(Wall("roof", x * y, self._layers(constructions["roof"]), **faces))
        below = faces | {"outer_absorptance": 0.6, "outer_emittance": 0.9}
        floor = self._layers(constructions["floor"])
        walls.append(Wall("floor", x * y, floor, behind=SHELTERED, **below))
        return tuple(walls)

    def _layers(self, construction: str) -> tuple[Layer, ...]:
        found = []
        for name in self.facts["constructions"][construction]["layers_outside_to_inside"]:
            material = self.facts["materials"][name]
            if material.get("massless"):
                found.append(Layer(1.0, 1.0 / material["R_m2K_W"]))
            else:
                found.append(
                    Layer(
                        material["thickness_m"],
                        material["conductivity_W_mK"],
                        material["density_kg_m3"],
                        material["specific_heat_J_kgK"],
                    )
                )
        return tuple(found)

    def _glazing(self) -> Glazing:
        facts = self.facts["glazing"]["clear_double"]
        pane = facts["pane"]
        return Glazing(
            transmittance=pane["solar_transmittance_normal"],
            reflectance=pane["solar_reflectance_front_normal"],
            thickness=pane["thickness_m"],
            conductivity=pane["conductivity_W_mK"],
            gap=facts["gap"]["thickness_m"],
            emittance=pane["ir_emittance_front"],
        )

    def _thermostat(self, name: str) -> tuple[Any, Any]:
        facts = self.facts["thermostats"][name]
        if name == "NONE":
            return None, None
        if "heating_setpoint_intervals_from_until_C" in facts:
            heating = _day(facts["heating_setpoint_intervals_from_until_C"])
            return heating, facts["cooling_setpoint_C"]
        if "cooling_setpoint_intervals_from_until_C" in facts:
            return None, _day(facts["cooling_setpoint_intervals_from_until_C"])
        return facts["heating_setpoint_C"], facts["cooling_setpoint_C"]

    @staticmethod
    def _box(window: dict[str, Any], size: dict[str, Any]) -> Box:
        z = window["z_m"]
        edge = {
            "south": 0.0,
            "north": size["depth_y_m"],
            "west": 0.0,
            "east": size["width_x_m"],
        }[window["plane"].split()[0]]
        if "x_m" in window:
            return (window["x_m"][0], edge, z[0], window["x_m"][1], edge, z[1])
        return (edge, window["y_m"][0], z[0], edge, window["y_m"][1], z[1])


def _area(box: Box) -> float:
    sides = sorted(np.subtract(box[3:], box[:3]))
    return float(sides[1] * sides[2])


def _shade(surface: dict[str, Any]) -> Box:
    spans = [surface[axis] if isinstance(surface[axis], list) else [surface[axis]] * 2
             for axis in ("x_m", "y_m", "z_m")]  # fmt: skip
    return (*(float(s[0]) for s in spans), *(float(s[1]) for s in spans))  # type: ignore[return-value]


def _day(intervals: list[list[Any]]) -> tuple[float, ...]:
    """A day of ten-minute values from [from, until, value] rows."""

    def slot(time: str) -> int:
        hours, minutes = time.split(":")
        return int(hours) * 6 + int(minutes) // 10

    values = np.zeros(DAY)
    for start, end, value in intervals:
        values[slot(start) : slot(end)] = value
    return tuple(values)


def measure(loads: Loads, design: int) -> dict[str, float]:
    """The standard's metrics of one design: loads of zone 0, temperatures of its last zone."""
    free = loads.temperature[design, loads.temperature.shape[1] - 1]
    if not free.any():
        free = loads.temperature[design, 0]
    return {
        "annual_heating": float(loads.annual_heating[design, 0] / 1000),
        "annual_sensible_cooling": float(loads.annual_cooling[design, 0] / 1000),
        "peak_heating": float(loads.heating[design, 0].max() / 1000),
        "peak_sensible_cooling": float(loads.cooling[design, 0].max() / 1000),
        "free_float_max": float(free.max()),
        "free_float_min": float(free.min()),
        "free_float_mean": float(free.mean()),
    }


def validate(data: Path, steps_per_hour: int = 6) -> tuple[list[Row], Loads, list[str]]:
    """Every metric that `ranges.csv` holds; the loads and the names of all cases."""
    cases = Cases(json.loads((data / "ashrae140" / "cases.json").read_text()))
    weather = read_epw(data / "weather" / cases.facts["site"]["weather_file"])
    names = cases.names()
    loads = simulate([cases.building(name) for name in names], weather, steps_per_hour)
    measured = {name: measure(loads, number) for number, name in enumerate(names)}
    rows = []
    with (data / "ashrae140" / "ranges.csv").open() as stream:
        for line in csv.DictReader(stream):
            value = measured[line["case"]][line["metric"]]
            bounds = (float(line["min"]), float(line["max"]), float(line["mean"]))
            rows.append(Row(line["case"], line["metric"], line["unit"], value, *bounds))
    return rows, loads, names


def summary(rows: list[Row]) -> str:
    """The counts that matter, in one paragraph."""

    def share(what: Iterable[Row]) -> str:
        chosen = list(what)
        return f"{sum(r.inside for r in chosen)} of {len(chosen)}"

    annual = [r for r in rows if r.annual]
    told = [r for r in annual if math.isfinite(r.from_mean)]
    worst = max(told, key=lambda r: abs(r.from_mean))
    near = sum(abs(r.from_mean) <= 0.1 for r in annual)
    return (
        f"Inside the range: {share(annual)} annual loads, "
        f"{share(r for r in rows if r.metric in FREE_FLOAT)} free-float temperatures, "
        f"{share(r for r in rows if r.metric.startswith('peak'))} peaks. "
        f"{near} of {len(annual)} annual loads are within 10 % of the mean; the farthest is "
        f"{worst.metric} of {worst.case}, {worst.from_mean:+.1%}."
    )


def markdown(rows: list[Row]) -> str:
    """The table of every case and metric."""
    lines = [
        "| case | metric | value | range | mean | | outside by | from the mean |",
        "|---|---|---:|---|---:|---|---:|---:|",
    ]
    for r in rows:
        relative = f"{r.from_mean:+.1%}" if math.isfinite(r.from_mean) else "–"
        difference = f"{r.value - r.mean:+.2f} K" if r.metric in FREE_FLOAT else relative
        outside = "" if r.inside else f"{r.outside_by:+.3f} {r.unit}"
        lines.append(
            f"| {r.case} | {r.metric} | {r.value:.3f} | {r.low:.3f} to {r.high:.3f} {r.unit} "
            f"| {r.mean:.3f} | {'inside' if r.inside else 'outside'} | {outside} | {difference} |"
        )
    return "\n".join(lines)


def draw(rows: list[Row], path: Path) -> None:
    """Ranges as bars, our values as dots, a panel for each metric."""
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(r.metric for r in rows))
    figure = Figure(figsize=(14, 12), dpi=110, layout="constrained")
    panels = figure.subplots(3, 3).flat
    for panel, metric in zip(panels, metrics, strict=False):
        chosen = [r for r in rows if r.metric == metric]
        places = range(len(chosen))
        panel.vlines(places, [r.low for r in chosen], [r.high for r in chosen], "#9aa5b1", lw=9)
        colours = ["#1f5fa8" if r.inside else "#c2402c" for r in chosen]
        panel.scatter(places, [r.value for r in chosen], c=colours, zorder=3, s=22)
        panel.set_xticks(list(places), [r.case for r in chosen], rotation=90)
        panel.set(title=metric.replace("_", " "), ylabel=chosen[0].unit.replace("degC", "°C"))
        panel.grid(axis="y", alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels:
        panel.set_axis_off()
    figure.suptitle("ASHRAE 140-2020: ranges of six programs, ours blue inside, red outside")
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Folder of ashrae140/, weather/.")
    parser.add_argument("--output", type=Path, default=Path("validation"))
    parser.add_argument("--steps", type=int, default=6, help="Steps an hour: 1, 2, 3 or 6.")
    arguments = parser.parse_args()
    rows, loads, _ = validate(arguments.data, arguments.steps)
    balance = np.abs(loads.imbalance).max() / loads.turnover.mean()
    text = (
        f"{markdown(rows)}\n\n{summary(rows)}\n"
        f"Largest hourly imbalance {balance:.1e} of the mean turnover.\n"
    )
    print(text)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "ashrae140.md").write_text(f"# ASHRAE 140-2020\n\n{text}")
    draw(rows, arguments.output / "ashrae140.png")


if __name__ == "__main__":
    main()
