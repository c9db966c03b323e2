"""A candidate: registered when it is trained, deployed when it is promoted."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra import objects
from infra.contract import Artifact, JobResult, Stored
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.models.target import own_target
from tasks.champions import announce
from tasks.runs.run import Work


class Deployed(BaseModel):
    """What became of a candidate that the gate lets through: where it is served, and the report of
    its rollout, if there was one; or why it is `not_promoted`."""

    served_from: str | None = None
    rollout: str | None = None
    not_promoted: str | None = None


def require_kind(champion: ModelVersion, kind: str) -> None:
    """Raises InputError where what is registered under this name is another kind of model."""
    champion.require_kind(kind, "Take another --name for a new line of versions.")


def register_candidate(
    work: Work[Any], champion: ModelVersion, trained: JobResult, data: Artifact
) -> ModelVersion:
    """What a training made of the champion with `data`, as challenger."""
    artifact = trained.artifacts["candidate"]
    candidate = ModelVersion(
        model=champion.model,
        kind=champion.kind,
        version="",
        uri=artifact.uri,
        sha256=artifact.sha256,
        base=champion.base,
        metrics=trained.metrics,
        parent=champion.version,
        data=data.sha256,
    )
    return registry.challenge(registry.register(work.run.id, candidate))


@task(name="deploy", cache_policy=NO_CACHE)
def deploy_champion(candidate: ModelVersion) -> str:
    """Promote the candidate and hand it, verified, to the serving target; where it is served."""
    registry.promote(candidate.model, candidate.version)
    served = own_target().deploy(candidate)
    announce.promoted(candidate)
    return served


def champion_input(champion: ModelVersion) -> dict[str, Stored]:
    """The champion's adapter as a job's input; the base alone is none."""
    return {} if champion.uri == champion.base else {"champion": champion}


def read_lines(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of an artefact of JSON lines, verified."""
    with TemporaryDirectory() as scratch:
        path = objects.get(artifact.uri, Path(scratch) / "lines", artifact.sha256)
        return [json.loads(line) for line in path.read_text().splitlines()]
