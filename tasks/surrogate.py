"""The steps of surrogate retraining, each safe to repeat: a resumed run finds what is done."""

import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel

from infra import objects, observations, registry, runs, verdicts
from infra.errors import InputError
from infra.registry import ModelVersion
from infra.settings import settings
from infra.verdicts import Check, Verdict
from jobs.contract import Artifact, JobResult, Resources
from jobs.surrogate.config import (
    CollectConfig,
    DriftConfig,
    EvaluateConfig,
    SimulateConfig,
    TrainConfig,
)
from tasks import announce, plan
from tasks import observations as buffer
from tasks.gate import at_most, paired_interval
from tasks.inputs import store
from tasks.preferences import end_with_notice, local
from tasks.report import Notice
from tasks.run import Work
from tasks.surrogate_parameters import ObservationParameters, SurrogateParameters

ENVIRONMENT = "surrogate"
CHECKING = Resources(cpus=1, memory_gb=2)
LOADS = 4
"""Heating and cooling of both rooms: the first of config.TARGETS, and what accuracy is about."""
FEWEST_FOR_DRIFT = 10
HANDBOOK = "handbook"
"""What a first version must beat: the loads by degree hours."""


class Given(BaseModel):
    """The stored files of a run."""

    weather: Artifact | None = None
    observations: Artifact | None = None

    @property
    def checksums(self) -> dict[str, str]:
        """Name → sha256: what makes two starts the same run."""
        return {n: v.sha256 for n, v in dict(self).items() if v is not None}


class Observed(BaseModel):
    """The buffer as this run sees it: `artifact` is None where there are too few to learn from."""

    until: int
    count: int
    artifact: Artifact | None


class Need(BaseModel):
    """Whether to retrain, and why. `drift`: metrics of the test, None where it was not made."""

    retrain: bool
    reason: str
    drift: dict[str, float] | None = None


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: SurrogateParameters) -> Given:
    """Check that what the user named is there and store it; nothing is spent."""
    weather = None
    if parameters.weather is not None:
        path = Path(parameters.weather).expanduser()
        if not path.is_file():
            raise InputError(f"--weather: there is no file {path}", "Give an EPW file.")
        weather = store(path, "weather")
    return Given(weather=weather, observations=_stored_observations(parameters))


@task(name="prepare observations", cache_policy=NO_CACHE)
def prepare_observations(parameters: ObservationParameters) -> Given:
    """The same for files of observations alone, which must be there."""
    stored = _stored_observations(parameters)
    if stored is None:
        raise InputError(
            "--observations: no folder was given", "Give a folder of CSV or Parquet files."
        )
    return Given(observations=stored)


def _stored_observations(parameters: ObservationParameters) -> Artifact | None:
    if parameters.observations is None:
        return None
    folder = Path(parameters.observations).expanduser()
    if not folder.is_dir() or not [*folder.glob("*.csv"), *folder.glob("*.parquet")]:
        raise InputError(
            f"--observations: {folder} is no folder with CSV or Parquet files",
            "Give a folder of them, one measured building-year each.",
        )
    return store(folder, "observations")


def _checked(work: Work, given: Given, minimum: int) -> list[dict[str, float]]:
    """The rows of the user's files, which are checked where they lie, in seconds."""
    inputs = {"weather": given.weather, "files": given.observations}
    uris = {name: artifact.uri for name, artifact in inputs.items() if artifact is not None}
    if not uris:
        return []
    result = local(work).job(
        "collect",
        "surrogate.collect",
        CollectConfig(minimum=minimum),
        uris,
        work.parameters.data_hours,
        CHECKING,
        ENVIRONMENT,
    )
    found = result.artifacts.get("observations")
    return read_lines(found) if found else []


@task(name="collect", cache_policy=NO_CACHE)
def collect_observations(work: Work, given: Given) -> Observed:
    """Check the files, store what they hold, and fix which observations this run learns from."""
    parameters: SurrogateParameters = work.parameters
    rows = _checked(work, given, parameters.minimum_observations)
    observations.add(work.pool, parameters.name, rows)  # no event: this run learns from them
    until = observations.newest(work.pool, parameters.name)
    until = runs.pin(work.pool, work.run, "observations_until", until)
    count = observations.count(work.pool, parameters.name, 0, until)
    enough = count >= parameters.minimum_observations
    artifact = _exported(work, "observations", 0, until) if enough else None
    return Observed(until=until, count=count, artifact=artifact)


@task(name="store observations", cache_policy=NO_CACHE)
def store_observations(work: Work, given: Given) -> Notice:
    """Check files and store what they hold for a later retraining."""
    name = work.parameters.name
    rows = _checked(work, given, 1)
    new = buffer.take(work.pool, name, rows)
    total = observations.count(work.pool, name, 0, observations.newest(work.pool, name))
    text = (
        f"# {name}: observations\n\n{len(rows)} building-years were checked, {new} of them are "
        f"new. {total} are stored.\n\n`nightshift run surrogate-retraining --name {name}` learns "
        "from them.\n"
    )
    return end_with_notice(work, text)


