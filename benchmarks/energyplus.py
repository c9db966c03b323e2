"""The thermal simulation against EnergyPlus: the same designs in the same weather files.

    PYTHONPATH=. PYTHON -m benchmarks.energyplus --towns FOLDER [--designs 24]

PYTHON is that of the job environment (`python -m infra.compute.environments surrogate`); the folder
holds EPW files. EnergyPlus is DOE's own, in the environment `energyplus`, which the Python that
`--control` names makes on first use. Printed for each town: the mean of each load by EnergyPlus,
how much more ours is, and the mean absolute difference, both in per cent of that mean.
"""

import argparse
import json
import sqlite3
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.epjson import REPORTED, epjson, zone_name
from jobs.surrogate.designs import build, results
from jobs.surrogate.simulate import WARMUP_DAYS, shuffled_designs
from jobs.thermal.building import Building
from jobs.thermal.physics import simulate
from jobs.thermal.weather import epw_files, read_epw

SEED = 4242
RUN = """
import sys
from pyenergyplus.api import EnergyPlusAPI
api = EnergyPlusAPI()
state = api.state_manager.new_state()
api.runtime.set_console_output_status(state, False)
sys.exit(api.runtime.run_energyplus(state, sys.argv[1:]))
"""
JOULES = 3.6e6
"""In a kWh."""
COMPARED = ("heating_front", "heating_back", "cooling_front", "cooling_back", "solar")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--towns", type=Path, required=True)
    parser.add_argument("--designs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=1, help="Ours, an hour; EnergyPlus has 6.")
    parser.add_argument("--control", default=".venv/bin/python")
    given = parser.parse_args()
    making = [given.control, "-m", "infra.compute.environments", "energyplus"]
    python = subprocess.run(making, check=True, capture_output=True, text=True).stdout.strip()
    designs = shuffled_designs(given.designs, SEED)
    buildings = [build(row) for row in designs.to_dict("records")]
    print("| town | " + " | ".join(COMPARED) + " |\n|---|" + "---|" * len(COMPARED))
    for path in epw_files(given.towns):
        loads = simulate(buildings, read_epw(path), given.steps, WARMUP_DAYS)
        ours = results(designs, loads)[list(COMPARED)].to_numpy(float)
        theirs = energyplus(buildings, path, python)
        mean = theirs.mean(0)
        more, apart = (ours - theirs).mean(0) / mean, np.abs(ours - theirs).mean(0) / mean
        cells = [
            f"{m:.1f}: {more_:+.1%}, {apart_:.1%}"
            for m, more_, apart_ in zip(mean, more, apart, strict=True)
        ]
        print(f"| {path.stem} | " + " | ".join(cells) + " |", flush=True)


def energyplus(buildings: Sequence[Building], weather: Path, python: str) -> np.ndarray:
    """What EnergyPlus says of COMPARED, (buildings, 5), in kWh/m2 a year."""
    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(lambda b: _one(b, weather, python), buildings)))


def _one(building: Building, weather: Path, python: str) -> list[float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "model.epJSON"
        model.write_text(json.dumps(epjson(building)))
        run = [python, "-c", RUN, "-w", str(weather.resolve()), "-d", name, str(model)]
        if subprocess.run(run, capture_output=True).returncode:
            raise RuntimeError((folder / "eplusout.err").read_text()[-2000:])
        database = sqlite3.connect(folder / "eplusout.sql")
        rows = database.execute(
            "SELECT KeyValue, Name, Value FROM ReportData"
            " JOIN ReportDataDictionary USING (ReportDataDictionaryIndex)"
        ).fetchall()
        database.close()
    found = {(str(key).split()[0], variable): value / JOULES for key, variable, value in rows}
    floors = [zone.size[0] * zone.size[1] for zone in building.zones]
    zones = [zone_name(number) for number in range(len(floors))]
    loads = [
        found[zone, REPORTED[load]] / floor
        for load in ("heating", "cooling")
        for zone, floor in zip(zones, floors, strict=True)
    ]
    return [*loads, sum(found[zone, REPORTED["sun"]] for zone in zones) / sum(floors)]


if __name__ == "__main__":
    main()
