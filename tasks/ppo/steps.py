"""The steps of the nightly PPO cycle, each safe to repeat: a resumed night finds what is done."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra import objects
from infra.contract import LARGEST_SEED, Artifact, JobResult
from infra.errors import InputError
from infra.models import registry
from infra.models.registry import ModelVersion
from infra.records import experience, runs
from jobs.policy.config import EvaluateConfig, SampleConfig
from jobs.ppo.config import PPOConfig, PreflightConfig
from tasks.champions.candidate import champion_input, register_candidate
from tasks.policy import design
from tasks.policy.design import DEMO
from tasks.policy.inputs import (
    Inputs,
    function_spec,
    store_function,
    store_model,
    store_prompts,
    store_reward,
)
from tasks.policy.parameters import resources
from tasks.ppo.parameters import NightlyPPOParameters
from tasks.runs.plan import Step
from tasks.runs.run import Work

PREFLIGHT = Step[NightlyPPOParameters](
    "preflight", "ppo.preflight", "train", lambda p: p.transfer_hours, resources
)
COLLECT = Step[NightlyPPOParameters](
    "collect",
    "policy.sample",
    "train",
    lambda p: p.collect_hours,
    resources,
    planned=lambda p: p.ppo.algorithm == "ppo",
)
TRAIN = Step[NightlyPPOParameters]("train", "ppo.train", "train", lambda p: p.hours, resources)
VALIDATE = Step[NightlyPPOParameters](
    "validate", "policy.evaluate", "train", lambda p: p.deploy_hours, resources
)
STEPS = (design.BASE, PREFLIGHT, COLLECT, TRAIN, VALIDATE)


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: NightlyPPOParameters) -> Inputs:
    """Check what the user gave and store it; nothing is spent. The demo's own comes later."""
    demo = DEMO in (parameters.model, parameters.prompts)
    default = NightlyPPOParameters.model_fields["reward"].default
    reward = None if parameters.reward == default else parameters.reward
    inputs = Inputs(
        reward=store_reward(reward, parameters.reward_model),
        success=store_function("--success", parameters.success),
        design=design.design_version() if demo else None,
    )
    if parameters.prompts == DEMO:
        if parameters.model != DEMO:
            raise InputError(
                "--prompts: the demo's prompts are for the demo's model",
                "Give --prompts a file of JSON lines with a `prompt` each.",
            )
        return inputs
    with TemporaryDirectory() as scratch:
        prompts, held_out = store_prompts(parameters.prompts, parameters.held_out, Path(scratch))
    base = None if parameters.model == DEMO else store_model(parameters.model)
    return inputs.model_copy(update={"base": base, "prompts": prompts, "held_out": held_out})


@task(name="complete inputs", cache_policy=NO_CACHE)
def complete_inputs(work: Work[NightlyPPOParameters], inputs: Inputs) -> Inputs:
    """Make the demo's base and prompts where they are wanted, once; then try everything out."""
    parameters = work.parameters
    if inputs.design:
        inputs = design.with_design(work, inputs)
    work.job(
        PREFLIGHT,
        PreflightConfig(
            **_training_config(parameters, inputs).model_dump(),
            success=_success(parameters, inputs),
        ),
        inputs.some("base", "prompts", "held_out", "reward", "success"),
    )
    return inputs


@task(name="collect", cache_policy=NO_CACHE)
def collect_trajectories(
    work: Work[NightlyPPOParameters], inputs: Inputs, champion: ModelVersion
) -> Artifact:
    """The newest usable interactions; what they lack is sampled from the champion and stored.

    Without them, for GRPO and RLOO, which sample afresh only: the prompts.
    """
    parameters = work.parameters
    if not COLLECT.planned(parameters):
        assert inputs.prompts is not None
        return inputs.prompts
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
    chosen = (pool, run, parameters.name, recent, since, _rewarded_by(parameters, inputs))
    usable = experience.count_usable(*chosen)
    lacking = runs.pin(pool, run, "to_sample", max(0, parameters.trajectories - usable))
    if lacking:
        sampled = work.job(
            COLLECT,
            SampleConfig(
                model=parameters.model,
                reward=_reward(parameters, inputs),
                count=lacking,
                seed=_seed(work, champion),
                temperature=parameters.ppo.temperature,
                max_new_tokens=parameters.answer_tokens,
                model_version=champion.version,
            ),
            inputs.some("base", "prompts", "reward") | champion_input(champion),
        )
        _store_sampled(work, inputs, champion, sampled.artifacts["trajectories"])
    experience.choose(*chosen, parameters.trajectories)
    path = work.folder / "trajectories.jsonl.gz"
    experience.export(pool, run, path)
    return objects.put(path, f"{work.uri}/trajectories")


