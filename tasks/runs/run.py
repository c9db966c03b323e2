"""The frame of every run: begun or taken up again, alone at its work, paid from one purse."""

import contextlib
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic

import psycopg
import yaml
from prefect.runtime import flow_run
from pydantic import BaseModel

from infra import database
from infra.compute import jobs
from infra.contract import JobResult, JobSpec, Progress, Stored
from infra.database import Pool
from infra.errors import (
    AlreadyRunning,
    GateError,
    InputError,
    IntegrityError,
    JobError,
    LaunchError,
    NightshiftError,
    ProviderUnavailable,
)
from infra.objects import check_writable
from infra.records import runs
from infra.records.runs import Run
from infra.settings import settings
from tasks.runs import crashed
from tasks.runs.curves import FOLDER, TRAINING, Curves
from tasks.runs.launch import Watcher, run_job
from tasks.runs.plan import P, Step, plan, require_budget
from tasks.runs.progress import Watch
from tasks.runs.purse import Purse, fill
from tasks.runs.reconcile import reconcile, run_lock

log = logging.getLogger("nightshift")

FINAL: tuple[type[NightshiftError], ...] = (
    InputError,
    IntegrityError,
    JobError,
    LaunchError,
    GateError,
)
"""Errors after which the same run cannot go on, unless it is ProviderUnavailable; after any other
the next start continues it."""
CONFIG = "config.yaml"
"""Beside each report: what the run was told."""
NOT_IDENTITY = {"max_cost", "target", "rollout"}
"""Parameters that may change between two starts of the same run."""


@dataclass(frozen=True)
class Work(Generic[P]):
    """A run at work. P: the parameters of its flow."""

    run: Run
    purse: Purse
    parameters: P
    steps: tuple[Step[P], ...]

    @property
    def pool(self) -> Pool:
        return self.purse.pool

    @property
    def uri(self) -> str:
        """Where the artefacts of this run lie."""
        return f"{settings().objects_uri}/runs/{self.run.id}"

    @property
    def folder(self) -> Path:
        """A local folder for the report and for files on their way."""
        folder = settings().home / "runs" / self.run.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def same_again(self) -> str:
        """The command of a run with the same parameters."""
        return shlex.join(
            ["nightshift", "run", self.run.flow, "--config", str(self.folder / CONFIG)]
        )

    @property
    def tensorboard(self) -> str:
        """The command that shows its curves."""
        return shlex.join(["tensorboard", "--logdir", str(self.folder / FOLDER)])

    def job(
        self,
        step: Step[P],
        config: BaseModel,
        inputs: Mapping[str, Stored],
        reads: Sequence[str] = (),
        writes: Sequence[str] = (),
    ) -> JobResult:
        """Have a step of this run's flow done, once; it takes no other bytes than those given.

        `reads`: folders of this machine that a job here reads where they lie; `writes`: those that
        it also writes.
        """
        if step not in self.steps:
            raise ValueError(f"{step.name} is no step of {self.run.flow}: its plan lacks it")
        spec = JobSpec(
            name=step.program,
            environment=step.environment,
            config=config.model_dump(mode="json"),
            inputs={name: given.uri for name, given in inputs.items()},
            checksums={name: given.sha256 for name, given in inputs.items()},
            reads=list(reads),
            writes=list(writes),
            sandboxed=step.sandboxed,
            output=f"{self.uri}/{step.name}",
            resources=step.needs(self.parameters),
            max_hours=step.hours(self.parameters),
            key=f"{self.run.id}/{step.name}",
        )
        purse = replace(self.purse, target=step.target(self.parameters))
        with self._curves(step) as curves:
            known = jobs.find(self.pool, spec.key)
            if known is not None and known.state == "succeeded":
                log.info("%s: done before", step.name)
                return run_job(spec, purse)
            usual = jobs.usual_seconds(self.pool, spec.name, step.name)
            with Watch(step.name, spec.environment, spec.max_hours, usual) as watch:

                def see(progress: Progress) -> None:
                    watch(progress)
                    curves(progress)

                return run_job(spec, purse, see)

    def _curves(self, step: Step[P]) -> AbstractContextManager[Watcher]:
        """What writes the curve of a training; nothing of any other step."""
        if step.name != TRAINING:
            return contextlib.nullcontext(lambda _: None)
        told = self.parameters.model_dump(mode="json", exclude=NOT_IDENTITY)
        return Curves(self.pool, self.run.id, self.folder, dict(_dotted(told)))


def _dotted(values: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", str(value)


def _write_config(work: Work[Any]) -> None:
    """What the run was told, as `--config` takes it."""
    values = yaml.safe_dump(work.parameters.model_dump(mode="json"), sort_keys=False)
    (work.folder / CONFIG).write_text(f"# {work.same_again}\n{values}", "utf-8")


@contextmanager
def begin(
    flow: str,
    steps: tuple[Step[P], ...],
    parameters: P,
    checksums: dict[str, str],
) -> Iterator[Work[P]]:
    """Begin a run, or take up the one that a killed process began with the same identity.

    The identity is made of the parameters and the `checksums` of the files they name. First the
    object store must take what the run will make, each job of a new run must have a place that its
    budget can pay, and what dead processes left is put right. An error that is final closes the run
    as failed.
    """
    check_writable(settings().objects_uri)
    pool = database.pool()
    identity = parameters.model_dump(mode="json", exclude=NOT_IDENTITY) | {"files": checksums}
    if runs.begun(pool, flow, identity) is None:
        priced = [replace(step, remark="") for step in steps]  # a remark may take a second
        require_budget(plan(priced, parameters), parameters)
    run = runs.begin(pool, flow, identity)
    with run_lock(run.id):
        killed = runs.swap_flow_run(pool, run, flow_run.id)
        if killed not in (None, flow_run.id):
            crashed.report_crash(run.id, flow, killed)
        reconcile(pool, run.id)
        log.info("%s %s", "taking up" if run.resumed else "beginning", run.id)
        try:
            purse = fill(Purse(pool, run, parameters.target, flow_run.id), parameters.max_cost)
            work = Work(run, purse, parameters, steps)
            _write_config(work)
            yield work
        except AlreadyRunning:  # the run and its name are another process's now
            raise
        except BaseException as error:
            if isinstance(error, FINAL) and not isinstance(error, ProviderUnavailable):
                runs.end(pool, run, "failed")
            _clear_flow_run(pool, run, str(error) or type(error).__name__)
            raise
        _clear_flow_run(pool, run)


def _clear_flow_run(pool: Pool, run: Run, error: str | None = None) -> None:
    """Nobody works at the run any more."""
    with contextlib.suppress(psycopg.Error):
        runs.swap_flow_run(pool, run, None, error)
