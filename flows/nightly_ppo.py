"""The nightly PPO cycle: collect, train, validate, deploy, under a budget that holds.

    nightshift run nightly-ppo --model ./my-model --prompts prompts.jsonl --reward rewards.py:reward

Without a model it works on the project's own demo: designs of gears, brackets and screws. A killed
run is finished by the next one with the same parameters.
"""

from decimal import Decimal
from typing import Literal

from prefect import flow
from pydantic import BaseModel, ConfigDict, Field

from jobs.ppo.config import Hyperparameters
from tasks import ppo
from tasks.gate import Gate
from tasks.hooks import release_compute
from tasks.plan import Step
from tasks.publish import publish_report
from tasks.report import Report
from tasks.run import begin


class NightlyPPOParameters(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: str = Field(
        "design",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        title="Name",
        description="Name of the model in the registry; its champion is where the night starts.",
    )
    model: str = Field(
        "design",
        title="Model",
        description="Folder or Hugging Face hub id of the base model; 'design': the demo's own.",
    )
    prompts: str = Field(
        "design",
        title="Prompts",
        description="JSON lines with a `prompt` each, other columns go to the reward; "
        "'design': the demo's own.",
    )
    held_out: str | None = Field(
        None,
        title="Held-out prompts",
        description="JSON lines to judge with; none: a fifth of the prompts is split off.",
    )
    reward: str = Field(
        "jobs.design.reward:reward",
        title="Reward",
        description="module:function or file.py:function, called as TRL calls reward functions.",
    )
    reward_model: str | None = Field(
        None,
        title="Reward model",
        description="Folder or hub id of a reward model, in place of the reward function.",
    )
    success: str | None = Field(
        None,
        title="Success",
        description="module:function that gives 1 for a solved prompt; shown in the report.",
    )
    max_cost: Decimal = Field(
        Decimal(20),
        max_digits=12,
        decimal_places=4,
        title="Largest cost",
        description="Dollars that this run may cost in all, retries included.",
    )
    target: Literal["local", "sky", "auto"] = Field(
        "local",
        title="Target",
        description="Where jobs run: this machine, SkyPilot, or whichever is cheaper.",
    )
    accelerators: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+:[1-9][0-9]*$",
        title="Accelerators",
        description="Kind and number of GPUs of each job, e.g. H100:1; none: CPU only.",
    )
    collect_hours: float = Field(
        6.0, gt=0, le=168, title="Collect window", description="Hours for collecting, at most."
    )
    hours: float = Field(
        12.0, gt=0, le=168, title="Training window", description="Hours of training, at most."
    )
    transfer_hours: float = Field(
        2.0,
        gt=0,
        le=168,
        title="Transfer window",
        description="Hours for bringing in and checking the inputs, at most.",
    )
    deploy_hours: float = Field(
        4.0, gt=0, le=168, title="Deploy window", description="Hours for validating, at most."
    )
    trajectories: int = Field(
        2048,
        ge=1,
        title="Trajectories",
        description="Interactions to train on first; what the table lacks is sampled.",
    )
    since_hours: float = Field(
        24.0, gt=0, title="Since", description="Hours back from which interactions are taken."
    )
    keep_personal: bool = Field(
        False,
        title="Keep personal fields",
        description="Store the columns of the prompts named user, email, name, phone or address.",
    )
    max_new_tokens: int = Field(
        128, ge=1, le=32768, title="Completion length", description="At most, in tokens."
    )
    judge_temperature: float = Field(
        0.0,
        ge=0,
        le=10,
        title="Judging temperature",
        description="Decoding of both policies when they are judged; 0 is greedy.",
    )
    seed: int = Field(0, ge=0, title="Seed", description="Of the first night; later ones add 1.")
    ppo: Hyperparameters = Field(default_factory=lambda: Hyperparameters.model_validate({}))
    gate: Gate = Field(default_factory=lambda: Gate.model_validate({}))


@flow(
    name="nightly-ppo",
    flow_run_name="nightly-ppo {parameters.name}",
    on_cancellation=[release_compute],
    on_crashed=[release_compute],
)
def nightly_ppo(parameters: NightlyPPOParameters) -> Report:
    """Improve a policy on the day's interactions, and promote it if it is surely better."""
    inputs = ppo.prepare_inputs(parameters)
    with begin("nightly-ppo", parameters, inputs.checksums) as night:
        inputs = ppo.complete_inputs(night, inputs)
        champion = ppo.current_champion(night, inputs)
        trajectories = ppo.collect_trajectories(night, inputs, champion)
        candidate = ppo.train_candidate(night, inputs, champion, trajectories)
        evaluation = ppo.evaluate_candidate(night, inputs, champion, candidate)
        verdict = ppo.judge_candidate(night, champion, candidate, evaluation)
        served = ppo.deploy_champion(candidate) if verdict.promote else None
        return publish_report(night, champion, candidate, evaluation, verdict, served)


def plan(parameters: NightlyPPOParameters) -> list[Step]:
    """What a night would launch, where and at which price."""
    return ppo.plan_night(parameters)