def _store_sampled(
    work: Work[NightlyPPOParameters], inputs: Inputs, champion: ModelVersion, artifact: Artifact
) -> None:
    import gzip

    with TemporaryDirectory() as scratch:
        path = objects.get(artifact.uri, Path(scratch) / "sampled", artifact.sha256)
        with gzip.open(path, "rt") as stream:
            rows = [json.loads(line) for line in stream]
    for row in rows:
        personal = {k: row["columns"].pop(k) for k in experience.PERSONAL & set(row["columns"])}
        row["personal"] = personal if work.parameters.keep_personal else None
    by = _rewarded_by(work.parameters, inputs)
    experience.add_sampled(work.pool, work.run, champion.model, champion.version, rows, by)


@task(name="train", cache_policy=NO_CACHE)
def train_candidate(
    work: Work[NightlyPPOParameters], inputs: Inputs, champion: ModelVersion, trajectories: Artifact
) -> ModelVersion:
    """A candidate from the stored trajectories, where there are any, and fresh rollouts, registered
    as challenger."""
    parameters = work.parameters
    config = _training_config(parameters, inputs).model_copy(
        update={"seed": _seed(work, champion), "policy_version": champion.version}
    )
    stored = {"trajectories": trajectories} if COLLECT.planned(parameters) else {}
    result = work.job(
        TRAIN,
        config,
        inputs.some("base", "prompts", "reward") | champion_input(champion) | stored,
    )
    return register_candidate(work, champion, result, trajectories)


@task(name="validate", cache_policy=NO_CACHE)
def evaluate_candidate(
    work: Work[NightlyPPOParameters],
    inputs: Inputs,
    champion: ModelVersion,
    candidate: ModelVersion,
) -> JobResult:
    """Candidate and champion on the same held-out prompts with the same decoding."""
    parameters = work.parameters
    return work.job(
        VALIDATE,
        EvaluateConfig(
            model=parameters.model,
            reward=_reward(parameters, inputs),
            success=_success(parameters, inputs),
            temperature=parameters.judge_temperature,
            max_new_tokens=parameters.answer_tokens,
            seed=parameters.seed,
        ),
        inputs.some("base", "reward", "success")
        | {"prompts": inputs.some("held_out")["held_out"]}
        | {"candidate": candidate}
        | champion_input(champion),
    )


def _training_config(parameters: NightlyPPOParameters, inputs: Inputs) -> PPOConfig:
    return PPOConfig(
        model=parameters.model,
        reward=_reward(parameters, inputs),
        max_new_tokens=parameters.answer_tokens,
        seed=parameters.seed,
        minutes=parameters.hours * 60 * 0.9,
        **parameters.ppo.model_dump(),
    )


def _reward(parameters: NightlyPPOParameters, inputs: Inputs) -> str:
    return function_spec(parameters.reward_model or parameters.reward, inputs.reward)


def _rewarded_by(parameters: NightlyPPOParameters, inputs: Inputs) -> str:
    """The same for the same function or model: its name, and the checksum of its file."""
    stored = f" {inputs.reward.sha256}" if inputs.reward else ""
    return _reward(parameters, inputs) + stored


def _success(parameters: NightlyPPOParameters, inputs: Inputs) -> str | None:
    success, of_design = parameters.success, parameters.reward.startswith("jobs.design.")
    if success is None and of_design and parameters.reward_model is None:
        success = design.SUCCESS
    return function_spec(success, inputs.success) if success else None


def _seed(work: Work[NightlyPPOParameters], champion: ModelVersion) -> int:
    """Another seed each night, the same for a resumed one."""
    return (work.parameters.seed + int(champion.version) - 1) % (LARGEST_SEED + 1)
