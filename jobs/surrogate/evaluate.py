"""Candidate, champion and the handbook on the same held-out designs.

    python -m jobs.surrogate.evaluate JOB_FOLDER

Inputs: `candidate`, `held_out` (both of jobs.surrogate.train), optionally `champion` and `towns` (a
folder of EPW files: artifact `towns` has a JSON line for each, see jobs.surrogate.towns).
Artifact: `evaluation`, JSON lines, one held-out design each: its inputs, climate, generation and
whether it was observed; `truth`; and for each side `mean`, `half_width` and `broken`.
Metrics are shares: `error` of the four loads (mean absolute error over their mean), `coverage` of
the intervals, in all and in the median climate and the worst tenth of them, `half_width` of the
loads' intervals over their mean, `broken` of designs, and `old_error` on designs that were
simulated for earlier versions; `<side>_error_<target>` in units.
"""

import json

import numpy as np
import pandas as pd
import torch

from jobs.runtime import Job, Outcome, main
from jobs.surrogate.config import INPUTS, LOADS, OUTPUTS, EvaluateConfig
from jobs.surrogate.data import recall
from jobs.surrogate.measure import coverage_by_climate, measure, relative_error
from jobs.surrogate.network import encode
from jobs.surrogate.predict import Surrogate, violations
from jobs.surrogate.towns import DESIGNS, judge_towns

MOST = 5000
"""Held-out designs that are judged."""


def program(job: Job[EvaluateConfig]) -> Outcome:
    held_out = pd.read_parquet(job.input("held_out"))
    if len(held_out) > MOST:
        held_out = held_out.sample(MOST, random_state=0)
    numbers = held_out[list(INPUTS)]
    truth = held_out[list(OUTPUTS)].to_numpy(float)
    old = ((held_out["generation"] < job.config.generation) & ~held_out["real"]).to_numpy(bool)
    named = held_out[["climate", "generation", "real"]].assign(real=held_out["real"].astype(bool))
    rows = named.to_dict("records")
    for row, design, known in zip(rows, numbers.to_dict("records"), truth, strict=True):
        row |= {"design": design, "truth": _plain(known)}
    loads = encode(torch.tensor(numbers.to_numpy(float)).float())[1][:LOADS].T.numpy()
    for row, mean in zip(rows, loads, strict=True):
        row["handbook"] = {"mean": _plain(mean)}
    metrics = {"handbook_error": relative_error(loads, truth)}
    sides = [side for side in ("candidate", "champion") if side in job.spec.inputs]
    surrogates = {side: Surrogate(job.input(side)) for side in sides}
    for side, surrogate in surrogates.items():
        mean, half_width = surrogate(numbers)
        broken = violations(numbers, mean)
        for row, *values, names in zip(rows, mean, half_width, broken, strict=True):
            row[side] = {"mean": _plain(values[0]), "half_width": _plain(values[1])}
            row[side]["broken"] = names
        measured = measure(mean, half_width, truth)
        climate = held_out["climate"].to_numpy()
        measured |= coverage_by_climate(mean, half_width, truth, climate)
        measured["broken"] = float(np.mean([bool(names) for names in broken]))
        measured["balance"] = float(np.mean(["balance" in names for names in broken]))
        if old.any():
            measured["old_error"] = relative_error(mean[old], truth[old])
        real = held_out["real"].to_numpy(bool)
        if real.any():
            measured["real_error"] = relative_error(mean[real], truth[real])
        metrics |= {f"{side}_{name}": value for name, value in measured.items()}
    metrics |= {"held_out": float(len(rows)), "old": float(old.sum())}
    metrics |= {f"mean_{n}": float(np.nanmean(truth[:, i])) for i, n in enumerate(OUTPUTS)}
    path = job.scratch / "evaluation.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    artifacts = {"evaluation": path}
    if "towns" in job.spec.inputs:
        learnt = recall(job.input("candidate"))
        towns = judge_towns(job.input("towns"), surrogates, DESIGNS, learnt)
        artifacts["towns"] = job.scratch / "towns.jsonl"
        artifacts["towns"].write_text("".join(json.dumps(row) + "\n" for row in towns))
    return Outcome(metrics, artifacts)


def _plain(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


if __name__ == "__main__":
    main(EvaluateConfig, program)
