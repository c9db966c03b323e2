"""Measured building-years for tests, written in the job environment `surrogate`.

    PYTHON -m tests.helpers.measuring FOLDER COUNT

COUNT houses that meters read for a year; they use 1.6 times what the simulation says of them.
"""

import sys
from pathlib import Path

import pandas as pd

from jobs.surrogate.climate import make_climate
from jobs.surrogate.config import DESIGN
from jobs.surrogate.designs import build, sample
from jobs.thermal.physics import simulate

APPETITE = 1.6


def write(folder: Path, count: int) -> None:
    weather = make_climate(48, 9, 9, 5, 0.5, 3, seed=5)
    designs = sample(DESIGN, count, 77).to_dict("records")
    loads = simulate([build(design) for design in designs], weather, 1, 5)
    times = pd.date_range("2023-01-01", periods=8760, freq="h", tz="UTC")
    folder.mkdir(parents=True, exist_ok=True)
    for number, design in enumerate(designs):
        table = pd.DataFrame({"time": times.strftime("%Y-%m-%dT%H:%M%z")})
        for zone, name in enumerate(("front", "back")):
            table[f"heating_{name}"] = APPETITE * loads.heating[number, zone]
            table[f"cooling_{name}"] = APPETITE * loads.cooling[number, zone]
            table[f"temperature_{name}"] = loads.temperature[number, zone]
        for name in ("dry_bulb", "direct_normal", "diffuse_horizontal", "wind_speed"):
            table[name] = getattr(weather, name)
        table = table.assign(latitude=48.0, longitude=0.0, **design)
        table.to_parquet(folder / f"house-{number}.parquet")


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
