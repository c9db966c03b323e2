"""A building of ours as EnergyPlus reads it: an epJSON model of version 25.2, with ideal loads.

EnergyPlus has its own physics; told are the building, and which of its algorithms the simulation
has too. Rain and snow of the weather file are left out, since the simulation knows none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple
from typing import Any

import numpy as np

from jobs.thermal.building import DAY, OUTDOORS, Building, Layer, Wall, Zone
from jobs.thermal.glazing import Glazing

REPORTED = {
    "heating": "Zone Ideal Loads Zone Sensible Heating Energy",
    "cooling": "Zone Ideal Loads Zone Sensible Cooling Energy",
    "sun": "Enclosure Windows Total Transmitted Solar Radiation Energy",
}
"""J a year of each zone."""
CORNERS = {
    "south": "001 000 100 101", "north": "111 110 010 011", "east": "101 100 110 111",
    "west": "011 010 000 001", "roof": "011 001 101 111", "floor": "000 010 110 100",
}  # fmt: skip
"""Of a box, each with low (0) or high (1) x, y and z: from upper left, counterclockwise."""
OPPOSITE = {"south": "north", "north": "south", "east": "west", "west": "east"}
DUAL_SETPOINT = 4
SLOT = 10
"""Minutes of a value of a schedule."""


def epjson(building: Building) -> dict[str, Any]:
    """The model. Only facades may stand between zones."""
    model = _frame(building)

    def put(kind: str, name: str, **fields: Any) -> None:
        model.setdefault(kind, {})[name] = fields

    for number, shade in enumerate(building.shades):
        shape = _vertices("floor", np.array(shade[:3]), np.array(shade[3:]))
        put("Shading:Building:Detailed", f"shade {number}", vertices=shape)
    for number, zone in enumerate(building.zones):
        name = zone_name(number)
        low = np.array(zone.origin, float)
        high = low + np.array(zone.size)
        put("Zone", name)
        for plane, layers, wall, beyond in _surfaces(number, building.zones):
            _put_surface(put, name, plane, layers, wall, beyond, _vertices(plane, low, high))
        for window in zone.windows:
            _put_glass(put, window.glazing)
            box = np.array(window.box)
            corners = _vertices(window.plane, box[:3], box[3:])
            put(
                "FenestrationSurface:Detailed",
                f"{name} {window.plane} {box[0]:g} window",
                surface_type="Window",
                construction_name=f"glass {astuple(window.glazing)}",
                building_surface_name=f"{name} {window.plane}",
                number_of_vertices=4,
                **{
                    key.replace("vertex_", f"vertex_{at}_"): value
                    for at, corner in enumerate(corners, 1)
                    for key, value in corner.items()
                },
            )
        _put_room(put, name, zone)
    return model


def zone_name(number: int) -> str:
    return f"Z{number}"


def _frame(building: Building) -> dict[str, Any]:
    """All but the zones."""
    no_sizing = {f"do_{part}_sizing_calculation": "No" for part in ("zone", "system", "plant")}
    periods = {
        "run_simulation_for_sizing_periods": "No",
        "run_simulation_for_weather_file_run_periods": "Yes",
    }
    unused = (
        "rain_indicators",
        "snow_indicators",
        "daylight_saving_period",
        "holidays_and_special_days",
    )
    year = {"begin_month": 1, "begin_day_of_month": 1, "end_month": 12, "end_day_of_month": 31}
    return {
        "Version": {"V": {"version_identifier": "25.2"}},
        "SimulationControl": {"C": no_sizing | periods},
        "Building": {
            "B": {
                "north_axis": building.rotation % 360,
                "terrain": "Country",
                "solar_distribution": "FullInteriorAndExterior",
            }
        },
        "Timestep": {"T": {"number_of_timesteps_per_hour": 6}},
        "SurfaceConvectionAlgorithm:Inside": {"I": {"algorithm": "TARP"}},
        "SurfaceConvectionAlgorithm:Outside": {"O": {"algorithm": "DOE-2"}},
        "GlobalGeometryRules": {
            "R": {
                "starting_vertex_position": "UpperLeftCorner",
                "vertex_entry_direction": "Counterclockwise",
                "coordinate_system": "Relative",
            }
        },
        "RunPeriod": {"Y": year | {f"use_weather_file_{part}": "No" for part in unused}},
        "Schedule:Constant": {
            "always": {"hourly_value": 1},
            "dual": {"hourly_value": DUAL_SETPOINT},
        },
        "Output:SQLite": {"Q": {"option_type": "Simple"}},
        "Output:Variable": {
            name: {"variable_name": name, "reporting_frequency": "RunPeriod"}
            for name in REPORTED.values()
        },
    }


def _surfaces(
    number: int, zones: Sequence[Zone]
) -> Iterator[tuple[str, tuple[Layer, ...], Wall, str]]:
    """Plane, layers from outside, wall, and the surface beyond it, if any; walls of other zones
    that end here are seen from here."""
    for wall in zones[number].walls:
        beyond = f"{zone_name(wall.behind)} {OPPOSITE[wall.plane]}" if wall.behind >= 0 else ""
        yield wall.plane, wall.layers, wall, beyond
    for other, zone in enumerate(zones):
        for wall in zone.walls:
            if wall.behind == number:
                beyond = f"{zone_name(other)} {wall.plane}"
                yield OPPOSITE[wall.plane], wall.layers[::-1], wall, beyond


def _put_surface(put, zone, plane, layers, wall, beyond, vertices) -> None:
    name = f"{zone} {plane}"
    for number, layer in enumerate(layers):
        inside = number == len(layers) - 1
        put(
            "Material",
            f"{name} {number}",
            roughness="Rough",
            thickness=layer.thickness,
            conductivity=layer.conductivity,
            density=layer.density,
            specific_heat=layer.specific_heat,
            thermal_absorptance=wall.inner_emittance if inside else wall.outer_emittance,
            solar_absorptance=wall.inner_absorptance if inside else wall.outer_absorptance,
        )
    keys = ["outside_layer", *(f"layer_{number}" for number in range(2, 11))]
    put("Construction", name, **{keys[n]: f"{name} {n}" for n in range(len(layers))})
    other = {"outside_boundary_condition_object": beyond} if beyond else {}
    put(
        "BuildingSurface:Detailed",
        name,
        surface_type={"roof": "Roof", "floor": "Floor"}.get(plane, "Wall"),
        construction_name=name,
        zone_name=zone,
        vertices=vertices,
        outside_boundary_condition="Surface" if beyond else "Outdoors",
        sun_exposure="SunExposed" if wall.behind == OUTDOORS else "NoSun",
        wind_exposure="WindExposed" if wall.behind == OUTDOORS else "NoWind",
        **other,
    )


def _put_glass(put, glazing: Glazing) -> None:
    name = f"glass {astuple(glazing)}"
    sides = ("front_side", "back_side")
    put(
        "WindowMaterial:Glazing",
        f"{name} pane",
        optical_data_type="SpectralAverage",
        thickness=glazing.thickness,
        conductivity=glazing.conductivity,
        infrared_transmittance_at_normal_incidence=0,
        **{
            f"{band}_transmittance_at_normal_incidence": glazing.transmittance
            for band in ("solar", "visible")
        },
        **{
            f"{side}_{band}_reflectance_at_normal_incidence": glazing.reflectance
            for side in sides
            for band in ("solar", "visible")
        },
        **{f"{side}_infrared_hemispherical_emissivity": glazing.emittance for side in sides},
    )
    put("WindowMaterial:Gas", f"{name} gap", gas_type="Air", thickness=glazing.gap)
    layers = {"outside_layer": f"{name} pane", "layer_2": f"{name} gap", "layer_3": f"{name} pane"}
    put("Construction", name, **layers)


def _put_room(put, name: str, zone: Zone) -> None:
    """Air, gains, and heating and cooling without limits."""
    where = {"zone_or_zonelist_or_space_or_spacelist_name": name, "schedule_name": "always"}
    put(
        "ZoneInfiltration:DesignFlowRate",
        f"{name} air",
        **where,
        design_flow_rate_calculation_method="AirChanges/Hour",
        air_changes_per_hour=zone.air_changes,
    )
    put(
        "ElectricEquipment",
        f"{name} gains",
        **where,
        design_level_calculation_method="EquipmentLevel",
        design_level=zone.gains,
        fraction_radiant=zone.radiant_share,
    )
    for kind, values in (("heating", zone.heating), ("cooling", zone.cooling)):
        put("Schedule:Compact", f"{name} {kind}", data=_compact(values))
    put(
        "ThermostatSetpoint:DualSetpoint",
        f"{name} setpoints",
        heating_setpoint_temperature_schedule_name=f"{name} heating",
        cooling_setpoint_temperature_schedule_name=f"{name} cooling",
    )
    put(
        "ZoneControl:Thermostat",
        f"{name} thermostat",
        zone_or_zonelist_name=name,
        control_type_schedule_name="dual",
        control_1_object_type="ThermostatSetpoint:DualSetpoint",
        control_1_name=f"{name} setpoints",
    )
    put(
        "ZoneHVAC:IdealLoadsAirSystem",
        f"{name} ideal",
        zone_supply_air_node_name=f"{name} supply",
        dehumidification_control_type="None",
    )
    equipment = {
        "zone_equipment_object_type": "ZoneHVAC:IdealLoadsAirSystem",
        "zone_equipment_name": f"{name} ideal",
        "zone_equipment_cooling_sequence": 1,
        "zone_equipment_heating_or_no_load_sequence": 1,
    }
    put("ZoneHVAC:EquipmentList", f"{name} equipment", equipment=[equipment])
    put(
        "ZoneHVAC:EquipmentConnections",
        f"{name} connections",
        zone_name=name,
        zone_conditioning_equipment_list_name=f"{name} equipment",
        zone_air_inlet_node_or_nodelist_name=f"{name} supply",
        zone_air_node_name=f"{name} room",
        zone_return_air_node_or_nodelist_name=f"{name} return",
    )


def _compact(values: Any) -> list[dict[str, Any]]:
    """A day's ten-minute values, or one for all, as the fields of a Schedule:Compact."""
    day = np.broadcast_to(values, DAY)
    fields: list[Any] = ["Through: 12/31", "For: AllDays"]
    for slot in range(DAY):
        if slot == DAY - 1 or day[slot + 1] != day[slot]:
            hour, minute = divmod((slot + 1) * SLOT, 60)
            fields += [f"Until: {hour:02}:{minute:02}", float(day[slot])]
    return [{"field": field} for field in fields]


def _vertices(plane: str, low: np.ndarray, high: np.ndarray) -> list[dict[str, float]]:
    """The corners of that side of a box."""
    ends = np.stack([low, high])
    return [
        {
            f"vertex_{axis}_coordinate": float(ends[int(at), n])
            for n, (axis, at) in enumerate(zip("xyz", corner, strict=True))
        }
        for corner in CORNERS[plane].split()
    ]
