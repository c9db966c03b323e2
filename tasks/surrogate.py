"""The steps of surrogate retraining, each safe to repeat: a resumed run finds what is done."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra import observations, registry, runs
from infra.errors import InputError
from infra.registry import ModelVersion
from infra.settings import settings
from jobs.contract import Artifact, JobResult, Resources
from jobs.surrogate.config import DriftConfig, EvaluateConfig, SimulateConfig, TrainConfig
from tasks import plan
from tasks.preferences import end_with_notice, local
from tasks.report import Notice
from tasks.run import Work
from tasks.surrogate_data import CHECKING, ENVIRONMENT, Given, Observed, exported
from tasks.surrogate_parameters import SurrogateParameters

FEWEST_FOR_DRIFT = 10
MOST_GENERATIONS = 1_000_003


class Need(BaseModel):
    """Whether to retrain, and why. `drift`: metrics of the test, None where it was not made."""

    retrain: bool
    reason: str
    drift: dict[str, float] | None = None


@task(name="find the champion", cache_policy=NO_CACHE)
def current_champion(work: Work) -> ModelVersion | None:
    """The version that this run goes on from, fixed at its first start; None for a first run."""
    name = work.parameters.name
    champion = registry.by_alias(name, "champion")
    found = champion.model_dump(exclude={"aliases"}) if champion else None
    pinned = runs.pin(work.pool, work.run, "champion", found)
    if pinned is not None and "fp32_kb" not in pinned["metrics"]:
        raise InputError(
            f"--name: {name!r} is no surrogate", "Take another --name for a new line of versions."
        )
    return ModelVersion.model_validate(pinned) if pinned else None


@task(name="decide", cache_policy=NO_CACHE)
def decide(work: Work, champion: ModelVersion | None, observed: Observed) -> Need:
    """Whether to retrain. Drift is told by the newest observations that are new to the champion."""
    parameters: SurrogateParameters = work.parameters
    if champion is None:
        return Need(retrain=True, reason="there is no champion yet")
    learnt = int(champion.metrics.get("last_observation", 0))
    new = observations.count(work.pool, parameters.name, learnt, observed.until)
    drift = None
    if new >= FEWEST_FOR_DRIFT:
        newest = exported(work, "newest", learnt, observed.until, parameters.window)
        drift = (
            local(work)
            .job(
                "drift",
                "surrogate.drift",
                DriftConfig(significance=parameters.drift_significance),
                {"champion": champion.uri, "observations": newest.uri},
                parameters.data_hours,
                CHECKING,
                ENVIRONMENT,
            )
            .metrics
        )
    if drift and drift["drifted"]:
        return Need(retrain=True, reason="the champion has drifted", drift=drift)
    if new >= settings().observation_threshold:
        return Need(retrain=True, reason=f"{new} observations are new", drift=drift)
    if parameters.retrain == "always":
        return Need(retrain=True, reason="it was asked for", drift=drift)
    return Need(retrain=False, reason=f"{new} observations are new, no drift", drift=drift)


def nothing_to_learn(work: Work, need: Need) -> Notice:
    """End a run that need not retrain."""
    text = f"# {work.parameters.name}: no need to retrain\n\nNothing was trained: {need.reason}.\n"
    return end_with_notice(work, text, nothing=True)


def generation(work: Work) -> int:
    """How many versions there were when this run began: each draws designs of its own."""
    versions = len(registry.versions(work.parameters.name))
    return runs.pin(work.pool, work.run, "generation", versions)


def simulation_seed(seed: int, generation: int) -> int:
    """Another one for each pair: the same designs would lie in other parts in another version."""
    return seed * MOST_GENERATIONS + generation


@task(name="simulate", cache_policy=NO_CACHE)
def simulate_designs(work: Work, given: Given) -> Artifact:
    """New designs in new climates, simulated."""
    parameters: SurrogateParameters = work.parameters
    result = work.job(
        "simulate",
        "surrogate.simulate",
        SimulateConfig(
            designs=parameters.training.designs,
            climates=parameters.training.climates,
            seed=simulation_seed(parameters.seed, generation(work)),
        ),
        {"weather": given.weather.uri} if given.weather else {},
        parameters.data_hours,
        resources(parameters),
        ENVIRONMENT,
    )
    return result.artifacts["simulated"]


@task(name="train", cache_policy=NO_CACHE)
def train_candidate(
    work: Work, champion: ModelVersion | None, simulated: Artifact, observed: Observed
) -> tuple[ModelVersion, Artifact]:
    """A trained, calibrated and exported candidate, registered; and the held-out designs."""
    parameters: SurrogateParameters = work.parameters
    config = TrainConfig(
        seed=parameters.seed, generation=generation(work), **parameters.training.model_dump()
    )
    inputs = {"simulated": simulated.uri} | champion_input(champion)
    if observed.artifact is not None and config.real_share > 0:
        inputs["observations"] = observed.artifact.uri
    result = work.job(
        "train",
        "surrogate.train",
        config,
        inputs,
        parameters.hours,
        resources(parameters),
        ENVIRONMENT,
    )
    artifact = result.artifacts["candidate"]
    learnt = observed.until if "observations" in inputs else 0
    candidate = ModelVersion(
        model=parameters.name,
        version="",
        uri=artifact.uri,
        sha256=artifact.sha256,
        base=artifact.uri,
        metrics=result.metrics | {"last_observation": float(learnt)},
        parent=champion.version if champion else None,
        data=simulated.sha256,
    )
    return registry.register(work.run.id, candidate), result.artifacts["held_out"]


@task(name="validate", cache_policy=NO_CACHE)
def evaluate_candidate(
    work: Work, champion: ModelVersion | None, candidate: ModelVersion, held_out: Artifact
) -> JobResult:
    """Candidate, champion and handbook on the same held-out designs."""
    return work.job(
        "validate",
        "surrogate.evaluate",
        EvaluateConfig(generation=generation(work)),
        {"candidate": candidate.uri, "held_out": held_out.uri} | champion_input(champion),
        work.parameters.deploy_hours,
        CHECKING,
        ENVIRONMENT,
    )


def champion_input(champion: ModelVersion | None) -> dict[str, str]:
    """The champion as a job's input, where there is one."""
    return {"champion": champion.uri} if champion else {}


def resources(parameters: SurrogateParameters) -> Resources:
    """What simulating and training ask for."""
    return Resources(cpus=parameters.cpus, memory_gb=2)


def plan_retraining(parameters: SurrogateParameters) -> list[plan.Step]:
    """The jobs of one retraining, each with its window and its price at most."""
    here: list[str] = []
    if parameters.observations:
        here.append("collect")
    here.append("drift (with new observations)")
    rest = [
        ("simulate", resources(parameters), parameters.data_hours),
        ("train", resources(parameters), parameters.hours),
        ("validate", CHECKING, parameters.deploy_hours),
    ]
    return [
        *(plan.step(name, ENVIRONMENT, CHECKING, parameters.data_hours, "local") for name in here),
        *(plan.step(n, ENVIRONMENT, r, hours, parameters.target) for n, r, hours in rest),
    ]
