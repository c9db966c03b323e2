"""The curves of trainings as runs of MLflow, beside its registry on our PostgreSQL; no server.

One MLflow run for each run of ours that trains, in the experiment of its flow, found by a tag. A
step is logged once: what is done again after a kill keeps its first point, as MLflow deletes none.
"""

import re
from collections.abc import Iterable
from typing import Any

from infra.contract import Progress
from infra.models.connection import client
from infra.records.runs import flow_of

TAG = "nightshift.run"
MOST = 1000
"""Metrics that MLflow takes at once; of parameters a tenth."""
REFUSED = re.compile(r"[^\w. /:-]")
"""What MLflow takes in no name of a metric."""
STATUS = {"succeeded": "FINISHED", "failed": "FAILED", "stopped": "KILLED", "interrupted": "KILLED"}
"""What MLflow calls the states of a job."""


class Tracked:
    """The MLflow run of our run `run`: begun, or the one that a killed process left, going on."""

    def __init__(self, run: str, parameters: dict[str, str]) -> None:
        self._client = client()  # before anything of MLflow is imported: it says what is logged
        from mlflow.entities import Param

        found = _find(run)
        if found is None:
            flow = flow_of(run)
            tags = {TAG: run, "mlflow.runName": run, "mlflow.source.name": f"nightshift run {flow}"}
            made = self._client.create_run(_experiment(flow), tags=tags)
            self.id, self.newest = made.info.run_id, -1
        else:
            self.id = found.info.run_id
            self._client.update_run(self.id, status="RUNNING")
            self.newest = max(
                (point.step for name in found.data.metrics for point in self._history(name)),
                default=-1,
            )
        told = [Param(name, value) for name, value in parameters.items()]
        for begin in range(0, len(told), MOST // 10):
            self._client.log_batch(self.id, params=told[begin : begin + MOST // 10])

    def add(self, points: Iterable[Progress]) -> None:
        """Log the metrics of those that are newer than what is there."""
        from mlflow.entities import Metric

        new = [point for point in points if point.step > self.newest]
        metrics = [
            Metric(name, value, round(point.time * 1000), point.step)
            for point in new
            for name, value in point.metrics.items()
        ]
        for begin in range(0, len(metrics), MOST):
            self._client.log_batch(self.id, metrics=metrics[begin : begin + MOST])
        self.newest = max([self.newest, *(point.step for point in new)])

    def _history(self, name: str) -> list[Any]:
        return self._client.get_metric_history(self.id, name)


def end(run: str, state: str) -> None:
    """Close the MLflow run of ours, where there is one, as its training's job has ended; `state` is
    the job's, and nothing is done while it runs."""
    found = _find(run) if state in STATUS else None
    if found is not None and found.info.status == "RUNNING":
        client().set_terminated(found.info.run_id, STATUS[state])


def conclude(run: str, tags: dict[str, str], scores: dict[str, float]) -> None:
    """Add to the MLflow run what was found in the end: the verdict, and held-out scores."""
    found = _find(run)
    if found is None:
        return
    from mlflow.entities import Metric, RunTag

    at = found.info.end_time or found.info.start_time  # the same, however often it is told
    client().log_batch(
        found.info.run_id,
        metrics=[Metric(REFUSED.sub("", name), value, at, 0) for name, value in scores.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def _find(run: str) -> Any:
    known = client().get_experiment_by_name(flow_of(run))
    if known is None:
        return None
    found = client().search_runs([known.experiment_id], f"tags.`{TAG}` = '{run}'", max_results=1)
    return found[0] if found else None


def _experiment(flow: str) -> str:
    """The id of the flow's experiment, which another process may make at the same time."""
    known = client().get_experiment_by_name(flow)
    if known is not None:
        return known.experiment_id
    from mlflow.exceptions import MlflowException

    try:
        return client().create_experiment(flow)
    except MlflowException:
        known = client().get_experiment_by_name(flow)
        if known is None:
            raise
        return known.experiment_id
