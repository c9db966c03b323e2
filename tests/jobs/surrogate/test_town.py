"""A model of one town: trained in its weather alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.surrogate import data, predict, simulate, train
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, WEATHER, SimulateConfig, TrainConfig
from jobs.surrogate.designs import sample
from jobs.thermal.weather import read_epw
from tests.helpers.epw import lines
from tests.jobs.surrogate.tables import QUICK, made_up, skip_export

NAMES = [quantity.name for quantity in WEATHER]


@pytest.fixture(scope="module")
def epw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("town") / "town.epw"
    path.write_text("\n".join(lines()) + "\n")
    return path


def in_town(table: pd.DataFrame, epw: Path) -> pd.DataFrame:
    return table.assign(**describe_weather(read_epw(epw)), climate=np.arange(len(table)))


@pytest.fixture(scope="module")
def town(run_job, epw: Path, tmp_path_factory: pytest.TempPathFactory):
    """What a town's training left, beside a champion that was trained in other weather."""
    folder = tmp_path_factory.mktemp("made-up")
    made_up(300, 0).to_parquet(folder / "many.parquet")
    in_town(made_up(300, 1), epw).to_parquet(folder / "town.parquet")
    with pytest.MonkeyPatch.context() as patch:
        skip_export(patch)
        first = run_job(
            train.program, TrainConfig, "surrogate.train", QUICK, simulated=folder / "many.parquet"
        )[1]
    return run_job(
        train.program,
        TrainConfig,
        "surrogate.train",
        QUICK | {"generation": 1},
        simulated=folder / "town.parquet",
        champion=first.artifacts["candidate"],
    )[1]


def test_every_design_stands_in_the_given_weather(run_job, epw: Path) -> None:
    config = {"designs": 70, "climates": 8, "seed": 3, "town": True}
    _, outcome = run_job(
        simulate.program, SimulateConfig, "surrogate.simulate", config, weather=epw
    )
    table = pd.read_parquet(outcome.artifacts["simulated"])
    assert sorted(table["climate"]) == list(range(70)), "each is split by itself"
    told = pd.Series(describe_weather(read_epw(epw)))
    assert np.isclose(table[NAMES], told[NAMES]).all()
    shares = data.from_simulation(outcome.artifacts["simulated"], 0, 1)["part"].value_counts()
    assert shares.to_dict() == {"train": 42, "calibrate": 14, "held_out": 14}


def test_it_learns_nothing_of_other_weather(town) -> None:
    assert town.metrics["warm"] == town.metrics["replayed"] == 0
    for name in ("held_out", "candidate"):
        path = town.artifacts[name]
        table = pd.read_parquet(path / "memory.parquet" if path.is_dir() else path)
        assert len(table[NAMES].drop_duplicates()) == 1


def test_it_is_right_in_its_town_and_says_where_it_is_not(town, epw: Path) -> None:
    surrogate = predict.Surrogate(town.artifacts["candidate"])
    fresh = in_town(made_up(300, 5), epw)
    mean, half_width = surrogate(fresh[list(INPUTS)])
    covered = np.abs(mean - fresh[list(OUTPUTS)].to_numpy()) <= half_width
    assert 0.8 <= covered.mean() <= 0.97
    assert not any("weather" in names for names in surrogate.flagged(fresh[list(INPUTS)])[2])
    elsewhere = sample(DESIGN + WEATHER, 50, 6)
    assert all("weather" in names for names in surrogate.flagged(elsewhere)[2])
