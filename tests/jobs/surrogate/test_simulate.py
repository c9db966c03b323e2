"""The job that simulates designs: whole tables, and nothing of a balance that fails."""

import json

import pandas as pd
import pytest

from infra.errors import InputError
from jobs.runtime import Job
from jobs.surrogate import simulate
from jobs.surrogate.config import INPUTS, OUTPUTS, SimulateConfig


def test_simulation_job_writes_designs_with_results_and_resumes(run_job) -> None:
    config = {"designs": 6, "climates": 3, "seed": 2}
    job, outcome = run_job(simulate.program, SimulateConfig, "surrogate.simulate", config)
    first = json.loads((job.folder / "progress.jsonl").read_text().splitlines()[0])
    assert first["step"] == 0 and "compiling" in first["message"], "half a minute without a word"
    table = pd.read_parquet(outcome.artifacts["simulated"])
    assert len(table) == 6 and set(table["climate"]) == {0, 1, 2}
    assert set(INPUTS + OUTPUTS) <= set(table) and not table.isna().any().any()
    assert outcome.metrics["imbalance"] < 1e-3


@pytest.mark.parametrize("spoilt", [2e-3, float("nan")])
def test_a_climate_whose_balance_fails_is_never_saved(run_job, monkeypatch, spoilt) -> None:
    whole = simulate.simulate

    def broken(*given):
        loads = whole(*given)
        loads.imbalance.flat[5] = spoilt * loads.turnover.flat[5]
        return loads

    monkeypatch.setattr(simulate, "simulate", broken)
    monkeypatch.setattr(simulate, "SAVED_EVERY", 1)
    config = {"designs": 2, "climates": 2, "seed": 2}
    run = (simulate.program, SimulateConfig, "surrogate.simulate")
    saved = []
    monkeypatch.setattr(Job, "save_checkpoint", lambda *_: saved.append(1))
    with pytest.raises(InputError, match="energy balance fails"):
        run_job(*run, config)
    assert not saved
