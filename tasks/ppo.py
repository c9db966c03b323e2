"""The steps of the nightly PPO cycle, each safe to repeat: a resumed night finds what is done."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra import experience, ledger, objects, registry, runs, verdicts
from infra.errors import InputError
from infra.registry import ModelVersion
from infra.serving.target import own_target
from infra.settings import REPOSITORY, settings
from infra.verdicts import Verdict
from jobs.contract import LARGEST_SEED, Artifact, JobResult, Resources
from jobs.design.config import BaseModelConfig
from jobs.ppo.config import EvaluateConfig, PPOConfig, PreflightConfig, SampleConfig
from tasks import announce, plan
from tasks.gate import Measured, first_version, judge
from tasks.inputs import (
    Inputs,
    function_spec,
    store_function,
    store_model,
    store_prompts,
    store_reward,
)
from tasks.ppo_parameters import NightlyPPOParameters, PolicyParameters
from tasks.reconcile import is_dead
from tasks.run import Work

DESIGN = "design"
DESIGN_SOURCES = REPOSITORY / "jobs" / "design"
BASE = "base"
"""Stands for the run of a version that no run has trained."""
SUCCESS_OF_DESIGN = "jobs.design.reward:success"


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: NightlyPPOParameters) -> Inputs:
    """Check what the user gave and store it; nothing is spent. The demo's own comes later."""
    demo = DESIGN in (parameters.model, parameters.prompts)
    default = NightlyPPOParameters.model_fields["reward"].default
    reward = None if parameters.reward == default else parameters.reward
    inputs = Inputs(
        reward=store_reward(reward, parameters.reward_model),
        success=store_function("--success", parameters.success),
        design=design_version() if demo else None,
    )
    if parameters.prompts == DESIGN:
        if parameters.model != DESIGN:
            raise InputError(
                "--prompts: the demo's prompts are for the demo's model",
                "Give --prompts a file of JSON lines with a `prompt` each.",
            )
        return inputs
    with TemporaryDirectory() as scratch:
        prompts, held_out = store_prompts(parameters.prompts, parameters.held_out, Path(scratch))
    base = None if parameters.model == DESIGN else store_model(parameters.model)
    return inputs.model_copy(update={"base": base, "prompts": prompts, "held_out": held_out})


@task(name="complete inputs", cache_policy=NO_CACHE)
def complete_inputs(work: Work, inputs: Inputs) -> Inputs:
    """Make the demo's base and prompts where they are wanted, once; then try everything out."""
    parameters: NightlyPPOParameters = work.parameters
    if inputs.design:
        inputs = with_design(work, inputs)
    work.job(
        "preflight",
        "ppo.preflight",
        PreflightConfig(
            **_training_config(parameters, inputs).model_dump(),
            success=_success(parameters, inputs),
        ),
        inputs.uris("base", "prompts", "held_out", "reward", "success"),
        parameters.transfer_hours,
        resources(parameters),
    )
    return inputs


def design_version() -> str:
    """Of the demo's base and prompts: another config or other sources make others."""
    sources = {path.name: path.read_text() for path in DESIGN_SOURCES.glob("*.py")}
    made_by = json.dumps([BaseModelConfig().model_dump(), sources], sort_keys=True)
    return hashlib.sha256(made_by.encode()).hexdigest()[:16]


def with_design(work: Work, inputs: Inputs) -> Inputs:
    """The demo's base model and prompts, trained once and kept for every later night."""
    config = BaseModelConfig()
    kept = f"{settings().objects_uri}/datasets/design/{inputs.design}"
    made: dict[str, Artifact] = {}
    for part in ("model", "prompts", "held_out"):
        if not objects.exists(f"{kept}/{part}"):
            result = work.job(
                "base", "design.base", config, {}, work.parameters.transfer_hours, Resources(cpus=2)
            )
            with TemporaryDirectory() as scratch:
                copy = objects.get(result.artifacts[part].uri, Path(scratch) / part)
                objects.put(copy, f"{kept}/{part}")
        made[part] = objects.describe(f"{kept}/{part}")
    return inputs.model_copy(
        update={
            "base": made["model"],
            "prompts": inputs.prompts or made["prompts"],
            "held_out": inputs.held_out or made["held_out"],
        }
    )


