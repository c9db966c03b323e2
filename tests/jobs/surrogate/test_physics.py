"""The simulation against what physics says must hold, on made-up weather."""

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.dispatcher import Dispatcher

import jobs.thermal
from infra.errors import InputError
from jobs.thermal.building import PLANES, Building, Layer, Wall, Zone
from jobs.thermal.convection import window_inside
from jobs.thermal.glazing import optics
from jobs.thermal.march import SOURCES, _loop
from jobs.thermal.physics import simulate
from jobs.thermal.solar import sky
from tests.jobs.surrogate.houses import BOARD, BRICK, make_house, make_weather


def two_zones() -> Building:
    """A sunspace south of a heated room, behind a shared wall."""
    (front,) = make_house(heating=None, cooling=None, gains=0).zones
    (back,) = make_house(window="").zones
    shared = Wall("south", 18.0, (Layer(0.2, 0.5, 1400, 1000),), behind=1)
    room = Zone(
        back.size,
        (*(w for w in back.walls if w.plane != "south"), shared),
        origin=(0, 5, 0),
        gains=100,
    )
    sunspace = Zone(
        front.size,
        tuple(w for w in front.walls if w.plane != "north"),
        front.windows,
        heating=None,
        cooling=None,
    )
    return Building((room, sunspace))


@pytest.mark.parametrize("steps", [1, 6])
def test_energy_balance_closes_every_hour_and_over_the_year(steps: int) -> None:
    buildings = [
        make_house(),
        make_house(BOARD, rotation=30, heating=None, cooling=None),
        make_house(shades=((0, -1, 3, 6, 0, 3),), air_changes=4.0),
        two_zones(),
    ]
    loads = simulate(buildings, make_weather(), steps, warmup_days=3)
    assert (loads.turnover > 100).all()
    assert (np.abs(loads.imbalance) <= 1e-3 * loads.turnover).all()
    assert (np.abs(loads.imbalance.sum(1)) <= 1e-3 * loads.turnover.sum(1)).all()
    assert np.abs(loads.imbalance).max() < 1e-3, "in W"


def test_steady_loss_is_that_of_the_resistances_in_series() -> None:
    """125 m2K/W of insulation make the films of the faces nearly negligible."""
    thick = (Layer(5.0, 0.04),)
    walls = tuple(
        Wall(p, a, thick, outer_emittance=0, outer_absorptance=0)
        for p, a in dict.fromkeys(PLANES, 9).items()
    )
    zone = Zone((3, 3, 3), walls, air_changes=0, heating=20, cooling=26)
    dark = make_weather(48, dry_bulb=-10, direct_normal=0, diffuse_horizontal=0, wind_speed=3)
    loads = simulate([Building((zone,))], dark, 1)
    without_films = 54 * 0.04 / 5 * 30
    assert 0.98 * without_films < loads.heating[0, 0, -1] < without_films


def test_infiltration_alone_costs_flow_times_heat() -> None:
    zone = make_house(window="", air_changes=2.0, gains=0)
    tight = make_house(window="", air_changes=0.0, gains=0)
    dark = make_weather(48, dry_bulb=0, direct_normal=0, diffuse_horizontal=0)
    with_air, without = simulate([zone, tight], dark, 2).heating[:, 0, -1]
    flow = 2 * 90 / 3600 * 98000 / (287.055 * 273.15)
    assert with_air - without == pytest.approx(flow * 1006 * 20, rel=0.002)


def test_turning_the_house_is_moving_the_window() -> None:
    """A square house turned by 90 degrees has its south window in the west."""
    x = 5.0

    def square(plane: str, rotation: float) -> Building:
        (zone,) = make_house(window=plane).zones
        walls = [
            Wall(p, x * 3 - (6 if p == plane else 0), BRICK)
            for p in ("south", "east", "north", "west")
        ]
        walls += [w for w in zone.walls if w.plane in ("roof", "floor")]
        box = {"south": (1, 0, 0.8, 4, 0, 2.8), "west": (0, 1, 0.8, 0, 4, 2.8)}[plane]
        window = zone.windows[0].__class__(plane, box)
        return Building((Zone((x, x, 3), tuple(walls), (window,)),), rotation=rotation)

    loads = simulate([square("west", 0), square("south", 90)], make_weather(), 2)
    np.testing.assert_allclose(loads.transmitted[0], loads.transmitted[1], rtol=1e-6)
    np.testing.assert_allclose(loads.temperature[0], loads.temperature[1], atol=0.02)


def test_setpoints_hold_and_free_float_uses_no_power() -> None:
    free = make_house(heating=None, cooling=None)
    loads = simulate([make_house(), free], make_weather(), 2)
    assert loads.temperature[0].min() >= 20 - 1e-4 and loads.temperature[0].max() <= 27 + 1e-4
    assert loads.heating[0].max() > 0
    assert loads.heating[1].max() == loads.cooling[1].max() == 0
    assert loads.temperature[1].min() < 20


def test_mass_damps_and_shades_cool() -> None:
    floating = {"heating": None, "cooling": None}
    overhang = ((-1, -1.5, 3, 7, 0, 3),)
    heavy, light, shaded = simulate(
        [make_house(**floating), make_house(BOARD, **floating), make_house(shades=overhang)],
        make_weather(),
        2,
    ).temperature[:, 0]
    assert np.ptp(heavy) < np.ptp(light)
    sun = simulate([make_house(), make_house(shades=overhang)], make_weather(), 2).transmitted
    assert sun[1, 0] < 0.9 * sun[0, 0]
    assert shaded.max() <= 27.0001


