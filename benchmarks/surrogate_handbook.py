"""Fit the handbook's constants to simulated designs, from those that it has on.

    PYTHONPATH=. $PY -m benchmarks.surrogate_handbook simulated.parquet

(`PY` as in docs/surrogate.md; the file is the artifact of a `surrogate.simulate` job.) Fitted by
Adam to the mean absolute error of the loads in the training climates; printed are its share of the
loads' mean in the other climates, before and after, and the constants.
"""

import argparse
from pathlib import Path

import torch

from jobs.surrogate import data
from jobs.surrogate.config import LOADS
from jobs.surrogate.handbook import CONSTANTS, HOURS, handbook
from jobs.surrogate.train import relative_error

STEPS, RATE = 1000, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("simulated", type=Path)
    table = data.from_simulation(parser.parse_args().simulated, 0, 0)
    fitted = data.to_data(table[table["part"] == "train"])
    others = data.to_data(table[table["part"] != "train"])
    logarithms = torch.zeros(len(CONSTANTS), requires_grad=True)

    def loads(x: torch.Tensor) -> torch.Tensor:
        factors = logarithms.exp()
        constants = {n: v * f for (n, v), f in zip(CONSTANTS.items(), factors, strict=True)}
        return handbook(x.T, constants)[1][:LOADS].T * (HOURS / 1000)

    def error() -> float:
        with torch.no_grad():
            return relative_error(loads(others.x), others.y)

    print(f"{error():.2%} of the loads in {len(others.x)} designs before")
    optimiser = torch.optim.Adam([logarithms], RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0.05, STEPS)
    for _ in range(STEPS):
        loss = (loads(fitted.x) - fitted.y[:, :LOADS]).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    print(f"{error():.2%} after")
    for (name, value), factor in zip(CONSTANTS.items(), logarithms.exp().tolist(), strict=True):
        print(f'    "{name}": {value * factor:.4g},')


if __name__ == "__main__":
    main()
