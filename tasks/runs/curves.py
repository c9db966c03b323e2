"""The curve of a training where people look for it: as a run of MLflow, and in TensorBoard's files.

The points are the job's progress, each step once. They are a courtesy: what keeps them from being
written is told in the log, and ends no training.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.compute import jobs
from infra.contract import Progress
from infra.database import Pool
from infra.models import tracking
from tasks.runs import offers

log = logging.getLogger("nightshift")

TRAINING = "train"
"""The step of every flow whose progress is a learning curve."""
FOLDER = "tensorboard"
"""Of event files, beside the report."""
SECONDS_BETWEEN = 10


def curve(pool: Pool, run_id: str) -> list[Progress]:
    """The learning curve of a run, as far as its training has come."""
    job = jobs.find(pool, f"{run_id}/{TRAINING}")
    return offers.launchers("auto")[job.launcher].progress(job.key) if job else []


class Curves:
    """Called with each new progress of a run's training; as a context it begins and closes both.

    `folder`: of the run's report; `parameters`: what MLflow shows beside the curve.
    """

    def __init__(self, pool: Pool, run_id: str, folder: Path, parameters: dict[str, str]) -> None:
        self.pool = pool
        self.run_id = run_id
        self.folder = folder / FOLDER
        self.parameters = parameters
        self.looked = -SECONDS_BETWEEN
        self.written = -1
        self.mlflow: tracking.Tracked | None = None
        self.tensorboard: Any = None

    def __enter__(self) -> Self:
        from tensorboardX import SummaryWriter

        with courtesy("TensorBoard"):
            shutil.rmtree(self.folder, ignore_errors=True)  # written whole by who goes on
            self.tensorboard = SummaryWriter(str(self.folder), flush_secs=SECONDS_BETWEEN)
        with courtesy("MLflow"):
            self.mlflow = tracking.Tracked(self.run_id, self.parameters)
        return self

    def __call__(self, _: Progress) -> None:
        if time.monotonic() - self.looked >= SECONDS_BETWEEN:
            self.looked = time.monotonic()
            self._write()

    def __exit__(
        self, _kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._write()
        if self.tensorboard:
            self.tensorboard.close()
        with courtesy("MLflow"):
            job = jobs.find(self.pool, f"{self.run_id}/{TRAINING}")
            tracking.end(self.run_id, job.state if job else "interrupted")

    def _write(self) -> None:
        points: list[Progress] = []
        with courtesy("the progress"):
            points = curve(self.pool, self.run_id)
        if self.mlflow:
            with courtesy("MLflow"):
                self.mlflow.add(points)
        if self.tensorboard:
            with courtesy("TensorBoard"):
                self._add(points)

    def _add(self, points: list[Progress]) -> None:
        for point in points:
            if point.step > self.written:
                self.written = point.step
                for name, value in point.metrics.items():
                    self.tensorboard.add_scalar(name, value, point.step, point.time)


@contextmanager
def courtesy(what: str) -> Iterator[None]:
    """Tell what goes wrong, and go on: no training ends for its curve."""
    try:
        yield
    except Exception as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("the curve is not written (%s: %s)", what, told)
