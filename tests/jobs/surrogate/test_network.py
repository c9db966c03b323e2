"""The base that the networks correct, and the symmetry that they keep."""

import numpy as np
import pytest
import torch

from jobs.surrogate import data, train
from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, WEATHER
from jobs.surrogate.designs import sample
from jobs.surrogate.handbook import CONSTANTS
from jobs.surrogate.network import COMMON, Ensemble, Member, encode


def test_the_handbook_is_degree_hours_in_four_quarters() -> None:
    """Number by number, for a room at a time."""
    d = {q.name: (0.4 * q.low + 0.6 * q.high) for q in DESIGN + WEATHER}
    features, said = encode(torch.tensor([[d[name] for name in INPUTS]], dtype=torch.float64))
    c, south = CONSTANTS, -np.cos(np.radians(d["orientation"]))
    sides = ("front", "back")
    opaque, loss, sun, alone = {}, {}, {}, {}
    for side, turn in zip(sides, (0, 180), strict=True):
        azimuth = np.radians(d["orientation"] + turn)
        along = np.cos(azimuth) ** 2 * (d["north_radiation"] + d["south_radiation"]) / 2
        across = np.sin(azimuth) ** 2 * (d["east_radiation"] + d["west_radiation"]) / 2
        facing = np.cos(azimuth) * (d["north_radiation"] - d["south_radiation"]) / 2
        facing += np.sin(azimuth) * (d["east_radiation"] - d["west_radiation"]) / 2
        incident = (along + across + facing) / 8.76
        if side == "front":
            half = c["shade_height"] * d["height"]
            incident *= 1 - c["shaded"] * d["overhang"] / (d["overhang"] + half)
        facade = d["height"] / d["depth"]
        glass = facade * d[f"window_{side}"]
        sun[side] = glass * incident * c["transmitted"]
        opaque[side] = facade - glass + 2 * d["height"] / d["width"]
        walls = opaque[side] * d["wall_u"]
        loss[side] = glass * c["glass"] * (1 + c["windy"] * (d["wind"] - 3.5))
        loss[side] += c["opaque"] * (walls + d["roof_u"] + d["floor_u"])
        loss[side] += c["air"] * d["infiltration"] * d["height"]
        around = sum(d[f"{name}_radiation"] for name in ("north", "east", "south", "west")) / 4
        warmed = (walls * around + d["roof_u"] * d["global_radiation"]) / 8.76
        added = c["gains"] * d["gains"] + sun[side] + c["absorbed"] * warmed
        added -= c["sky"] * (d["roof_u"] + walls / 2 + glass)
        alone[side] = added / loss[side]
    for row, side in enumerate(sides):
        share = c["mixed"] / 2
        free = (1 - share) * alone[side] + share * alone[sides[1 - row]]
        by_sun = sun[side] / loss[side]
        inertia = c["capacity"] * d["mass"] * (opaque[side] + 2) / loss[side]
        light = 1 / (1 + inertia * c["daily_mass"])
        variance = 0.3 + c["spells"] / (1 + inertia * c["spell_mass"])
        variance += light * (c["daily"] * d["daily_swing"] ** 2 + c["sunny"] * by_sun**2)
        pole = np.sin(np.radians(d["latitude"]))
        toward = south if side == "front" else -south
        brighter = c["brighter_south"] + pole * c["brighter_poleward"]
        brighter = pole * c["brighter"] + toward * brighter
        lowered = d["setback"] * (c["setback"] + c["setback_light"] * light)
        heating = cooling = 0.0
        for degrees in (22.5, 67.5, 112.5, 157.5):
            season = np.cos(np.radians(degrees))
            felt = d["mean_temperature"] + free + season * (d["seasonal_swing"] + by_sun * brighter)
            cold = d["heating_setpoint"] - lowered - felt
            warm = felt - d["cooling_setpoint"]
            heating += (cold + np.sqrt(cold**2 + 2 / np.pi * variance)) / 8
            cooling += (warm + np.sqrt(warm**2 + 2 / np.pi * variance)) / 8
        assert said[row, 0].item() == pytest.approx(loss[side] * heating * 8.76, rel=1e-3)
        assert said[row + 2, 0].item() == pytest.approx(loss[side] * cooling * 8.76, rel=1e-3)
        air = d["mean_temperature"] + free + heating - cooling
        assert said[row + 4, 0].item() == pytest.approx(air, rel=1e-3)
        known = [loss[side], sun[side], free, inertia]
        assert features[COMMON + 8 + row :: 2, 0].tolist()[:4] == pytest.approx(known)
    assert said[7, 0].item() == pytest.approx(d["gains"] * 8.76)


def test_a_house_that_is_turned_round_has_its_rooms_exchanged() -> None:
    table = sample(DESIGN + WEATHER, 8, 0).assign(overhang=0.0)
    turned = table.assign(
        orientation=(table["orientation"] + 180) % 360,
        window_front=table["window_back"],
        window_back=table["window_front"],
    )
    one, other = (torch.tensor(each[list(INPUTS)].to_numpy()).float() for each in (table, turned))
    targets = torch.rand(8, len(OUTPUTS)) * 100
    data_of_both = data.Data(one, targets, np.arange(8), torch.ones(8))
    torch.manual_seed(0)
    member = Member(len(encode(one)[0]), (16,), 0.0).eval()
    ensemble = Ensemble([member], train.scales(data_of_both))
    with torch.no_grad():
        here, there = ensemble.each(one)[0], ensemble.each(other)[0]
    exchanged = here[:, [1, 0, 3, 2, 5, 4, 6, 7]]
    assert torch.allclose(there, exchanged, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(here, exchanged, rtol=0.05)
