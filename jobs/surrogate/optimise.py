"""Search designs that need little energy for little money, with and without fear of the unknown.

    python -m jobs.surrogate.optimise JOB_FOLDER

Inputs: `champion`, optionally `weather` (an EPW file; SUNNY without it). NSGA-II (Deb et al. 2002,
pymoo) searches twice, from the same first population: `neutral` takes the predicted energy as it
is, `averse` adds `risk_aversion` standard deviations. Points of both fronts are then simulated, so
that what each was promised can be compared with what it gets.
Artifact: `fronts`, JSON lines, one design each: `front`, `cost`, `predicted`, `deviation` and, for
the checked ones, `simulated`; `design` and what of it lies `outside` the training ranges.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

from jobs.runtime import Interrupted, Job, Outcome, main
from jobs.surrogate.climate import describe_weather, make_climate
from jobs.surrogate.config import DESIGN, INPUTS, OptimiseConfig
from jobs.surrogate.designs import build, out_of_range, results
from jobs.surrogate.predict import Surrogate, energy
from jobs.surrogate.simulate import WARMUP_DAYS
from jobs.thermal.physics import simulate
from jobs.thermal.weather import Weather, read_epw

GIVEN = {
    "width": 10.0,
    "depth": 5.0,
    "height": 2.7,
    "gains": 4.0,
    "heating_setpoint": 20.0,
    "cooling_setpoint": 26.0,
    "setback": 3.0,
    "window_front": 0.5,
    "window_back": 0.3,
}
"""Size, use, comfort and light of the house; all else of config.DESIGN is searched."""
SEARCHED = tuple(quantity for quantity in DESIGN if quantity.name not in GIVEN)
SUNNY = {
    "latitude": 38.0,
    "mean_temperature": 17.0,
    "seasonal_swing": 9.0,
    "daily_swing": 6.0,
    "clearness": 0.6,
    "wind": 3.0,
    "seed": 1,
}
"""The made-up climate where no weather is given: winters to heat, summers to cool."""
INSULATION, CONCRETE = 150.0, 250.0
"""Round prices an m3; they, and those below, are in euros and only rank designs."""
SHADE = 150.0
"""An m2 of overhang."""
TIGHTNESS = 15.0
"""An m2 of floor, each time that infiltration is divided by e, from the leakiest on."""
OPAQUE, CONDUCTIVITY = 0.17, 0.035
"""m2K/W of a construction without insulation, and W/mK of that."""
NORMAL_90 = 1.645


@dataclass(frozen=True)
class Front:
    """Designs (N rows of config.INPUTS), costs in euros an m2, energy and its deviation in
    kWh/m2 a year, each (N,)."""

    designs: pd.DataFrame
    cost: np.ndarray
    predicted: np.ndarray
    deviation: np.ndarray


def cost(designs: pd.DataFrame) -> np.ndarray:
    """Insulation, concrete, shade and airtightness in euros an m2 of floor, of designs, (N,)."""
    width, depth, height = designs["width"], designs["depth"], designs["height"]
    floor, front = 2 * width * depth, width * height
    glass = front * (designs["window_front"] + designs["window_back"])
    walls = 2 * front + 4 * depth * height - glass
    areas = {"wall_u": walls, "roof_u": floor, "floor_u": floor}
    insulation = sum(
        area * CONDUCTIVITY * (1 / designs[name] - OPAQUE).clip(lower=0)
        for name, area in areas.items()
    )
    concrete = (walls + 2 * floor) * designs["mass"]
    price = INSULATION * insulation + CONCRETE * concrete
    price = price + SHADE * designs["overhang"] * width
    leakiest = next(quantity.high for quantity in SEARCHED if quantity.name == "infiltration")
    tight = TIGHTNESS * np.log(leakiest / designs["infiltration"])
    return (price / floor + tight).to_numpy(float)


class Search(Problem):
    """Cost and risk-adjusted energy of a population, (N, searched) → (N, 2), both to be small."""

    def __init__(self, job: Job[OptimiseConfig], surrogate: Surrogate, weather: dict[str, float]):
        low, high = ([getattr(q, end) for q in SEARCHED] for end in ("low", "high"))
        super().__init__(n_var=len(SEARCHED), n_obj=2, xl=np.array(low), xu=np.array(high))
        self.job, self.surrogate, self.weather = job, surrogate, weather
        self.risk_aversion = 0.0

    def rows(self, x: np.ndarray) -> pd.DataFrame:
        """The whole designs of a population."""
        table = pd.DataFrame(x, columns=[quantity.name for quantity in SEARCHED])
        return table.assign(**GIVEN, **self.weather)[list(INPUTS)]

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *_: object, **__: object) -> None:
        if self.job.stopping:
            raise Interrupted
        rows = self.rows(x)
        mean, deviation = energy(*self.surrogate(rows), self.surrogate.confidence)
        out["F"] = np.stack([cost(rows), mean + self.risk_aversion * deviation], axis=1)

    def front(self, risk_aversion: float) -> Front:
        """The front of non-dominated designs, by cost."""
        self.risk_aversion = risk_aversion
        config = self.job.config
        found = minimize(
            self,
            NSGA2(pop_size=config.population),
            ("n_gen", config.generations),
            seed=config.seed,
        )
        assert found.X is not None, "every design is feasible"
        rows = self.rows(np.atleast_2d(found.X))
        rows = rows.iloc[np.argsort(cost(rows))].reset_index(drop=True)
        mean, deviation = energy(*self.surrogate(rows), self.surrogate.confidence)
        return Front(rows, cost(rows), mean, deviation)


def check(front: Front, weather: Weather, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulate up to `count` designs, evenly along the front: their places, and kWh/m2 a year."""
    even = np.linspace(front.cost[0], front.cost[-1], count)
    places = np.unique([np.abs(front.cost - each).argmin() for each in even])
    chosen = front.designs.iloc[places]
    loads = simulate([build(row) for row in chosen.to_dict("records")], weather, 1, WARMUP_DAYS)
    truth = results(chosen, loads).filter(regex="heating|cooling")
    return places, truth.to_numpy().sum(1) / 2


