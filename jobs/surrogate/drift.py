"""Does the champion err more on what was measured lately than when it was validated?

    python -m jobs.surrogate.drift JOB_FOLDER

Inputs: `champion`, `observations` (JSON lines: the newest ones, that it has not learnt from).
Errors are means over the measured targets in deviations of what it was validated on: observed
designs that were held out, or simulated ones where there are few. One-sided Mann-Whitney test.
"""

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from jobs.runtime import Job, Outcome, main
from jobs.surrogate.config import INPUTS, OUTPUTS, DriftConfig
from jobs.surrogate.predict import Surrogate

FEWEST = 20
"""Observed designs to validate on, else simulated ones."""


def program(job: Job[DriftConfig]) -> Outcome:
    champion = job.input("champion")
    memory = pd.read_parquet(champion / "memory.parquet")
    held_out = memory[memory["part"] == "held_out"]
    if held_out["real"].sum() >= FEWEST:
        held_out = held_out[held_out["real"]]
    newest = pd.read_json(job.input("observations"), lines=True)
    unit = np.nanstd(memory[list(OUTPUTS)].to_numpy(float), axis=0)
    surrogate = Surrogate(champion)
    lately = errors(surrogate, newest.reindex(columns=[*INPUTS, *OUTPUTS]), unit)
    before = errors(surrogate, held_out, unit)
    p_value = float(mannwhitneyu(lately, before, alternative="greater").pvalue)
    return Outcome(
        {
            "error_lately": float(lately.mean()),
            "error_validated": float(before.mean()),
            "p_value": p_value,
            "window": float(len(lately)),
            "drifted": float(p_value < job.config.significance),
        }
    )


def errors(surrogate: Surrogate, table: pd.DataFrame, unit: np.ndarray) -> np.ndarray:
    """The mean error of each design in deviations, shape (N,)."""
    mean, _ = surrogate(table[list(INPUTS)])
    return np.nanmean(np.abs(mean - table[list(OUTPUTS)].to_numpy(float)) / unit, axis=1)


if __name__ == "__main__":
    main(DriftConfig, program)
