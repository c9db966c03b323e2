"""The steps of federated rounds, each safe to repeat: a resumed run finds what is done."""

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra import objects
from infra.compute import jobs
from infra.contract import JobResult, Resources, Stored
from infra.errors import InputError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import privacy, runs
from jobs.federated.config import FederatedConfig
from jobs.federated.door import cannot_open
from tasks.champions.candidate import champion_input, read_lines, require_kind
from tasks.federated import KIND
from tasks.federated.inputs import Given
from tasks.federated.parameters import FederatedParameters, Ranges
from tasks.federated.spending import ENVIRONMENT, protected, require_privacy
from tasks.policy import champion as policy
from tasks.policy import design
from tasks.runs.plan import Step
from tasks.runs.run import Work

TRAIN = Step[FederatedParameters](
    "train",
    "federated.train",
    ENVIRONMENT,
    lambda p: p.hours,
    lambda p: Resources(cpus=1, memory_gb=4 if p.model or p.group else 2),
    here=True,
    remark=lambda p: protected(p.rounds, p.privacy),
)
STEPS = (replace(design.BASE, planned=lambda p: p.model == design.DEMO), TRAIN)
REMEDY = "Train it as it is, or take another --name for a new line of versions."
MODEL, ADAPTER = "model.json", "adapter/adapter_config.json"
"""What a version says of itself: a table's, a language model's."""


@task(name="complete inputs", cache_policy=NO_CACHE)
def complete_inputs(work: Work[FederatedParameters], given: Given) -> Given:
    """Make the demo's language model where it is wanted, once."""
    if given.language is None or given.language.design is None:
        return given
    return given.model_copy(update={"language": design.with_design(work, given.language)})


def current_champion(work: Work[FederatedParameters], given: Given) -> ModelVersion | None:
    """The version that the tenants go on from: of a language model the base, where nothing was
    trained yet; of a table None."""
    if not given.language:
        return _table_champion(work, given)
    champion = policy.current_champion(work, given.language)
    if champion_input(champion):
        require_rank(champion, work.parameters.adapters.lora_rank)
    return champion


def require_rank(champion: ModelVersion, rank: int) -> None:
    """Raises InputError where the champion's adapter has another rank than the run's."""
    found = _read(champion, ADAPTER)["r"]
    if found != rank:
        raise InputError(
            f"--lora-rank: the champion's adapter has rank {found}, not {rank}",
            f"Give --lora-rank {found}, or take another --name for a new line of versions.",
        )


@task(name="find the champion", cache_policy=NO_CACHE)
def _table_champion(work: Work[FederatedParameters], given: Given) -> ModelVersion | None:
    """The version that the tenants go on from, fixed at the first start; None for a first run.

    Raises InputError where it is another kind of model, or has other columns or hidden units.
    """
    champion = registry.by_alias(work.parameters.name, "champion")
    found = champion.model_dump(exclude={"aliases"}) if champion else None
    pinned = runs.pin(work.pool, work.run, "champion", found)
    if pinned is None:
        if not given.features:
            raise InputError(
                "--features: nothing is known of the tenants' columns, and there is no champion",
                "Name the columns to predict from.",
            )
        work.parameters.scales(given.features)
        return None
    version = ModelVersion.stored(pinned)
    require_kind(version, KIND)
    told, asked = _read(version, MODEL), work.parameters
    require_target(told, asked)
    if asked.features and sorted(told["features"]) != sorted(given.features):
        names = ", ".join(told["features"])
        raise InputError(f"--features: the champion was trained on {names}", REMEDY)
    if told["hidden"] != asked.rounds.hidden:
        raise InputError(f"--hidden: the champion has {told['hidden']} hidden units", REMEDY)
    require_ranges(told.get("ranges"), asked.scales(told["features"]))
    return version


