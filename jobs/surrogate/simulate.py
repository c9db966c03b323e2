"""Simulate designs drawn over the documented ranges, in made-up climates and the user's own.

    python -m jobs.surrogate.simulate JOB_FOLDER

Input: optionally `weather`, an EPW file that is added to the climates or, for a town, stands
for all of them. Artifact: `simulated`, a Parquet file with config.INPUTS, config.TARGETS and the
number of the climate. Resumes.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from infra.errors import InputError
from jobs.runtime import Interrupted, Job, Outcome, main
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.config import DESIGN, GIVEN, SimulateConfig
from jobs.surrogate.designs import build, northern, results, sample, sample_climates
from jobs.thermal.physics import Loads, simulate
from jobs.thermal.weather import read_epw

WARMUP_DAYS = 15
LARGEST_IMBALANCE = 1e-3
"""Of the energy turned over in any hour."""
MADE_FOR_ONE_GIVEN = 16
"""Of climates: so one design in 17 stands in the user's own weather."""
TOGETHER = 64
"""Designs that are simulated at once in the weather of a town."""
SAVED_EVERY = 32
"""Climates between two checkpoints."""


def program(job: Job[SimulateConfig]) -> Outcome:
    config = job.config
    climates = sample_climates(config.climates, config.seed)
    if "weather" in job.spec.inputs:
        given = read_epw(job.input("weather"))
        climates += [lambda: given] * max(1, config.climates // MADE_FOR_ONE_GIVEN)
        if config.town:
            climates = [lambda: given] * max(1, config.designs // TOGETHER)
    designs = shuffled_designs(config.designs, config.seed)
    parts, worst, first = [], 0.0, 0  # the worst of this attempt: each climate is checked at once
    if (saved := job.latest_checkpoint()) is not None:
        first = saved[0]
        parts.append(pd.read_parquet(saved[1] / "simulated.parquet"))
    job.progress(first, len(climates), "compiling: half a minute when it is new here")
    for number in range(first, len(climates)):
        chosen = designs.iloc[number :: len(climates)]
        if len(chosen):
            weather = climates[number]()
            loads = simulate(
                [build(row) for row in chosen.to_dict("records")],
                weather,
                config.steps_per_hour,
                WARMUP_DAYS,
            )
            worst = max(worst, checked_imbalance(loads))
            climate = number if number < config.climates else GIVEN
            if config.town:
                climate = chosen.index
            described = northern(chosen.assign(**describe_weather(weather), climate=climate))
            parts.append(pd.concat([described, results(chosen, loads)], axis=1))
        done = number + 1
        job.progress(done, len(climates))
        if job.stopping or (done % SAVED_EVERY == 0 and done < len(climates)):
            job.save_checkpoint(done, lambda folder: _save(parts, folder / "simulated.parquet"))
        if job.stopping:
            raise Interrupted
    path = job.scratch / "simulated.parquet"
    _save(parts, path)
    return Outcome({"designs": float(len(designs)), "imbalance": worst}, {"simulated": path})


def shuffled_designs(count: int, seed: int) -> pd.DataFrame:
    """Designs in an order of their own: two Sobol sequences go together, row by row, and the
    climates are one, so that the widest houses would all stand farthest north."""
    order = np.random.default_rng(seed).permutation(count)
    return sample(DESIGN, count, seed).iloc[order].reset_index(drop=True)


def checked_imbalance(loads: Loads) -> float:
    """The largest share of its turnover that an hour's energy balance fails by.

    Raises InputError for too much of it, and for what is no number.
    """
    imbalance = float(np.max(np.abs(loads.imbalance) / loads.turnover))
    if not imbalance <= LARGEST_IMBALANCE:
        raise InputError(
            f"an hour's energy balance fails by {imbalance:.1e} of its turnover",
            "Report the weather file: no simulation of it can be trained on.",
        )
    return imbalance


def _save(parts: list[pd.DataFrame], path: Path) -> None:
    pd.concat(parts, ignore_index=True).to_parquet(path)


if __name__ == "__main__":
    main(SimulateConfig, program)
