"""The frame of every run: begun or taken up again, alone at its work, paid from one purse."""

import contextlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import psycopg
from prefect.runtime import flow_run
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

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
LARGEST = 2**53
"""Whole numbers up to it are the same in every JSON; Prefect's server fails at those of 65 bits."""


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

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        """Of every number, those of nested models too."""
        if faults := list(_faults(self.model_dump())):
            raise ValidationError.from_exception_data(type(self).__name__, faults)
        return self


def _faults(value: Any, where: tuple[str, ...] = ()) -> Iterator[InitErrorDetails]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _faults(inner, (*where, name))
    elif isinstance(value, float) and not math.isfinite(value):
        yield InitErrorDetails(type="finite_number", loc=where, input=value)
    elif isinstance(value, int) and abs(value) > LARGEST:
        message = "Input should be a whole number up to {most}"
        kind = PydanticCustomError("too_large", message, {"most": LARGEST})
        yield InitErrorDetails(type=kind, loc=where, input=value)


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