def _exported(work: Work, name: str, after: int, until: int, most: int | None = None) -> Artifact:
    """Stored observations as an artefact of this run."""
    uri = f"{work.uri}/{name}"
    if not objects.exists(uri):
        path = work.folder / f"{name}.jsonl"
        observations.export(work.pool, work.parameters.name, path, after, until, most)
        objects.put(path, uri)
    return objects.describe(uri)


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
        newest = _exported(work, "newest", learnt, observed.until, parameters.window)
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
            seed=parameters.seed + generation(work),
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


@task(name="judge", cache_policy=NO_CACHE)
def judge_candidate(
    work: Work, champion: ModelVersion | None, candidate: ModelVersion, evaluation: JobResult
) -> Verdict:
    """The verdict, stored before anything moves."""
    rows = read_lines(evaluation.artifacts["evaluation"])
    verdict = judge(rows, evaluation.metrics, champion is not None, work.parameters)
    against = champion.version if champion else "none"
    verdicts.save(work.pool, work.run, candidate.model, candidate.version, against, verdict)
    announce.judged("surrogate", candidate, against, verdict)
    return verdict


def judge(
    rows: list[dict[str, Any]],
    metrics: dict[str, float],
    has_champion: bool,
    parameters: SurrogateParameters,
) -> Verdict:
    """Compare a candidate with the champion, a first one with the handbook, by climates."""
    gate, confidence = parameters.gate, parameters.training.confidence
    other = "champion" if has_champion else HANDBOOK
    gain, low, high = paired_interval(
        accuracies(rows, "candidate"), accuracies(rows, other), gate.gate_confidence
    )
    coverage = metrics["candidate_coverage"]
    checks = [
        Check(
            name="gain",
            passed=low > gate.minimum_gain,
            value=low,
            limit=gate.minimum_gain,
            explanation=f"accuracy {gain:+.4f} over the {other}, {gate.gate_confidence:.0%} "
            f"interval {low:+.4f} to {high:+.4f}, lower end must be above {gate.minimum_gain:+.4f}",
        ),
        at_most("error of the loads", metrics["candidate_error"], gate.max_error, "of their mean"),
        at_most(
            f"coverage {coverage:.1%}, off {confidence:.0%} by",
            abs(coverage - confidence),
            gate.max_coverage_gap,
            "",
        ),
        at_most("energy imbalance", metrics["candidate_balance"], gate.max_imbalance, "of designs"),
        at_most("broken physics", metrics["candidate_broken"], gate.max_broken, "of designs"),
    ]
    if "champion_old_error" in metrics:
        ratio = metrics["candidate_old_error"] / metrics["champion_old_error"]
        limit = gate.max_old_error_ratio
        checks.append(at_most("error on earlier climates", ratio, limit, "× the champion's"))
    return Verdict(
        promote=all(check.passed for check in checks),
        gain=gain,
        confidence_interval=(low, high),
        checks=checks,
    )


def accuracies(rows: list[dict[str, Any]], side: str) -> list[float]:
    """1 − error of the measured loads over their mean in all rows, for each climate by itself.

    Designs in one climate err together, so climates are what the bootstrap draws.
    """
    loads = [[v for v in row["truth"][:LOADS] if v is not None] for row in rows]
    known = [value for each in loads for value in each]
    scale = sum(known) / len(known)
    errors: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        pairs = zip(row[side]["mean"][:LOADS], row["truth"][:LOADS], strict=True)
        differences = [abs(mean - truth) for mean, truth in pairs if truth is not None]
        errors[row["climate"]].append(sum(differences) / len(differences))
    return [1 - sum(each) / len(each) / scale for each in errors.values()]


def champion_input(champion: ModelVersion | None) -> dict[str, str]:
    """The champion as a job's input, where there is one."""
    return {"champion": champion.uri} if champion else {}


def read_lines(artifact: Artifact) -> list[dict[str, Any]]:
    """The rows of an artefact of JSON lines, verified."""
    with TemporaryDirectory() as scratch:
        path = objects.get(artifact.uri, Path(scratch) / "lines", artifact.sha256)
        return [json.loads(line) for line in path.read_text().splitlines()]


def resources(parameters: SurrogateParameters) -> Resources:
    """What simulating and training ask for."""
    return Resources(cpus=parameters.cpus, memory_gb=2)


def plan_retraining(parameters: SurrogateParameters) -> list[plan.Step]:
    """The jobs of one retraining, each with its window and its price at most."""
    here: list[str] = []
    if parameters.observations or parameters.weather:
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


def plan_collecting(parameters: ObservationParameters) -> list[plan.Step]:
    """The one job of collecting."""
    return [plan.step("collect", ENVIRONMENT, CHECKING, parameters.data_hours, "local")]