@settings(max_examples=15, deadline=None)
@given(
    insulation=st.floats(0.02, 0.3),
    air=st.floats(0, 3),
    gains=st.floats(0, 800),
    rotation=st.floats(0, 360),
)
def test_more_insulation_less_air_and_more_gains_save_heat(insulation, air, gains, rotation):
    """Monotone as physics is, for any design, and whatever else shares the batch."""

    def design(depth: float, air: float, gains: float) -> Building:
        layers = (Layer(depth, 0.04, 30, 1400), BRICK[1])
        return make_house(layers, rotation, air_changes=air, gains=gains)

    designs = [
        design(insulation, air, gains),
        design(insulation * 2, air, gains),
        design(insulation, air + 0.5, gains),
        design(insulation, air, gains + 100),
    ]
    cloudy = make_weather(72, direct_normal=0, dry_bulb=2)
    base, insulated, airy, busy = simulate(designs, cloudy, 1, 5).annual_heating[:, 0]
    assert insulated <= base <= airy
    assert busy <= base
    alone = simulate(designs[:1], cloudy, 1, 5).annual_heating[0, 0]
    assert alone == base


def test_convection_at_the_room_side_of_a_pane_is_that_of_iso_15099() -> None:
    """Worked by hand: 2 m, 8 degC against 20 degC: Ra 1.04e10 at 101,325 Pa, Nu 0.56 Ra^(1/4)."""
    film = 290.15
    density, viscosity = 101325 / (287.055 * film), 3.723e-6 + 4.94e-8 * film
    conductivity = 2.873e-3 + 7.76e-5 * film
    expansion = density**2 * 8 * 9.81 * (1002.737 + 1.2324e-2 * film) * 12
    rayleigh = expansion / (film * viscosity * conductivity)
    expected = 0.56 * rayleigh**0.25 * conductivity / 2
    assert window_inside.py_func(8.0, 20.0, 2.0, 101325.0) == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(2.3, abs=0.1)
    tall = window_inside.py_func(0.0, 20.0, 8.0, 101325.0)
    assert tall > 0.56 * (rayleigh * 64 * 20 / 12) ** 0.25 * conductivity / 8, "turbulent"


def test_glass_keeps_energy_and_its_values_at_normal_incidence() -> None:
    shares = optics(0.834, 0.075)
    assert (shares.by_angle >= 0).all() and (shares.by_angle.sum(1) <= 1).all()
    assert np.all(np.diff(shares.by_angle[:, 0]) <= 1e-9), "less passes at lower sun"
    single, back, absorbed = 0.834, 0.075, 0.091
    between = 1 / (1 - back**2)
    assert shares.by_angle[0, 0] == pytest.approx(single**2 * between, abs=1e-6)
    assert shares.by_angle[0, 2] == pytest.approx(absorbed * single * between, abs=1e-6)
    with pytest.raises(ValueError, match="no clear pane"):
        optics(0.9, 0.4)


def test_sun_rises_in_the_east_and_the_hours_means_are_kept() -> None:
    weather = make_weather(48)
    above = sky(weather, 6)
    noon = above.sun[6 * 12]
    assert noon[1] < 0 < noon[2], "in the south"
    assert above.sun[6 * 10][0] > 0 > above.sun[6 * 15][0]
    hourly = above.beam.reshape(-1, 6).mean(1)
    up = above.sun[:, 2].reshape(-1, 6).max(1) > 0
    np.testing.assert_allclose(hourly[up], weather.direct_normal[up])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"heating": 25.0, "cooling": 22.0}, "heated above"),
        ({"air_changes": -1.0}, "negative air changes"),
        ({"gains": float("nan")}, "not a number"),
    ],
)
def test_unusable_zones_are_named(change, named) -> None:
    with pytest.raises(InputError, match=named) as caught:
        simulate([make_house(), make_house(**change)], make_weather(24), 1)
    assert "design 1" in str(caught.value)


def test_negative_areas_and_odd_steps_are_refused() -> None:
    zone = Zone((1, 1, 1), (Wall("south", -3.0, BRICK),))
    with pytest.raises(InputError, match=r"-3\.0 is not a positive number"):
        simulate([Building((zone,))], make_weather(24), 1)
    with pytest.raises(InputError, match="4 steps"):
        simulate([make_house()], make_weather(24), 4)


def test_every_file_that_is_compiled_tells_stale_code() -> None:
    modules = {
        importlib.import_module(f"jobs.thermal.{found.name}")
        for found in pkgutil.iter_modules(jobs.thermal.__path__)
    }
    compiled = {m for m in modules if any(isinstance(v, Dispatcher) for v in vars(m).values())}
    assert {m.__name__ for m in compiled - set(SOURCES)} == {"jobs.thermal.march"}
    one, other = (_loop(stamp)._cache for stamp in ("one", "other"))
    keys = [cache._index_key((), _loop("").targetctx.codegen()) for cache in (one, other)]
    assert keys[0] != keys[1]
