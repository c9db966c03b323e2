"""Training, calibration, export and prediction, on a target that can be learnt in seconds."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from infra.errors import InputError
from jobs.surrogate import export, predict, simulate, train
from jobs.surrogate.config import (
    DESIGN,
    INPUTS,
    OUTPUTS,
    WEATHER,
    SimulateConfig,
    TrainConfig,
)
from jobs.surrogate.designs import sample

QUICK = {"folds": 2, "epochs": 25, "seed": 1}


def made_up(count: int, seed: int) -> pd.DataFrame:
    """A smooth law with noise in place of the simulation; the balance closes."""
    table = sample(DESIGN + WEATHER, count, seed)
    random = np.random.default_rng(seed)
    heat = np.maximum(0, 18 - table["mean_temperature"]) * (2 + 4 * table["wall_u"])
    cool = np.maximum(0, table["mean_temperature"] - 15) * 4 + table["gains"]
    for side in ("front", "back"):
        table[f"heating_{side}"] = heat * random.uniform(0.95, 1.05, count)
        table[f"cooling_{side}"] = cool * random.uniform(0.95, 1.05, count)
        table[f"temperature_{side}"] = table["heating_setpoint"] + random.uniform(0, 1, count)
    table["solar"] = table["global_radiation"] * table["window_front"] / 5
    table["loss"] = (
        table[["heating_front", "heating_back"]].mean(axis=1)
        + table["solar"]
        + table["gains"] * 8.76
        - table[["cooling_front", "cooling_back"]].mean(axis=1)
    )
    table["climate"] = np.arange(count) % 100
    return table


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "simulated.parquet"
    made_up(2000, 0).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def trained(simulated, run_job):
    job, outcome = run_job(
        train.program, TrainConfig, "surrogate.train", QUICK, simulated=simulated
    )
    return job, outcome


def test_it_learns_covers_and_keeps_the_balance(trained, tmp_path) -> None:
    job, outcome = trained
    held_out = pd.read_parquet(outcome.artifacts["held_out"])
    surrogate = predict.Surrogate(outcome.artifacts["candidate"])
    numbers = held_out[list(INPUTS)]
    mean, half_width = surrogate(numbers)
    truth = held_out[list(OUTPUTS)].to_numpy()
    error = np.abs(mean - truth)
    constant = np.abs(truth - truth.mean(0))
    assert error.mean(0)[:4].sum() < 0.4 * constant.mean(0)[:4].sum()
    assert 0.85 <= (error <= half_width).mean() <= 0.95
    assert not any("balance" in names for names in predict.violations(numbers, mean))
    metrics = outcome.metrics
    assert metrics["fp32_difference"] < 1e-4 and metrics["fp16_difference"] < 0.1
    assert metrics["int8_kb"] < metrics["fp32_kb"]
    assert metrics["observations"] == 0
    assert (job.folder / "progress.jsonl").read_text().count("loss")


def test_climates_are_not_shared_between_the_splits() -> None:
    group = np.repeat(np.arange(50), 7)
    parts = train.split(group, 3)
    assert sum(part.sum() for part in parts) == len(group)
    assert [len(np.unique(group[part])) for part in parts] == [30, 10, 10]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(group[parts[one]]) & set(group[parts[other]])


def test_observations_weigh_their_share_and_may_lack_targets(simulated, tmp_path, run_job) -> None:
    real = made_up(40, 9).drop(columns=["climate", "solar", "loss"])
    path = tmp_path / "observations.jsonl"
    real.to_json(path, orient="records", lines=True)
    data = train.load(simulated, path, 0.7)
    weights = data.weight.numpy()
    assert weights[2000:].sum() / weights.sum() == pytest.approx(0.7)
    assert data.y[2000:, -1].isnan().all()
    _, outcome = run_job(
        train.program, TrainConfig, "t", QUICK | {"epochs": 2}, simulated=simulated,
        observations=path,
    )  # fmt: skip
    assert outcome.metrics["observations"] == 40
    assert np.isfinite(outcome.metrics["fp32_error"])


def test_conformal_quantile_is_the_right_rank() -> None:
    scores = torch.arange(1.0, 100.0)[:, None]
    assert train._quantile(scores, 0.9).item() == 90, "⌈100 × 0.9⌉"
    scores[50:] = float("nan")
    assert train._quantile(scores, 0.9).item() == 46, "⌈51 × 0.9⌉ of 50"


def test_violations_are_named() -> None:
    numbers = sample(DESIGN + WEATHER, 4, 0)[list(INPUTS)]
    mean = np.zeros((4, len(OUTPUTS)))
    mean[:, 4:6] = numbers["heating_setpoint"].to_numpy()[:, None]
    mean[:, 7] = numbers["gains"] * 8.76
    mean[1, 7] *= 1.05
    mean[2, 0], mean[2, 7] = -2, mean[2, 7] - 1
    mean[3, 4] += 11
    broken = predict.violations(numbers, mean)
    assert broken[:3] == [[], ["balance"], ["bounds"]]
    assert "zones" in broken[3] and "bounds" in broken[3]


def test_the_command_answers_files_and_lines_and_flags_rows(
    trained, tmp_path, monkeypatch, capsys
) -> None:
    folder = trained[1].artifacts["candidate"]
    designs = sample(DESIGN + WEATHER, 3, 5)
    designs.loc[2, "gains"] = 40.0
    designs.to_csv(tmp_path / "designs.csv", index=False)

    def ask(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", "--model", str(folder), *arguments])
        predict.main()
        return capsys.readouterr().out

    answers = pd.read_csv(io.StringIO(ask("--input", str(tmp_path / "designs.csv"))))
    assert answers["outside"].fillna("").tolist() == ["", "", "gains"]
    assert (answers["heating_front_low"] <= answers["heating_front"]).all()
    monkeypatch.setattr(sys, "stdin", io.StringIO(designs.to_json(orient="records", lines=True)))
    lines = [json.loads(line) for line in ask("--stdin").splitlines()]
    assert lines[0]["loss"] == pytest.approx(answers["loss"][0], rel=1e-4)
    (tmp_path / "designs.csv").write_text("width\n1\n")
    with pytest.raises(SystemExit) as ended:
        ask("--input", str(tmp_path / "designs.csv"))
    assert ended.value.code == 2 and "no column depth" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no surrogate"):
        predict.Surrogate(tmp_path)


def test_unknown_providers_fall_back_to_the_cpu(trained) -> None:
    path = trained[1].artifacts["candidate"] / "fp32.onnx"
    with pytest.warns(UserWarning, match="NoSuchProvider"):
        session = export.session(path, ["NoSuchProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_simulation_job_writes_designs_with_results_and_resumes(run_job) -> None:
    config = {"designs": 6, "climates": 3, "seed": 2}
    _, outcome = run_job(simulate.program, SimulateConfig, "surrogate.simulate", config)
    table = pd.read_parquet(outcome.artifacts["simulated"])
    assert len(table) == 6 and set(table["climate"]) == {0, 1, 2}
    assert set(INPUTS + OUTPUTS) <= set(table) and not table.isna().any().any()
    assert outcome.metrics["imbalance"] < 1e-3
