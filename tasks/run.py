"""The frame of every run: begun or taken up again, alone at its work, paid from one purse."""

import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field

from infra import database, runs
from infra.database import Pool
from infra.errors import (
    GateError,
    InputError,
    IntegrityError,
    JobError,
    LaunchError,
    NightshiftError,
    ProviderUnavailable,
)
from infra.objects import check_writable
from infra.runs import Run
from infra.settings import settings
from jobs.contract import JobResult, JobSpec, Resources
from tasks import crashed
from tasks.launch import run_job
from tasks.progress import Watch
from tasks.purse import Purse, Target, fill
from tasks.reconcile import reconcile, run_lock

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
NOT_IDENTITY = {"max_cost", "target"}
"""Parameters that may change between two starts of the same run."""


class RunParameters(BaseModel):
    """What the parameters of every flow that costs money begin with."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    max_cost: Decimal = Field(
        default=Decimal(20),
        ge=0,
        max_digits=12,
        decimal_places=4,
        title="Largest cost",
        description="Dollars that this run may cost in all, retries included.",
    )
    target: Target = Field(
        default="local",
        title="Target",
        description="Where jobs run: this machine, SkyPilot, or whichever is cheaper.",
    )


@dataclass(frozen=True)
class Work:
    """A run at work."""

    run: Run
    purse: Purse
    parameters: Any

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

    def job(
        self,
        step: str,
        name: str,
        config: BaseModel,
        inputs: dict[str, str],
        max_hours: float,
        resources: Resources,
        environment: str = "train",
    ) -> JobResult:
        """Have the program `jobs.<name>` done as `step` of this run, once."""
        spec = JobSpec(
            name=name,
            environment=environment,
            config=config.model_dump(mode="json"),
            inputs=inputs,
            output=f"{self.uri}/{step}",
            resources=resources,
            max_hours=max_hours,
            key=f"{self.run.id}/{step}",
        )
        return run_job(spec, self.purse, Watch(step))


@contextmanager
def begin(
    flow: str,
    parameters: RunParameters,
    checksums: dict[str, str],
) -> Iterator[Work]:
    """Begin a run, or take up the one that a killed process began with the same identity.

    The identity is made of the parameters and the `checksums` of the files they name. First the
    object store must take what the run will make, and what dead processes left is put right. An
    error that is final closes the run as failed.
    """
    check_writable(settings().objects_uri)
    pool = database.pool()
    identity = parameters.model_dump(mode="json", exclude=NOT_IDENTITY) | {"files": checksums}
    run = runs.begin(pool, flow, identity)
    with run_lock(run.id):
        killed = runs.attend(pool, run, flow_run.id)
        if killed not in (None, flow_run.id):
            crashed.tell(run.id, flow, killed)
        reconcile(pool, run.id)
        log.info("%s %s", "taking up" if run.resumed else "beginning", run.id)
        try:
            purse = fill(Purse(pool, run, parameters.target, flow_run.id), parameters.max_cost)
            yield Work(run, purse, parameters)
        except ProviderUnavailable:
            raise
        except FINAL:
            runs.end(pool, run, "failed")
            raise
        finally:
            with contextlib.suppress(psycopg.Error):
                runs.attend(pool, run, None)
