"""What a model knows of climates, and how it is told what sets one apart."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.surrogate.climate import describe_weather, make_climate
from jobs.surrogate.climates import ALL, JOINT_NAMES, Climates
from jobs.surrogate.config import DESIGN, REFERENCE
from jobs.surrogate.designs import northern, out_of_range, sample, sample_climates
from jobs.thermal.weather import Weather


@pytest.fixture(scope="module")
def described() -> pd.DataFrame:
    return pd.DataFrame([describe_weather(make()) for make in sample_climates(192, 8)])


@pytest.fixture(scope="module")
def climates(described: pd.DataFrame) -> Climates:
    return Climates.fit(described.iloc[:160])


@pytest.fixture(scope="module")
def town() -> Weather:
    return make_climate(46, 10, 9, 5, 0.5, 3, seed=2)


def test_rooms_feel_sky_pressure_sun_and_wind(town: Weather) -> None:
    here = describe_weather(town)
    high = describe_weather(replace(town, pressure=town.pressure * 0.8))
    under_clouds = describe_weather(replace(town, sky_temperature=town.sky_temperature + 8))
    windy = describe_weather(replace(town, wind_speed=town.wind_speed * 2))
    dark = describe_weather(replace(town, direct_normal=town.direct_normal * 0))
    for room in ("light", "heavy"):
        need = f"heating_{room}_south"
        assert high[need] < here[need], "thin air carries less heat away"
        assert under_clouds[need] < here[need] < dark[need]
        assert windy[need] != here[need]
        assert here[need] < here[f"heating_{room}_north"]
        assert here[f"cooling_{room}_south"] > here[f"cooling_{room}_north"]
    assert under_clouds["sky_depression"] == pytest.approx(here["sky_depression"] - 8)
    assert high["pressure"] == pytest.approx(0.8 * here["pressure"])


def test_rooms_tell_years_apart_that_have_the_same_sums(town: Weather) -> None:
    """The same hours of sun, given to other days: warm ones instead of cold ones."""
    days = town.direct_normal.reshape(365, 24)
    month = np.arange(365) // 30
    warmth = town.dry_bulb.reshape(365, 24).mean(1)
    brightness = days.sum(1)
    turned = days.copy()
    for number in range(month.max() + 1):
        inside = np.flatnonzero(month == number)
        warmest = inside[np.argsort(warmth[inside])]
        turned[warmest] = days[inside[np.argsort(brightness[inside])]]
    one = describe_weather(town)
    other = describe_weather(replace(town, direct_normal=turned.ravel()))
    assert other["global_radiation"] == pytest.approx(one["global_radiation"], rel=0.02)
    assert other["cooling_heavy_south"] > one["cooling_heavy_south"] * 1.02


def test_what_is_not_told_is_likely_and_told_again_as_nothing_special(
    described: pd.DataFrame, climates: Climates
) -> None:
    table = described.iloc[160:].reset_index(drop=True)
    by_facing = [quantity.name for quantity in REFERENCE]
    some, row = table.copy(), np.arange(len(table))
    some.loc[::2, "cooling_light_west"] = np.nan
    for given, lacking in ((some, row % 2 == 0), (some.drop(columns=JOINT_NAMES[2:]), row >= 0)):
        filled, unknown = climates.fill(given)
        assert unknown.tolist() == lacking.tolist()
        error = (filled - table)[by_facing].abs().mean()
        assert (error < 0.2 * table[by_facing].std()).all()
        seen, _ = climates.seen(given)
        assert np.allclose(seen.loc[unknown, by_facing], 0)
    told, unknown = climates.seen(table)
    assert not unknown.any() and (told[by_facing].std() < 0.5 * table[by_facing].std()).all()
    pd.testing.assert_frame_equal(told.drop(columns=by_facing), table.drop(columns=by_facing))


def test_columns_in_single_precision_are_told_as_tables_are(
    described: pd.DataFrame, climates: Climates
) -> None:
    some = described.iloc[160:].reset_index(drop=True)
    some.loc[::3, JOINT_NAMES[:4]] = np.nan
    for given in (some, some.iloc[[1, 1, 1]], some.iloc[:1]):
        seen, unknown = climates.seen(given)
        filled, _ = climates.fill(given)
        columns = np.ascontiguousarray(given[ALL].to_numpy(np.float32).T)
        told, lacking, distance = climates.single().tell(columns)
        assert told is columns and told.dtype == distance.dtype == np.float32
        assert np.allclose(told.T, seen[ALL], rtol=1e-4, atol=0.02)
        assert lacking.tolist() == unknown.tolist()
        assert np.allclose(distance, climates.remoteness(filled[ALL].to_numpy(float)), rtol=1e-3)


def test_weather_unlike_the_training_is_far(described: pd.DataFrame, climates: Climates) -> None:
    others = climates.remoteness(described.iloc[160:][ALL].to_numpy(float))
    assert np.mean(others > 1) <= 0.15 and np.median(others) > 0.2
    strange = described.iloc[:2][ALL].copy()
    strange["mean_temperature"] += [0.0, 14.0]  # while its degree days stay
    near, far = climates.remoteness(strange.to_numpy(float))
    assert near <= 1 < far
    alone = climates.remoteness(strange.iloc[[1, 1]].to_numpy(float))
    assert alone == pytest.approx([far, far])


def test_it_is_kept_and_a_champions_view_goes_on(
    described: pd.DataFrame, climates: Climates, tmp_path: Path
) -> None:
    assert Climates.load(tmp_path) is None, "of an earlier release"
    climates.save(tmp_path)
    again = Climates.load(tmp_path)
    assert again is not None and all(
        np.array_equal(value, vars(again)[name]) for name, value in vars(climates).items()
    )
    later = Climates.fit(described.iloc[100:], again)
    pd.testing.assert_frame_equal(later.seen(described)[0], climates.seen(described)[0])
    assert later.far != climates.far


def test_rooms_are_mirrored_in_the_south(described: pd.DataFrame) -> None:
    table = pd.concat([sample(DESIGN, 4, 0), described.iloc[:4]], axis=1)
    seen = northern(table.assign(latitude=-table["latitude"] - 1))
    for one, other in (("north", "south"), ("south", "north"), ("east", "east")):
        assert (seen[f"heating_heavy_{one}"] == table[f"heating_heavy_{other}"]).all()
    unknown = table.assign(**dict.fromkeys(JOINT_NAMES, np.nan))
    assert out_of_range(unknown) == [[]] * 4, "what is not told is not outside"


@pytest.mark.parametrize("count", [12, 40])
def test_few_climates_are_not_learnt_by_heart(described: pd.DataFrame, count: int) -> None:
    known = Climates.fit(described.iloc[:count])
    by_facing = [quantity.name for quantity in REFERENCE]
    inside = known.seen(described.iloc[:count])[0][by_facing].std()
    outside = known.seen(described.iloc[count:])[0][by_facing].std()
    assert (outside < 25 * inside).all() and (outside < described[by_facing].std()).all()


def test_many_climates_are_told_in_one_thread(climates: Climates, tmp_path: Path) -> None:
    """`in_batches` has one for each core: more of BLAS would only wait for each other."""
    climates.save(tmp_path)
    program = (
        "import sys, time, numpy as np\n"
        "from pathlib import Path\n"
        "from jobs.surrogate.climates import ALL, Climates\n"
        "climates = Climates.load(Path(sys.argv[1])).single()\n"
        "weather = np.random.default_rng(0).random((len(ALL), 4096), np.float32)\n"
        "began = time.process_time() - time.thread_time()\n"
        "for _ in range(50): climates.tell(weather.copy())\n"
        "print(time.process_time() - time.thread_time() - began, time.thread_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    of_others, own = map(float, done.stdout.split())
    assert of_others < 0.1 * own


@pytest.mark.parametrize("count", [1, 63, 64, 65, 300])
def test_any_number_of_climates_is_told_as_each_alone(climates: Climates, count: int) -> None:
    weather = np.random.default_rng(0).random((len(ALL), count)) * 5 + 1
    together, _, far = climates.tell(weather.copy())
    for place in {0, count // 2, count - 1}:
        alone, _, distance = climates.tell(weather[:, [place]].copy())
        assert together[:, place] == pytest.approx(alone[:, 0])
        assert far[place] == pytest.approx(distance[0])