def program(job: Job[OptimiseConfig]) -> Outcome:
    config = job.config
    weather = (
        read_epw(job.input("weather")) if "weather" in job.spec.inputs else make_climate(**SUNNY)
    )
    search = Search(job, Surrogate(job.input("champion")), describe_weather(weather))
    metrics: dict[str, float] = {"evaluated": 2.0 * config.population * config.generations}
    lines: list[dict[str, Any]] = []
    for number, (name, risk_aversion) in enumerate(
        (("neutral", 0.0), ("averse", config.risk_aversion))
    ):
        front = search.front(risk_aversion)
        job.progress(2 * number + 1, 4, f"{name}: searched")
        places, simulated = check(front, weather, config.checked)
        job.progress(2 * number + 2, 4, f"{name}: simulated")
        known = dict(zip(places.tolist(), simulated.tolist(), strict=True))
        outside = out_of_range(front.designs)
        for place, design in enumerate(front.designs.to_dict("records")):
            lines.append(
                {
                    "front": name,
                    "cost": float(front.cost[place]),
                    "predicted": float(front.predicted[place]),
                    "deviation": float(front.deviation[place]),
                    "simulated": known.get(place),
                    "outside": outside[place],
                    "design": design,
                }
            )
        surprise = simulated - front.predicted[places]
        above = surprise > NORMAL_90 * front.deviation[places]
        metrics |= {
            f"{name}_designs": float(len(front.cost)),
            f"{name}_checked": float(len(places)),
            f"{name}_deviation": float(front.deviation[places].mean()),
            f"{name}_surprise": float(surprise.mean()),
            f"{name}_worst_surprise": float(surprise.max()),
            f"{name}_above_interval": float(above.mean()),
        }
    path = job.scratch / "fronts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Outcome(metrics, {"fronts": path})


if __name__ == "__main__":
    main(OptimiseConfig, program)
