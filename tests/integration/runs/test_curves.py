"""The curve of a training in the real MLflow and in files of TensorBoard, over a kill."""

import struct
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from infra.compute import jobs
from infra.contract import Resources
from infra.models import registry, tracking
from infra.models.connection import client
from infra.records.runs import Run
from tasks.runs import launch, offers, reconcile, run
from tasks.runs.curves import Curves
from tasks.runs.parameters import RunParameters
from tasks.runs.plan import Step
from tasks.runs.purse import Purse
from tasks.runs.run import Work
from tests.helpers.launching import launcher
from tests.integration.runs.test_launch import spec
from tests.programs.basic.steps import Config

TRAIN = Step[Any]("train", "basic.steps", "train", lambda _: 0.01, Resources())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The MLflow of this test's database; what is for Prefect's UI needs a server."""
    registry._client.cache_clear()
    monkeypatch.setattr(run, "Watch", lambda *_: nullcontext(lambda _: None))


def of_mlflow(mine: Run) -> Any:
    experiment = client().get_experiment_by_name(mine.flow)
    assert experiment is not None
    (found,) = client().search_runs(
        [experiment.experiment_id], f"tags.`nightshift.run` = '{mine.id}'"
    )
    return found


def points(mine: Run, name: str = "sum") -> list[tuple[int, float]]:
    history = client().get_metric_history(of_mlflow(mine).info.run_id, name)
    return sorted((one.step, one.value) for one in history)


def of_tensorboard(folder: Path) -> list[tuple[int, float]]:
    """From records of a length (8 bytes), a checksum (4), an event and its checksum (4)."""
    found = []
    for file in (folder / "tensorboard").iterdir():
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
            found += [(event.step, one.simple_value) for one in event.summary.value]
    return found


def test_each_training_leaves_its_curve_where_people_look(home: Path, purse: Purse) -> None:
    work = Work(purse.run, purse, RunParameters(), (TRAIN,))
    work.job(TRAIN, Config(steps=3), {})
    assert points(purse.run) == of_tensorboard(work.folder) == [(1, 0), (2, 1), (3, 3)]
    found = of_mlflow(purse.run)
    assert found.info.status == "FINISHED" and found.data.tags["mlflow.runName"] == purse.run.id
    work.job(TRAIN, Config(steps=3), {})  # the flow was killed afterwards: it is done before
    assert points(purse.run) == of_tensorboard(work.folder) == [(1, 0), (2, 1), (3, 3)]
    assert of_mlflow(purse.run).info.status == "FINISHED"


def test_a_training_that_was_killed_is_closed_and_its_curve_goes_on(
    home: Path, purse: Purse, tmp_path: Path
) -> None:
    wanted = spec(home, purse, "train", steps=5, hold=3)
    record = jobs.record_launch(
        purse.pool, purse.run, wanted, offers.cheapest(wanted.resources, "local"), None
    )
    _, reservation = launch._reservation(record, launcher(home), purse)
    handle = launcher(home).launch(wanted, reservation)
    killed = Curves(purse.pool, purse.run.id, tmp_path, {"name": "x"})
    killed.__enter__()  # and whoever watches is killed: nothing of it ends by itself
    while len(launcher(home).progress(wanted.key)) < 3:
        time.sleep(0.05)
    killed(launcher(home).progress(wanted.key)[-1])
    killed.tensorboard.close()  # which its thread does every few seconds
    assert points(purse.run) == of_tensorboard(tmp_path) == [(1, 0), (2, 1), (3, 3)]
    assert reconcile.reconcile(purse.pool, "another-run") == []
    assert of_mlflow(purse.run).info.status == "RUNNING", "the job goes on"
    launcher(home).stop(handle)
    reconcile.reconcile(purse.pool, "another-run")
    assert of_mlflow(purse.run).info.status == "KILLED"
    with Curves(purse.pool, purse.run.id, tmp_path, {"name": "x"}) as curve:
        assert of_mlflow(purse.run).info.status == "RUNNING"
        launch.run_job(wanted, purse, curve)
    assert of_mlflow(purse.run).info.status == "FINISHED"
    assert of_mlflow(purse.run).data.params == {"name": "x"}
    whole = [(1, 0), (2, 1), (3, 3), (4, 6), (5, 10)]
    assert points(purse.run) == of_tensorboard(tmp_path) == whole


def test_no_training_ends_for_its_curve(
    home: Path, purse: Purse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise OSError("nobody answers")

    monkeypatch.setattr(tracking.Tracked, "add", away)
    work = Work(purse.run, purse, RunParameters(), (TRAIN,))
    assert work.job(TRAIN, Config(steps=2), {}).metrics == {"total": 1}
    assert of_tensorboard(work.folder) == [(1, 0), (2, 1)]
    assert "the curve is not written (MLflow: nobody answers)" in caplog.text


def test_scores_and_the_verdict_are_told_once_whatever_their_names(
    home: Path, purse: Purse, tmp_path: Path
) -> None:
    tracking.conclude(purse.run.id, {}, {})  # of a run without a training: nothing
    with Curves(purse.pool, purse.run.id, tmp_path, {}):
        pass
    assert of_mlflow(purse.run).info.status == "KILLED", "no job was launched"
    for _ in range(2):
        tracking.conclude(purse.run.id, {"verdict": "no"}, {"held_out.CV(RMSE), %": 0.5})
    found = of_mlflow(purse.run)
    assert found.data.metrics == {"held_out.CVRMSE ": 0.5} and found.data.tags["verdict"] == "no"
    assert points(purse.run, "held_out.CVRMSE ") == [(0, 0.5)]
