"""The version of a policy that a run starts from."""

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra import ledger, objects
from infra.contract import Artifact
from infra.errors import InputError
from infra.models import registry, verdicts
from infra.models.registry import ModelVersion
from infra.records import runs
from tasks.champions.candidate import require_kind
from tasks.champions.gate import first_version
from tasks.policy import KIND
from tasks.policy.inputs import Inputs
from tasks.runs.reconcile import is_dead
from tasks.runs.run import Work

BASE = "base"
"""Stands for the run of a version that no run has trained."""


@task(name="find the champion", cache_policy=NO_CACHE)
def current_champion(work: Work[Any], inputs: Inputs) -> ModelVersion:
    """The version that the night starts from: the base, where nothing was trained yet."""
    parameters = work.parameters
    base = inputs.base.uri if inputs.base else parameters.model
    champion = registry.by_alias(parameters.name, "champion")
    if champion is not None:
        require_kind(champion, KIND)
    stands_elsewhere = (
        champion is not None
        and champion.base != base
        and not _same_content(champion.base, inputs.base)
    )
    if champion is None or (stands_elsewhere and _is_untouched(work)):
        sha256 = inputs.base.sha256 if inputs.base else ""
        first = ModelVersion(
            model=parameters.name,
            kind=KIND,
            version="",
            uri=base,
            sha256=sha256,
            base=base,
            flow_run="",
        )
        champion = registry.register(BASE, first)
        verdicts.save(
            work.pool, work.run, champion.model, champion.version, "none", first_version()
        )
        registry.promote(champion.model, champion.version)
    elif stands_elsewhere:
        raise InputError(
            f"--model: the champion of {parameters.name!r} stands on {champion.base}",
            "Give the model that it stands on, or another --name for a new line of versions.",
        )
    pinned = runs.pin(work.pool, work.run, "champion", champion.model_dump(exclude={"aliases"}))
    return ModelVersion.stored(pinned)


def _is_untouched(work: Work[Any]) -> bool:
    """Whether nothing was trained of this name, and no other run trains it or has paid for that."""
    name = work.parameters.name
    if any(known.flow_run != BASE for known in registry.versions(name)):
        return False
    for other in runs.others_that_pinned(work.pool, work.run, "champion", {"model": name}):
        with is_dead(other, work.run.id) as dead:
            if not dead or ledger.charged(work.pool, f"run:{other}"):
                return False
    return True


def _same_content(uri: str, base: Artifact | None) -> bool:
    """Whether another base, which may be a hub id or gone, holds the same bytes."""
    if base is None or "://" not in uri or not objects.exists(uri):
        return False
    return objects.describe(uri).sha256 == base.sha256
