"""The steps of DPO training, each safe to repeat: a resumed run finds what is done."""

import logging
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from infra.contract import Artifact, JobResult, Resources, Stored
from infra.errors import InputError
from infra.models.registry import ModelVersion
from jobs.dpo.config import DPOConfig, PairEvaluateConfig, PreflightConfig
from jobs.dpo.data import check_file, holds_preferences
from jobs.policy.config import RewardModelConfig, SampleConfig
from jobs.policy.data import read_prompts
from tasks.champions.candidate import champion_input, register_candidate
from tasks.dpo import preferences
from tasks.dpo.parameters import DPOTrainingParameters
from tasks.dpo.report import cut_warning
from tasks.policy import design
from tasks.policy.design import DEMO
from tasks.policy.inputs import Inputs, function_spec, store_function, store_model, store_reward
from tasks.policy.parameters import resources
from tasks.runs.given import require_file, store
from tasks.runs.plan import Step
from tasks.runs.run import Work

log = logging.getLogger("nightshift")

SIMULATED_EACH = 4
"""Simulated answers to one prompt, to be compared."""


def reward_of(parameters: DPOTrainingParameters) -> str | None:
    """What judges answers: the user's reward, the demo's for its model, or None."""
    if parameters.judge:
        return None
    given = parameters.reward_model or parameters.reward
    return given or (design.REWARD if parameters.model == DEMO else None)


def _judge_resources(parameters: DPOTrainingParameters) -> Resources:
    """What training a judge asks for: one GPU at most, since TRL's RewardTrainer wants a process
    for each and runs in one."""
    asked = resources(parameters)
    return asked.model_copy(update={"accelerators": dict.fromkeys(asked.accelerators, 1)})


DPOStep = Step[DPOTrainingParameters]
SIMULATE = DPOStep(
    "simulate",
    "policy.sample",
    "train",
    lambda p: p.transfer_hours,
    resources,
    planned=lambda p: bool(p.simulate),
)
JUDGE = DPOStep(
    "judge",
    "dpo.reward_model",
    "train",
    lambda p: p.hours,
    _judge_resources,
    planned=lambda p: not p.judge and reward_of(p) is None,
)
PREFLIGHT = DPOStep(
    "preflight",
    "dpo.preflight",
    "train",
    lambda p: p.transfer_hours,
    Resources(cpus=1, memory_gb=4),
    here=True,
)
TRAIN = DPOStep("train", "dpo.train", "train", lambda p: p.hours, resources)
VALIDATE = DPOStep("validate", "dpo.evaluate", "train", lambda p: p.deploy_hours, resources)
STEPS = (design.BASE, SIMULATE, preferences.BUILD, JUDGE, PREFLIGHT, TRAIN, VALIDATE)


class Given(Inputs):
    """The stored inputs of a training; what is None comes from the table, the demo or the pairs."""

    dataset: Artifact | None = None
    pairs: Artifact | None = None
    held_out_pairs: Artifact | None = None
    scrub: Artifact | None = None
    judge: Artifact | None = None

    @property
    def data(self) -> dict[str, Artifact]:
        """What the dataset is made from."""
        named = {
            "dataset": self.dataset,
            "pairs": self.pairs,
            "held_out": self.held_out_pairs,
            "scrub": self.scrub,
        }
        return {name: artifact for name, artifact in named.items() if artifact is not None}


@task(name="prepare inputs", cache_policy=NO_CACHE)
def prepare_inputs(parameters: DPOTrainingParameters) -> Given:
    """Check what the user gave and store it; nothing is spent. The demo's own comes later."""
    if parameters.judge and (parameters.reward or parameters.reward_model):
        raise InputError("--judge: a reward is given too", "Judge with one of them.")
    if parameters.simulate and reward_of(parameters) is None:
        raise InputError(
            "--simulate: there is no reward to rank simulated answers with",
            "Give --reward or --reward-model.",
        )
    if parameters.simulate and parameters.prompts is None and parameters.model != DEMO:
        raise InputError(
            "--simulate: there are no prompts to answer", "Give --prompts a file of JSON lines."
        )
    given = Given(
        base=None if parameters.model == DEMO else store_model(parameters.model),
        prompts=_stored_prompts("--prompts", parameters.prompts),
        **_stored_held_out(parameters),
        reward=store_reward(parameters.reward, parameters.reward_model),
        judge=store_function("--judge", parameters.judge),
        success=store_function("--success", parameters.success),
        design=design.design_version() if parameters.model == DEMO else None,
    )
    given = given.model_copy(update=dict(preferences.given_dataset(parameters)))
    more = {"--simulate": parameters.simulate, "--held-out": given.held_out_pairs}
    for option in [option for option, wanted in more.items() if wanted and given.dataset]:
        raise InputError(
            f"{option}: a dataset that was made before takes no more pairs",
            f"Give --dataset the file that it was made from, or leave {option} out.",
        )
    return given


def is_nothing(work: Work[DPOTrainingParameters]) -> bool:
    """Whether there is neither feedback, nor a dataset, nor a wish to simulate one."""
    asked = work.parameters.dataset or work.parameters.simulate
    return not asked and not preferences.choose_feedback(work)


@task(name="complete inputs", cache_policy=NO_CACHE)
def complete_inputs(work: Work[DPOTrainingParameters], given: Given) -> Given:
    """Make the demo's base and prompts where they are wanted, once.

    Raises InputError where only simulated pairs would be there to judge with.
    """
    if work.parameters.model == DEMO:
        return design.with_design(work, given)
    judged = given.held_out or given.held_out_pairs or work.parameters.dataset
    if not judged and not preferences.choose_feedback(work):
        raise InputError(
            "--simulate: simulated pairs are never judged with, and there is no other",
            "Give prompts to judge with in --held-out, or wait for feedback.",
        )
    return given