def require_target(told: dict[str, Any], asked: FederatedParameters) -> None:
    """Raises InputError where the champion, which tells this of itself, predicts another label, or
    holds other groups together."""
    if told.get("group") != asked.group:
        what = f"an encoder of groups by {told['group']!r}" if "group" in told else "no encoder"
        raise InputError(f"--group: the champion is {what}", REMEDY)
    if asked.group and told["dimensions"] != asked.encoders.dimensions:
        raise InputError(
            f"--dimensions: the champion's vectors have {told['dimensions']} dimensions", REMEDY
        )
    if not asked.group and told["label"] != asked.label:
        raise InputError(f"--label: the champion predicts {told['label']!r}", REMEDY)


def require_ranges(had: list[list[float]] | None, wanted: Ranges | None) -> None:
    """Raises InputError where the champion's inputs are scaled otherwise than the run's."""
    if had != (wanted and [list(each) for each in wanted]):
        how = "by other ranges" if had else "by each tenant's own rows, without any"
        raise InputError(
            f"--ranges: the champion's inputs are scaled {how}",
            "Scale them alike, or take another --name for a new line of versions.",
        )


def _read(version: ModelVersion, file: str) -> dict[str, Any]:
    """What the champion says of itself in that file of its folder."""
    with TemporaryDirectory() as scratch:
        folder = objects.get(version.uri, Path(scratch) / "model", version.sha256)
        return json.loads((folder / file).read_text())


@task(name="train", cache_policy=NO_CACHE)
def train_together(
    work: Work[FederatedParameters], champion: ModelVersion | None, given: Given
) -> JobResult:
    """The rounds, on this machine; what they release of each tenant is written down before.

    Raises InputError before anything costs money where the address of the federation is taken, or
    too few tenants have privacy left.
    """
    parameters = work.parameters
    names = runs.pin(work.pool, work.run, "tenants", given.names)
    inputs: dict[str, Stored] = {}
    if given.language and champion:
        inputs = {**champion_input(champion), **given.language.some("base")}
    elif champion:
        inputs = {"champion": champion}
        given = given.model_copy(update={"features": _read(champion, MODEL)["features"]})
    private = parameters.privacy.noise_multiplier > 0
    before = privacy.spent_before(work.pool, work.run.id, names)
    config = FederatedConfig(
        tenants=given.folder,
        door=given.door,
        address=given.address,
        names=names,
        features=given.features,
        label=parameters.label,
        group=parameters.group or "",
        ranges=parameters.scales(given.features),
        model=parameters.model or "",
        adapters=parameters.adapters,
        encoders=parameters.encoders,
        seed=parameters.seed,
        centralised=parameters.centralised,
        rounds=parameters.rounds,
        privacy=parameters.privacy,
        spent=runs.pin(work.pool, work.run, "releases", before if private else {}),
    )
    if jobs.find(work.pool, f"{work.run.id}/{TRAIN.name}") is None:
        _require_free(given)
        if private:
            require_privacy(config)
    if private:
        releases = config.spends(config.rounds.rounds).model_dump()
        privacy.reserve(work.pool, work.run.id, parameters.name, names, releases)
    if given.door:
        result = work.job(TRAIN, config, inputs, writes=[given.door])
    else:
        result = work.job(TRAIN, config, inputs, [given.folder])
    for row in read_lines(result.artifacts["privacy"]):
        privacy.settle(work.pool, work.run.id, row["tenant"], row["rounds"])
    return result


def _require_free(given: Given) -> None:
    """Raises InputError where something else listens on the federation's address."""
    if given.address is not None and (reason := cannot_open(given.address)):
        raise InputError(
            f"--federation: {reason}",
            "End what listens there, perhaps another run of the same federation.",
        )


@task(name="register", cache_policy=NO_CACHE)
def register_candidate(
    work: Work[FederatedParameters], champion: ModelVersion | None, trained: JobResult
) -> ModelVersion:
    """What the tenants have trained, as challenger."""
    artifact = trained.artifacts["candidate"]
    version = ModelVersion(
        model=work.parameters.name,
        kind=champion.kind if champion else KIND,
        version="",
        uri=artifact.uri,
        sha256=artifact.sha256,
        base=champion.base if champion and work.parameters.model else artifact.uri,
        metrics=trained.metrics,
        parent=champion.version if champion else None,
    )
    return registry.register(work.run.id, version)