@task(name="find the champion", cache_policy=NO_CACHE)
def current_champion(work: Work, inputs: Inputs) -> ModelVersion:
    """The version that the night starts from: the base, where nothing was trained yet."""
    parameters: NightlyPPOParameters = work.parameters
    base = inputs.base.uri if inputs.base else parameters.model
    champion = registry.by_alias(parameters.name, "champion")
    stands_elsewhere = (
        champion is not None
        and champion.base != base
        and not _same_content(champion.base, inputs.base)
    )
    if champion is None or (stands_elsewhere and _is_untouched(work)):
        sha256 = inputs.base.sha256 if inputs.base else ""
        first = ModelVersion(
            model=parameters.name, version="", uri=base, sha256=sha256, base=base, flow_run=""
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
    return ModelVersion.model_validate(pinned)


def _is_untouched(work: Work) -> bool:
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


@task(name="collect", cache_policy=NO_CACHE)
def collect_trajectories(work: Work, inputs: Inputs, champion: ModelVersion) -> Artifact:
    """The newest usable interactions; what they lack is sampled from the champion and stored."""
    parameters: NightlyPPOParameters = work.parameters
    pool, run = work.pool, work.run
    stale = parameters.ppo.max_staleness
    newest = int(champion.version)
    recent = [
        known.version
        for known in registry.versions(parameters.name)
        if 0 <= newest - int(known.version) <= stale and known.base == champion.base
    ]
    now = datetime.now(UTC)
    since = datetime.fromisoformat(runs.pin(pool, run, "now", now.isoformat())) - timedelta(
        hours=parameters.since_hours
    )
    usable = experience.count_usable(pool, run, parameters.name, recent, since)
    lacking = runs.pin(pool, run, "to_sample", max(0, parameters.trajectories - usable))
    if lacking:
        sampled = work.job(
            "collect",
            "ppo.sample",
            SampleConfig(
                model=parameters.model,
                reward=function_spec(parameters.reward_model or parameters.reward, inputs.reward),
                count=lacking,
                seed=_seed(work, champion),
                temperature=parameters.ppo.temperature,
                max_new_tokens=parameters.answer_tokens,
                model_version=champion.version,
            ),
            inputs.uris("base", "prompts", "reward") | _champion_input(champion),
            parameters.collect_hours,
            resources(parameters),
        )
        _store_sampled(work, champion, sampled.artifacts["trajectories"])
    experience.choose(pool, run, parameters.name, recent, since, parameters.trajectories)
    path = work.folder / "trajectories.jsonl.gz"
    experience.export(pool, run, path)
    return objects.put(path, f"{work.uri}/trajectories")


def _store_sampled(work: Work, champion: ModelVersion, artifact: Artifact) -> None:
    import gzip

    with TemporaryDirectory() as scratch:
        path = objects.get(artifact.uri, Path(scratch) / "sampled", artifact.sha256)
        with gzip.open(path, "rt") as stream:
            rows = [json.loads(line) for line in stream]
    for row in rows:
        personal = {k: row["columns"].pop(k) for k in experience.PERSONAL & set(row["columns"])}
        row["personal"] = personal if work.parameters.keep_personal else None
    experience.add_sampled(work.pool, work.run, champion.model, champion.version, rows)


@task(name="train", cache_policy=NO_CACHE)
def train_candidate(
    work: Work, inputs: Inputs, champion: ModelVersion, trajectories: Artifact
) -> ModelVersion:
    """A candidate from the stored trajectories and fresh rollouts, registered as challenger."""
    parameters: NightlyPPOParameters = work.parameters
    config = _training_config(parameters, inputs).model_copy(
        update={"seed": _seed(work, champion), "policy_version": champion.version}
    )
    result = work.job(
        "train",
        "ppo.train",
        config,
        inputs.uris("base", "prompts", "reward")
        | _champion_input(champion)
        | {"trajectories": trajectories.uri},
        parameters.hours,
        resources(parameters),
    )
    return register_candidate(work, champion, result, trajectories)


def register_candidate(
    work: Work, champion: ModelVersion, trained: JobResult, data: Artifact
) -> ModelVersion:
    """What a training made of the champion with `data`, as challenger."""
    artifact = trained.artifacts["candidate"]
    return registry.register(
        work.run.id,
        ModelVersion(
            model=champion.model,
            version="",
            uri=artifact.uri,
            sha256=artifact.sha256,
            base=champion.base,
            metrics=trained.metrics,
            parent=champion.version,
            data=data.sha256,
        ),
    )


@task(name="validate", cache_policy=NO_CACHE)
def evaluate_candidate(
    work: Work, inputs: Inputs, champion: ModelVersion, candidate: ModelVersion
) -> JobResult:
    """Candidate and champion on the same held-out prompts with the same decoding."""
    parameters: NightlyPPOParameters = work.parameters
    return work.job(
        "validate",
        "ppo.evaluate",
        EvaluateConfig(
            model=parameters.model,
            reward=function_spec(parameters.reward_model or parameters.reward, inputs.reward),
            success=_success(parameters, inputs),
            temperature=parameters.judge_temperature,
            max_new_tokens=parameters.answer_tokens,
            seed=parameters.seed,
        ),
        inputs.uris("base", "reward", "success")
        | {"prompts": inputs.uris("held_out")["held_out"]}
        | {"candidate": candidate.uri}
        | _champion_input(champion),
        parameters.deploy_hours,
        resources(parameters),
    )


def read_evaluation(evaluation: JobResult, name: str = "evaluation") -> list[dict[str, Any]]:
    """The rows of an evaluation, or of another of its artefacts, verified."""
    artifact = evaluation.artifacts[name]
    with TemporaryDirectory() as scratch:
        path = objects.get(artifact.uri, Path(scratch) / "evaluation", artifact.sha256)
        return [json.loads(line) for line in path.read_text().splitlines()]


@task(name="judge", cache_policy=NO_CACHE)
def judge_candidate(
    work: Work, champion: ModelVersion, candidate: ModelVersion, evaluation: JobResult
) -> Verdict:
    """The verdict, stored before anything moves."""
    rows = read_evaluation(evaluation)
    metrics = evaluation.metrics
    measured = {
        side: Measured(
            length=metrics[f"{side}_length"],
            invalid=metrics[f"{side}_invalid"],
            perplexity=metrics[f"{side}_perplexity"],
        )
        for side in ("candidate", "champion")
    }
    verdict = judge(
        [row["candidate"]["reward"] for row in rows],
        [row["champion"]["reward"] for row in rows],
        measured["candidate"],
        measured["champion"],
        metrics["kl"],
        work.parameters.gate,
    )
    verdicts.save(work.pool, work.run, champion.model, candidate.version, champion.version, verdict)
    announce.judged("policy", candidate, champion.version, verdict)
    return verdict


@task(name="deploy", cache_policy=NO_CACHE)
def deploy_champion(candidate: ModelVersion, kind: announce.Kind = "policy") -> str:
    """Promote the candidate and hand it, verified, to the serving target; where it is served."""
    registry.promote(candidate.model, candidate.version)
    served = own_target().deploy(candidate)
    announce.promoted(kind, candidate)
    return served


def resources(parameters: PolicyParameters) -> Resources:
    """What each job of a training asks for."""
    if parameters.accelerators is None:
        return Resources(cpus=1, memory_gb=4)
    kind, _, count = parameters.accelerators.partition(":")
    return Resources(cpus=4, memory_gb=16, accelerators={kind: int(count)})


def plan_night(parameters: NightlyPPOParameters) -> list[plan.Step]:
    """The jobs of one night, each with its window and its price at most."""
    steps = [
        ("preflight", parameters.transfer_hours),
        ("collect", parameters.collect_hours),
        ("train", parameters.hours),
        ("validate", parameters.deploy_hours),
    ]
    if DESIGN in (parameters.model, parameters.prompts):
        steps.insert(0, ("base (once)", parameters.transfer_hours))
    return [
        plan.step(name, "train", resources(parameters), hours, parameters.target)
        for name, hours in steps
    ]


def _training_config(parameters: NightlyPPOParameters, inputs: Inputs) -> PPOConfig:
    return PPOConfig(
        model=parameters.model,
        reward=function_spec(parameters.reward_model or parameters.reward, inputs.reward),
        max_new_tokens=parameters.answer_tokens,
        seed=parameters.seed,
        minutes=parameters.hours * 60 * 0.9,
        **parameters.ppo.model_dump(),
    )


def _success(parameters: NightlyPPOParameters, inputs: Inputs) -> str | None:
    success, of_design = parameters.success, parameters.reward.startswith("jobs.design.")
    if success is None and of_design and parameters.reward_model is None:
        success = SUCCESS_OF_DESIGN
    return function_spec(success, inputs.success) if success else None


def _champion_input(champion: ModelVersion) -> dict[str, str]:
    """The champion's adapter; the base alone is no input."""
    return {} if champion.uri == champion.base else {"champion": champion.uri}


def _seed(work: Work, champion: ModelVersion) -> int:
    """Another seed each night, the same for a resumed one."""
    return (work.parameters.seed + int(champion.version) - 1) % (LARGEST_SEED + 1)