@task(name="build preferences", cache_policy=NO_CACHE)
def build_dataset(
    work: Work[DPOTrainingParameters], given: Given, champion: ModelVersion
) -> Artifact:
    """The pairs of this run: users' and, where they are wanted, simulated ones."""
    parameters = work.parameters
    more: dict[str, Stored] = {}
    if parameters.simulate:
        sampled = work.job(
            SIMULATE,
            SampleConfig(
                model=parameters.model,
                reward=function_spec(reward_of(parameters) or "", given.reward),
                count=parameters.simulate,
                samples_per_prompt=SIMULATED_EACH,
                seed=parameters.seed,
                max_new_tokens=parameters.answer_tokens,
                model_version=champion.version,
            ),
            given.some("base", "prompts", "reward") | champion_input(champion),
        )
        more["trajectories"] = sampled.artifacts["trajectories"]
    dataset = preferences.build_dataset(work, given.data, more)
    assert dataset is not None
    return dataset


@task(name="train judge", cache_policy=NO_CACHE)
def train_judge(work: Work[DPOTrainingParameters], given: Given, dataset: Artifact) -> Given:
    """Without a reward or judge of the user's, a reward model learns from the training pairs."""
    parameters = work.parameters
    if parameters.judge or reward_of(parameters):
        return given
    result = work.job(
        JUDGE,
        RewardModelConfig(
            model=parameters.model,
            seed=parameters.seed,
            max_tokens=parameters.dpo.max_tokens,
            max_steps=parameters.dpo.max_steps,
        ),
        given.some("base") | {"dataset": dataset},
    )
    return given.model_copy(update={"reward": result.artifacts["reward_model"]})


@task(name="preflight", cache_policy=NO_CACHE)
def check_fit(
    work: Work[DPOTrainingParameters], given: Given, champion: ModelVersion, dataset: Artifact
) -> JobResult:
    """Try out tokens, shapes and judge on this machine, before another one is rented."""
    parameters = work.parameters
    reward = reward_of(parameters)
    config = PreflightConfig(
        **_training_config(parameters).model_dump(),
        reward=function_spec(reward, given.reward) if reward else None,
        judge=function_spec(parameters.judge, given.judge) if parameters.judge else None,
        success=_success(parameters, given),
    )
    result = work.job(
        PREFLIGHT,
        config,
        given.some("base", "reward", "judge", "success")
        | {"dataset": dataset}
        | _held_out(given)
        | champion_input(champion),
    )
    if warning := cut_warning(result.metrics.get("cut_share", 0.0)):
        log.warning(warning)
    return result


@task(name="train", cache_policy=NO_CACHE)
def train_candidate(
    work: Work[DPOTrainingParameters], given: Given, champion: ModelVersion, dataset: Artifact
) -> ModelVersion:
    """A candidate from the pairs, registered as challenger."""
    parameters = work.parameters
    result = work.job(
        TRAIN,
        _training_config(parameters),
        given.some("base") | {"dataset": dataset} | champion_input(champion),
    )
    return register_candidate(work, champion, result, dataset)


@task(name="validate", cache_policy=NO_CACHE)
def evaluate_candidate(
    work: Work[DPOTrainingParameters],
    given: Given,
    champion: ModelVersion,
    candidate: ModelVersion,
    dataset: Artifact,
) -> JobResult:
    """Candidate and champion on the same held-out prompts and pairs."""
    parameters = work.parameters
    judged_by: dict[str, Any] = {}
    if parameters.judge:
        judged_by["judge"] = function_spec(parameters.judge, given.judge)
    else:
        judged_by["reward"] = function_spec(reward_of(parameters) or "reward-model", given.reward)
    return work.job(
        VALIDATE,
        PairEvaluateConfig(
            model=parameters.model,
            success=_success(parameters, given),
            temperature=parameters.judge_temperature,
            max_new_tokens=parameters.answer_tokens,
            seed=parameters.seed,
            beta=parameters.dpo.beta,
            max_tokens=parameters.dpo.max_tokens,
            quantised=bool(candidate.metrics["quantised"]),
            **judged_by,
        ),
        given.some("base", "reward", "judge", "success")
        | {"dataset": dataset, "candidate": candidate}
        | _held_out(given)
        | champion_input(champion),
    )


def _success(parameters: DPOTrainingParameters, given: Given) -> str | None:
    success = parameters.success
    if success is None and reward_of(parameters) == design.REWARD:
        success = design.SUCCESS
    return function_spec(success, given.success) if success else None


def _training_config(parameters: DPOTrainingParameters) -> DPOConfig:
    return DPOConfig(
        model=parameters.model,
        seed=parameters.seed,
        max_new_tokens=parameters.answer_tokens,
        **parameters.dpo.model_dump(),
    )


def _stored_prompts(option: str, path: str | None) -> Artifact | None:
    if path is None:
        return None
    read_prompts(require_file(option, path), option)
    return store(Path(path), "prompts")


def _stored_held_out(parameters: DPOTrainingParameters) -> dict[str, Artifact | None]:
    """What is judged with: prompts, or the user's own pairs."""
    place, mapping = parameters.held_out, parameters.pairs.map
    if place is None:
        return {}
    path = require_file("--held-out", place)
    if not holds_preferences(path, "--held-out", mapping):
        return {"held_out": _stored_prompts("--held-out", place)}
    check_file(path, "--held-out", mapping)
    return {"held_out_pairs": store(path, "preferences")}


def _held_out(given: Given) -> dict[str, Stored]:
    return {"prompts": given.held_out} if given.held_out else {}
