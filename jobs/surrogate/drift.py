"""Does the champion err more on what was measured lately than when it was validated?

    python -m jobs.surrogate.drift JOB_FOLDER

Inputs: `champion`, `observations` (JSON lines: the newest ones, that it has not learnt from).
Errors are means over the targets that were measured lately, in deviations; those it was validated
on are observed designs that were held out, or simulated ones where there are few. One-sided
Mann-Whitney test.
"""

import numpy as np
import pandas as pd
from scipy.stats import mannwhitneyu

from jobs.runtime import Job, Outcome, main
from jobs.surrogate.config import INPUTS, OUTPUTS, DriftConfig
from jobs.surrogate.data import recall
from jobs.surrogate.designs import complete
from jobs.surrogate.predict import Surrogate

FEWEST = 20
"""Observed designs to validate on, else simulated ones."""


def program(job: Job[DriftConfig]) -> Outcome:
    champion = job.input("champion")
    memory = recall(champion)
    held_out = memory[memory["part"] == "held_out"]
    if held_out["real"].sum() >= FEWEST:
        held_out = held_out[held_out["real"]]
    newest = complete(pd.read_json(job.input("observations"), lines=True))
    measured = [name for name in OUTPUTS if name in newest and newest[name].notna().any()]
    surrogate = Surrogate(champion)
    unit = memory[measured].std()
    lately = errors(surrogate, newest[[*INPUTS, *measured]], unit)
    before = errors(surrogate, held_out[[*INPUTS, *measured]], unit)
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


def errors(surrogate: Surrogate, table: pd.DataFrame, unit: pd.Series) -> np.ndarray:
    """The mean error of each design in deviations, shape (N,), over the targets of `unit`."""
    mean, _ = surrogate(table[list(INPUTS)])
    predicted = pd.DataFrame(mean, columns=list(OUTPUTS), index=table.index)[unit.index]
    return ((predicted - table[unit.index]).abs() / unit).mean(axis=1).to_numpy()


if __name__ == "__main__":
    main(DriftConfig, program)
