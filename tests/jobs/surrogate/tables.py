"""A table of buildings that a surrogate learns in seconds, and the quick way to."""

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.surrogate import train
from jobs.surrogate.config import DESIGN, INPUTS, OUTPUTS, WEATHER
from jobs.surrogate.designs import sample
from jobs.surrogate.network import Student, encode

QUICK = {"folds": 2, "epochs": 25, "seed": 1}


def made_up(count: int, seed: int) -> pd.DataFrame:
    """The handbook, a smooth law beside it, and noise for the simulation; the balance closes."""
    table = sample(DESIGN + WEATHER, count, seed)
    random = np.random.default_rng(seed)
    known = encode(torch.tensor(table[list(INPUTS)].to_numpy()).float())[1].T.numpy()
    law = 1.2 + 0.3 * np.sin(table["mean_temperature"] / 5)
    for number, name in enumerate(OUTPUTS[:4]):
        table[name] = known[:, number] * law * random.uniform(0.97, 1.03, count)
    for side in ("front", "back"):
        table[f"temperature_{side}"] = table["heating_setpoint"] + random.uniform(0, 1, count)
    table["solar"] = known[:, 6] * 1.1
    table["loss"] = (
        table[["heating_front", "heating_back"]].mean(axis=1)
        + table["solar"]
        + table["gains"] * 8.76
        - table[["cooling_front", "cooling_back"]].mean(axis=1)
    )
    table["climate"] = np.arange(count) % 100
    return table


def skip_export(patch: pytest.MonkeyPatch) -> None:
    """Training alone: exporting takes ten times as long."""

    def write(_student: Student, *given: object) -> dict[str, float]:
        given[-1].mkdir()
        return {}

    patch.setattr(train.export, "write", write)
