"""The population search: costs as documented, fronts that fear what is unsure, points simulated."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.runtime import Interrupted
from jobs.surrogate import optimise
from jobs.surrogate.config import OUTPUTS, OptimiseConfig
from jobs.surrogate.optimise import GIVEN, cost

SMALL = {"population": 24, "generations": 25, "checked": 3, "risk_aversion": 2.0, "seed": 4}


class Stand:
    """In place of an exported surrogate: losses cost heating, much mass is unsure."""

    confidence = 0.9

    def __init__(self, _folder: Path) -> None:
        pass

    def __call__(self, numbers: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        heating = 20 + 40 * numbers["wall_u"] + 30 * numbers["infiltration"] - 90 * numbers["mass"]
        mean = np.repeat(heating.to_numpy()[:, None], len(OUTPUTS), axis=1)
        doubt = 1 + 60 * numbers["mass"].to_numpy()[:, None]
        return mean, np.repeat(doubt, len(OUTPUTS), axis=1)


@pytest.fixture
def champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(optimise, "Surrogate", Stand)
    (tmp_path / "champion").mkdir()
    (tmp_path / "champion" / "surrogate.json").write_text("{}")
    return tmp_path / "champion"


def search(run_job, champion: Path) -> tuple[dict[str, float], list[dict]]:
    _, outcome = run_job(optimise.program, OptimiseConfig, "o", SMALL, champion=champion)
    lines = outcome.artifacts["fronts"].read_text().splitlines()
    return outcome.metrics, [json.loads(line) for line in lines]


def test_fear_of_risk_moves_the_front_to_what_is_known(run_job, champion) -> None:
    metrics, rows = search(run_job, champion)
    fronts = {name: [r for r in rows if r["front"] == name] for name in ("neutral", "averse")}
    for name, front in fronts.items():
        costs, risk = (np.array([row[key] for row in front]) for key in ("cost", "deviation"))
        asked = np.array([row["predicted"] for row in front])
        asked = asked + (SMALL["risk_aversion"] * risk if name == "averse" else 0)
        assert (np.diff(costs) >= 0).all() and (np.diff(asked) <= 1e-9).all(), "none is dominated"
        checked = [row["simulated"] for row in front if row["simulated"] is not None]
        assert 2 <= len(checked) <= 3 and all(value > 0 for value in checked)
        assert metrics[f"{name}_checked"] == len(checked)
        assert all(row["outside"] == [] for row in front)
    mass = {name: [row["design"]["mass"] for row in front] for name, front in fronts.items()}
    assert np.mean(mass["averse"]) < np.mean(mass["neutral"])
    assert metrics["averse_deviation"] < metrics["neutral_deviation"]
    again, _ = search(run_job, champion)
    assert again == metrics, "a repeated search finds the same"


def test_what_is_built_costs_what_the_docs_say() -> None:
    bare = GIVEN | {
        "wall_u": 1.8, "roof_u": 1.5, "floor_u": 1.0, "mass": 0.02, "orientation": 180.0,
        "overhang": 0.0, "infiltration": 1.5,
    }  # fmt: skip
    dear = {"wall_u": 0.1, "mass": 0.2, "overhang": 1.0, "infiltration": 0.1}
    table = pd.DataFrame([bare] + [bare | {name: value} for name, value in dear.items()])
    costs = cost(table) - cost(table)[0]
    floor, front = 100.0, 27.0
    walls = front * (0.5 + 0.7) + 4 * 5 * 2.7
    assert costs[1] == pytest.approx(150 * walls * 0.035 * (1 / 0.1 - 1 / 1.8) / floor)
    assert costs[2] == pytest.approx(250 * (walls + 2 * floor) * 0.18 / floor)
    assert costs[3] == pytest.approx(150 * 10 / floor)
    assert costs[4] == pytest.approx(15 * np.log(15))


def test_a_stopped_search_ends(run_job, champion) -> None:
    job, _ = run_job(optimise.program, OptimiseConfig, "o", SMALL, champion=champion)
    job.stopping = True
    with pytest.raises(Interrupted):
        optimise.program(job)
