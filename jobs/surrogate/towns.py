"""The surrogate in real towns: fresh designs, simulated in weather files, against its predictions.

Judged by town, since a user has one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.errors import InputError
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.config import INPUTS, LOADS, OUTPUTS
from jobs.surrogate.designs import build, results
from jobs.surrogate.measure import measure
from jobs.surrogate.predict import Surrogate
from jobs.surrogate.simulate import WARMUP_DAYS, checked_imbalance, shuffled_designs
from jobs.thermal.physics import simulate
from jobs.thermal.weather import epw_files, read_epw

DESIGNS = 64
"""In each town of a retraining's report."""
FRESH = 777_001
"""Seed of the designs; no training's are drawn with it."""


def judge_towns(
    folder: Path, surrogates: Mapping[str, Surrogate], designs: int, learnt: pd.DataFrame
) -> list[dict[str, Any]]:
    """One row for each EPW file of `folder`, by name: what `designs` fresh designs need there.

    `town`, `designs`, `mean` (of the loads, kWh/m2), `learnt` (whether its weather is in that
    table of designs), and for each surrogate by its name what `measure` tells, with `error_kwh` (of
    the loads, kWh/m2) and `outside` (whether the weather is unlike what it was trained on). Raises
    InputError for a folder without files and for a broken one.
    """
    if not (files := epw_files(folder)):
        raise InputError(f"{folder} holds no EPW file", "Give a folder of *.epw files.")
    fresh = shuffled_designs(designs, FRESH)
    rows = []
    for path in files:
        weather = read_epw(path)
        loads = simulate([build(row) for row in fresh.to_dict("records")], weather, 1, WARMUP_DAYS)
        checked_imbalance(loads)
        truth = results(fresh, loads)[list(OUTPUTS)].to_numpy(float)
        described = describe_weather(weather)
        numbers = fresh.assign(**described)[list(INPUTS)]
        same = [np.isclose(learnt[name], value) for name, value in described.items()]
        row: dict[str, Any] = {
            "town": path.stem,
            "designs": designs,
            "mean": float(truth[:, :LOADS].mean()),
            "learnt": bool(np.all(same, axis=0).any()),
        }
        for name, surrogate in surrogates.items():
            mean, half_width, outside = surrogate.flagged(numbers)
            told = measure(mean, half_width, truth)
            told["error_kwh"] = float(np.abs(mean - truth)[:, :LOADS].mean())
            row[name] = told | {"outside": outside[0] != []}
        rows.append(row)
    return rows
