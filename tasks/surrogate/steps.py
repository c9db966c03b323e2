"""The steps of surrogate retraining, each safe to repeat: a resumed run finds what is done."""

from dataclasses import replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra.contract import Artifact, JobResult, Resources, Stored
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import observations, runs
from infra.settings import settings
from jobs.surrogate.config import DriftConfig, EvaluateConfig, SimulateConfig, TrainConfig
from tasks.champions.candidate import require_kind
from tasks.runs.notice import Notice, end_with_notice
from tasks.runs.plan import Step
from tasks.runs.run import Work
from tasks.surrogate import KIND
from tasks.surrogate.inputs import CHECKING, COLLECT, ENVIRONMENT, Given, Observed, exported
from tasks.surrogate.parameters import SurrogateParameters


def resources(parameters: SurrogateParameters) -> Resources:
    """What simulating and training ask for."""
    return Resources(cpus=parameters.cpus, memory_gb=2)


SurrogateStep = Step[SurrogateParameters]
DRIFT = SurrogateStep(
    "drift",
    "surrogate.drift",
    ENVIRONMENT,
    lambda p: p.data_hours,
    CHECKING,
    here=True,
    remark="with new observations",
)
SIMULATE = SurrogateStep(
    "simulate", "surrogate.simulate", ENVIRONMENT, lambda p: p.data_hours, resources
)
TRAIN = SurrogateStep("train", "surrogate.train", ENVIRONMENT, lambda p: p.hours, resources)
VALIDATE = SurrogateStep(
    "validate", "surrogate.evaluate", ENVIRONMENT, lambda p: p.deploy_hours, CHECKING
)
STEPS = (
    replace(COLLECT, planned=lambda p: p.observations is not None),
    DRIFT,
    SIMULATE,
    TRAIN,
    VALIDATE,
)
FEWEST_FOR_DRIFT = 10
MOST_GENERATIONS = 1_000_003


class Need(BaseModel):
    """Whether to retrain, and why. `drift`: metrics of the test, None where it was not made."""

    retrain: bool
    reason: str
    drift: dict[str, float] | None = None


@task(name="find the champion", cache_policy=NO_CACHE)
def current_champion(work: Work[Any], made_of: str | None = None) -> ModelVersion | None:
    """The version that this run goes on from, fixed at its first start; None for a first run. A
    town's first model goes on from none, but must be better than the champion of `made_of`."""
    champion = registry.by_alias(work.parameters.name, "champion")
    if champion is None and made_of is not None:
        champion = registry.by_alias(made_of, "champion")
    found = champion.model_dump(exclude={"aliases"}) if champion else None
    pinned = runs.pin(work.pool, work.run, "champion", found)
    if pinned is None:
        return None
    version = ModelVersion.stored(pinned)
    require_kind(version, KIND)
    return version


@task(name="decide", cache_policy=NO_CACHE)
def decide(
    work: Work[SurrogateParameters], champion: ModelVersion | None, observed: Observed
) -> Need:
    """Whether to retrain. Drift is told by the newest observations that are new to the champion."""
    parameters = work.parameters
    if champion is None or champion.model != parameters.name:
        return Need(retrain=True, reason="there is no champion yet")
    learnt = int(champion.metrics.get("last_observation", 0))
    new = observations.count(work.pool, parameters.name, learnt, observed.until)
    drift = None
    if new >= FEWEST_FOR_DRIFT:
        newest = exported(work, "newest", learnt, observed.until, parameters.window)
        config = DriftConfig(significance=parameters.drift_significance)
        given = {"champion": champion, "observations": newest}
        drift = work.job(DRIFT, config, given).metrics
    if drift and drift["drifted"]:
        return Need(retrain=True, reason="the champion has drifted", drift=drift)
    if new >= settings().observation_threshold:
        return Need(retrain=True, reason=f"{new} observations are new", drift=drift)
    if parameters.retrain == "always":
        return Need(retrain=True, reason="it was asked for", drift=drift)
    return Need(retrain=False, reason=f"{new} observations are new, no drift", drift=drift)


def nothing_to_learn(work: Work[SurrogateParameters], need: Need) -> Notice:
    """End a run that need not retrain."""
    text = f"# {work.parameters.name}: no need to retrain\n\nNothing was trained: {need.reason}.\n"
    return end_with_notice(work, text, nothing=True)


def generation(work: Work[SurrogateParameters]) -> int:
    """How many versions there were when this run began: each draws designs of its own."""
    versions = len(registry.versions(work.parameters.name))
    return runs.pin(work.pool, work.run, "generation", versions)


def simulation_seed(seed: int, generation: int) -> int:
    """Another one for each pair: the same designs would lie in other parts in another version."""
    return seed * MOST_GENERATIONS + generation


@task(name="simulate", cache_policy=NO_CACHE)
def simulate_designs(work: Work[SurrogateParameters], given: Given) -> Artifact:
    """New designs in new climates, simulated."""
    parameters = work.parameters
    result = work.job(
        SIMULATE,
        SimulateConfig(
            designs=parameters.training.designs,
            climates=parameters.training.climates,
            seed=simulation_seed(parameters.seed, generation(work)),
            town=parameters.town_of is not None,
        ),
        {"weather": given.weather} if given.weather else {},
    )
    return result.artifacts["simulated"]


@task(name="train", cache_policy=NO_CACHE)
def train_candidate(
    work: Work[SurrogateParameters],
    champion: ModelVersion | None,
    simulated: Artifact,
    observed: Observed,
) -> tuple[ModelVersion, Artifact]:
    """A trained, calibrated and exported candidate, registered; and the held-out designs."""
    parameters = work.parameters
    config = TrainConfig(
        seed=parameters.seed, generation=generation(work), **parameters.training.model_dump()
    )
    own = champion if champion and champion.model == parameters.name else None
    inputs = {"simulated": simulated} | champion_input(own)
    if observed.artifact is not None and config.real_share > 0:
        inputs["observations"] = observed.artifact
    result = work.job(
        TRAIN,
        config,
        inputs,
    )
    artifact = result.artifacts["candidate"]
    learnt = observed.until if "observations" in inputs else 0
    candidate = ModelVersion(
        model=parameters.name,
        kind=KIND,
        version="",
        uri=artifact.uri,
        sha256=artifact.sha256,
        base=artifact.uri,
        metrics=result.metrics | {"last_observation": float(learnt)},
        parent=own.version if own else None,
        data=simulated.sha256,
    )
    return registry.register(work.run.id, candidate), result.artifacts["held_out"]


@task(name="validate", cache_policy=NO_CACHE)
def evaluate_candidate(
    work: Work[SurrogateParameters],
    champion: ModelVersion | None,
    candidate: ModelVersion,
    held_out: Artifact,
    towns: Artifact | None,
) -> JobResult:
    """Candidate, champion and handbook on the same held-out designs, and in `towns`."""
    judged_in: dict[str, Stored] = {"towns": towns} if towns else {}
    return work.job(
        VALIDATE,
        EvaluateConfig(generation=generation(work)),
        {"candidate": candidate, "held_out": held_out} | champion_input(champion) | judged_in,
    )


def champion_input(champion: ModelVersion | None) -> dict[str, Stored]:
    """The champion as a job's input, where there is one."""
    return {"champion": champion} if champion else {}
