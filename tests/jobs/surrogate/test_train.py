"""Training, calibration, export and prediction, on a target that can be learnt in seconds."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from infra.errors import InputError
from jobs.runtime import Interrupted
from jobs.surrogate import data, distil, drift, evaluate, export, predict, train
from jobs.surrogate.climate import describe_weather
from jobs.surrogate.config import (
    DEGREE_DAYS,
    DESIGN,
    INPUTS,
    JOINT,
    OUTPUTS,
    WEATHER,
    DriftConfig,
    EvaluateConfig,
    TrainConfig,
)
from jobs.surrogate.designs import complete, sample
from jobs.surrogate.network import Ensemble, Member, Student
from jobs.surrogate.towns import judge_towns
from jobs.surrogate.towns_table import towns_table
from jobs.thermal.weather import read_epw
from tests.helpers.epw import lines
from tests.jobs.surrogate.tables import QUICK, made_up, skip_export


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


def test_a_champion_of_before_is_told_the_inputs_that_it_knows(
    trained, simulated, run_job, tmp_path, without_export
) -> None:
    """What earlier versions left has no degree days and no reference rooms."""
    _, outcome = trained
    old = tmp_path / "old"
    shutil.copytree(outcome.artifacts["candidate"], old)
    facts = json.loads((old / "surrogate.json").read_text())
    later = [quantity.name for quantity in DEGREE_DAYS + JOINT]
    before = [name for name in facts["inputs"] if name not in later]
    (old / "surrogate.json").write_text(json.dumps(facts | {"inputs": before}))
    (old / "members.pt").unlink()
    (old / "climates.npz").unlink()
    torch.save({"probe": torch.zeros(3)}, old / "members.pt")
    memory = pd.read_parquet(old / "memory.parquet")
    memory[[*before, *memory.columns.drop(list(INPUTS))]].to_parquet(old / "memory.parquet")
    with pytest.raises(Exception, match=f"{len(before)}"):
        predict.Surrogate(old)(sample(DESIGN + WEATHER, 2, 0))
    again = QUICK | {"generation": 1, "epochs": 1}
    _, next_one = run_job(
        train.program, TrainConfig, "surrogate.train", again, simulated=simulated, champion=old
    )
    assert next_one.metrics["warm"] == next_one.metrics["replayed"] == 0, "it was told too little"


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


def test_climates_are_not_shared_between_the_parts(simulated) -> None:
    table = data.from_simulation(simulated, 3, 7)
    climates = {part: set(table.loc[table["part"] == part, "climate"]) for part in data.PARTS}
    assert [len(climates[part]) for part in data.PARTS] == [60, 20, 20]
    assert not climates["train"] & (climates["calibrate"] | climates["held_out"])
    assert not climates["calibrate"] & climates["held_out"]
    other = data.from_simulation(simulated, 4, 7)
    assert not set(table["climate"]) & set(other["climate"]), "generations do not mix"


def observed(folder: Path, count: int) -> Path:
    real = made_up(count, 9).drop(columns=["climate", "solar", "loss"])
    real.to_json(folder / "observations.jsonl", orient="records", lines=True)
    return folder / "observations.jsonl"


def test_observations_keep_their_part_and_weigh_their_share(simulated, tmp_path) -> None:
    real = data.from_observations(observed(tmp_path, 400), 0)
    later = tmp_path / "later.jsonl"
    lines = (tmp_path / "observations.jsonl").read_text().splitlines(keepends=True)
    later.write_text("".join(reversed(lines)))
    again = data.from_observations(later, 5)
    assert again["part"].tolist()[::-1] == real["part"].tolist(), "whenever it is read"
    assert real["part"].value_counts()["train"] == pytest.approx(240, abs=40)
    table = data.gather(data.from_simulation(simulated, 0, 1), real, None)
    weights = data.weights(table, 0.7)
    assert weights[table["real"]].sum() / weights.sum() == pytest.approx(0.7)
    assert data.weights(table, 0)[table["real"]].sum() == 0
    assert (data.weights(table[~table["real"]], 0.7) == 1).all()
    assert data.to_data(real).y[:, -1].isnan().all(), "nobody measured it"


def test_the_same_observation_told_with_other_weather_is_one(tmp_path) -> None:
    path = observed(tmp_path, 50)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    again = [row | {"north_radiation": row["north_radiation"] * (1 + 1e-12)} for row in rows]
    degrees = [quantity.name for quantity in DEGREE_DAYS]
    before = [{name: v for name, v in row.items() if name not in degrees} for row in rows]
    path.write_text("".join(json.dumps(row) + "\n" for row in before + again))
    real = data.from_observations(path, 0)
    assert len(real) == 50 and real["climate"].tolist() == [-1 - n for n in range(50)]
    path.write_text("".join(json.dumps(row) + "\n" for row in again))
    assert data.from_observations(path, 1)["part"].tolist() == real["part"].tolist()


def test_what_is_remembered_is_bounded_and_has_what_drift_is_told_by(simulated, tmp_path) -> None:
    real = data.from_observations(observed(tmp_path, 100), 0)
    table = data.gather(data.from_simulation(simulated, 0, 1), real, None)
    kept = data.remember(table, 300, 0)
    assert (~kept["real"]).sum() == 300
    assert kept["real"].sum() == (real["part"] == "held_out").sum()
    later = data.gather(data.from_simulation(simulated, 1, 1), real, kept)
    assert (later["real"] & (later["part"] == "held_out")).sum() == kept["real"].sum()
    assert (later["generation"][~later["real"]] == 0).sum() == 300


def test_loads_of_an_earlier_physics_are_not_learnt_again(simulated, tmp_path) -> None:
    table = data.gather(data.from_simulation(simulated, 0, 1), None, None)
    data.remember(table, 300, 0).drop(columns="physics").to_parquet(tmp_path / "memory.parquet")
    later = data.gather(data.from_simulation(simulated, 1, 1), None, data.recall(tmp_path))
    assert (later["generation"] == 1).all()


@pytest.fixture
def without_export(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_export(monkeypatch)


def error_on(folder: Path, table: pd.DataFrame) -> float:
    """The error of the loads of what a training left in `folder`."""
    saved = torch.load(folder / "members.pt")
    members = []
    for one in saved["members"]:
        member = Member(len(saved["scales"]["x_mean"]), one["widths"], 0.0)
        member.load_state_dict(one["state"])
        members.append(member)
    rows = data.to_data(table)
    with torch.no_grad():
        return train.relative_error(
            Ensemble(members, saved["scales"]).eval().each(rows.x).mean(0), rows.y
        )


def test_a_later_training_goes_on_and_replay_keeps_old_climates(
    simulated, tmp_path, run_job, without_export
) -> None:
    """The first learns all climates, the later ones see hot ones only, with and without replay."""
    _, first = run_job(
        train.program, TrainConfig, "t", QUICK | {"replay": 2000}, simulated=simulated,
        observations=observed(tmp_path, 60),
    )  # fmt: skip
    champion = first.artifacts["candidate"]
    assert first.metrics["observations"] == 60 and first.metrics["warm"] == 0
    hot = made_up(2000, 4)
    hot[hot["mean_temperature"] > 24].to_parquet(tmp_path / "hot.parquet")
    forgetful = tmp_path / "forgetful"
    shutil.copytree(champion, forgetful)
    memory = pd.read_parquet(champion / "memory.parquet")
    memory[memory["part"] != "train"].to_parquet(forgetful / "memory.parquet")
    old = memory[(memory["part"] == "held_out") & ~memory["real"]]
    errors = {"champion": error_on(champion, old)}
    for name, folder in (("replayed", champion), ("forgetful", forgetful)):
        _, later = run_job(
            train.program, TrainConfig, "t", QUICK | {"generation": 1, "seed": 2},
            simulated=tmp_path / "hot.parquet", champion=folder,
        )  # fmt: skip
        assert later.metrics["warm"] == 2
        errors[name] = error_on(later.artifacts["candidate"], old)
    assert errors["replayed"] < 0.85 * errors["forgetful"], "without replay the cold is forgotten"
    assert errors["replayed"] < 1.3 * errors["champion"]


def test_a_stopped_training_goes_on_after_its_last_member(
    simulated, run_job, without_export
) -> None:
    config = QUICK | {"epochs": 3}
    _, outcome = run_job(train.program, TrainConfig, "t", config, simulated=simulated)
    stopped, _ = run_job(train.program, TrainConfig, "t", config, simulated=simulated)
    for leftover in ("checkpoints/step-00000002", "scratch/candidate"):
        shutil.rmtree(stopped.folder / leftover)
    (stopped.folder / "progress.jsonl").unlink()
    again = train.program(stopped)
    assert stopped.resumed_from == 1
    assert '"member 1"' not in (stopped.folder / "progress.jsonl").read_text()
    assert again.metrics["fold_error"] == outcome.metrics["fold_error"]
    stopped.stopping = True
    shutil.rmtree(stopped.folder / "checkpoints" / "step-00000002")
    with pytest.raises(Interrupted):
        train.program(stopped)


def test_sides_are_measured_on_the_same_designs(trained, run_job) -> None:
    candidate, held_out = (trained[1].artifacts[n] for n in ("candidate", "held_out"))
    given = {"candidate": candidate, "champion": candidate, "held_out": held_out}
    _, outcome = run_job(evaluate.program, EvaluateConfig, "e", {"generation": 0}, **given)
    metrics = outcome.metrics
    assert metrics["candidate_error"] == metrics["champion_error"] < metrics["handbook_error"]
    assert metrics["candidate_balance"] == 0 and "candidate_old_error" not in metrics
    rows = [json.loads(line) for line in outcome.artifacts["evaluation"].read_text().splitlines()]
    assert len(rows) == metrics["held_out"] and set(rows[0]["design"]) == set(INPUTS)
    errors = [abs(r["candidate"]["mean"][0] - r["truth"][0]) for r in rows]
    assert np.mean(errors) == pytest.approx(metrics["candidate_error_heating_front"], rel=1e-3)


def test_drift_is_told_from_the_same_and_from_other_buildings(trained, tmp_path, run_job) -> None:
    found = {}
    for name, appetite in (("same", 1.0), ("other", 1.5)):
        newest = made_up(60, 31).drop(columns=["climate", "solar", "loss"])
        for load in ("heating_front", "heating_back", "cooling_front", "cooling_back"):
            newest[load] *= appetite
        newest.to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)
        config = {"significance": 0.01}
        _, found[name] = run_job(
            drift.program, DriftConfig, "d", config, observations=tmp_path / f"{name}.jsonl",
            champion=trained[1].artifacts["candidate"],
        )  # fmt: skip
    assert not found["same"].metrics["drifted"]
    assert found["other"].metrics["drifted"] and found["other"].metrics["window"] == 60


def test_conformal_quantile_is_the_right_rank() -> None:
    scores = torch.arange(1.0, 100.0)[None]
    assert distil.quantile(scores, 0.9).item() == 90, "⌈100 × 0.9⌉"
    scores[:, 50:] = float("nan")
    assert distil.quantile(scores, 0.9).item() == 46, "⌈51 × 0.9⌉ of 50"


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
    untold = [quantity.name for quantity in DEGREE_DAYS + JOINT]
    here = pd.read_parquet(trained[1].artifacts["held_out"]).iloc[0]
    weather = {one.name: here[one.name] for one in WEATHER if one.name not in untold}
    told = sample(DESIGN, 3, 5).assign(**weather)
    designs = complete(told)
    designs.loc[2, "gains"] = 40.0
    designs.to_csv(tmp_path / "designs.csv", index=False)

    def ask(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", "--model", str(folder), *arguments])
        predict.main()
        return capsys.readouterr().out

    answers = pd.read_csv(io.StringIO(ask("--input", str(tmp_path / "designs.csv"))))
    assert answers["outside"].fillna("").tolist() == ["", "", "gains"]
    assert (answers["heating_front_low"] <= answers["heating_front"]).all()
    assert all((answers[f"{name}_low"] >= 0).all() for name in (*OUTPUTS[:4], "solar"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(designs.to_json(orient="records", lines=True)))
    lines = [json.loads(line) for line in ask("--stdin").splitlines()]
    assert lines[0]["loss"] == pytest.approx(answers["loss"][0], rel=1e-4)
    assert ask("--json", "--input", str(tmp_path / "designs.csv")).startswith("{")
    (tmp_path / "designs.csv").write_text("width\n1\n")
    with pytest.raises(SystemExit) as ended:
        ask("--input", str(tmp_path / "designs.csv"))
    assert ended.value.code == 2 and "no column depth" in capsys.readouterr().err
    with pytest.raises(InputError, match="holds no surrogate"):
        predict.Surrogate(tmp_path)


def test_intervals_are_wider_where_the_weather_is_strange_or_told_in_part(trained) -> None:
    surrogate = predict.Surrogate(trained[1].artifacts["candidate"])
    designs = pd.read_parquet(trained[1].artifacts["held_out"])[list(INPUTS)].iloc[:20]
    plain = surrogate(designs)
    strange = designs.assign(sky_depression=designs["sky_depression"] + 200)
    assert (surrogate(strange)[1] > plain[1]).mean() > 0.5
    assert all("weather" in names for names in surrogate.flagged(strange)[2])
    assert sum("weather" in names for names in surrogate.flagged(designs)[2]) <= 2
    less = complete(designs.drop(columns=[quantity.name for quantity in JOINT]))
    assert np.isfinite(surrogate(less)[0]).all()
    assert surrogate.climates is not None and surrogate.climates.widened >= 1


def test_towns_are_judged_one_by_one(trained, run_job, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "DESIGNS", 4)
    folder = tmp_path / "towns"
    folder.mkdir()
    (folder / "here.epw").write_text("\n".join(lines()))
    candidate, held_out = (trained[1].artifacts[n] for n in ("candidate", "held_out"))
    given = {"candidate": candidate, "champion": candidate, "held_out": held_out}
    _, outcome = run_job(
        evaluate.program, EvaluateConfig, "e", {"generation": 0}, towns=folder, **given
    )
    (row,) = [json.loads(line) for line in outcome.artifacts["towns"].read_text().splitlines()]
    assert (row["town"], row["designs"], row["learnt"]) == ("here", 4, False)
    assert row["candidate"] == row["champion"] and row["mean"] > 0
    assert row["candidate"]["error_kwh"] == pytest.approx(row["candidate"]["error"] * row["mean"])
    assert "| here | 4 |" in towns_table([row])
    memory = data.recall(candidate).assign(**describe_weather(read_epw(folder / "here.epw")))
    (row,) = judge_towns(folder, {"candidate": predict.Surrogate(candidate)}, 2, memory)
    assert row["learnt"]
    with pytest.raises(InputError, match="holds no EPW file"):
        judge_towns(tmp_path, {}, 2, memory)


@pytest.mark.parametrize("kept", [None, 1])
def test_a_student_is_exported_with_and_without_a_spread(simulated, tmp_path, kept) -> None:
    known = data.to_data(data.from_simulation(simulated, 0, 0))
    student = Student(train.scales(known), torch.ones(len(OUTPUTS)), len(distil.KINDS)).eval()
    student.keep(kept)
    export.write(student, known.x, known.y, 0.9, tmp_path)
    mean, half_width = export.run(export.session(tmp_path / "fp32.onnx"), known.x.numpy()[:100])
    wanted = [part.detach().numpy().T for part in student(known.x[:100].T)]
    assert np.allclose(mean, wanted[0], rtol=1e-3, atol=1e-2)
    assert np.allclose(half_width, wanted[1], rtol=1e-3, atol=1e-3)


def test_unknown_providers_fall_back_to_the_cpu(trained) -> None:
    path = trained[1].artifacts["candidate"] / "fp32.onnx"
    with pytest.warns(UserWarning, match="NoSuchProvider"):
        session = export.session(path, ["NoSuchProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
