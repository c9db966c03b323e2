"""What the nightly PPO cycle is told: the one model behind options, the UI's form and webhooks."""

from pydantic import Field

from infra.contract import Place, Seed
from jobs.ppo.config import Hyperparameters
from tasks.policy.gate import Gate
from tasks.policy.parameters import PolicyParameters, Stages
from tasks.runs.parameters import Hours, ModelName, RunParameters


class NightlyPPOParameters(PolicyParameters, RunParameters):
    """What a night is told; every field is an option of the command and a field of the form."""

    name: ModelName = Field(
        default="design",
        title="Name",
        description="Name of the model in the registry; its champion is where the night starts.",
    )
    prompts: Place = Field(
        default="design",
        title="Prompts",
        description="JSON lines with a `prompt` each, other columns go to the reward; "
        "'design': the demo's own.",
    )
    held_out: Place | None = Field(
        default=None,
        title="Held-out prompts",
        description="JSON lines to judge with; none: a fifth of the prompts is split off.",
    )
    reward: Place = Field(
        default="jobs.design.reward:reward",
        title="Reward",
        description="module:function or file.py:function, called as TRL calls reward functions.",
    )
    collect_hours: Hours = Field(
        default=6.0,
        title="Collect window",
        description="Hours for collecting, at most.",
    )
    hours: Hours = Field(
        default=12.0,
        title="Training window",
        description="Hours of training, at most.",
    )
    transfer_hours: Hours = Field(
        default=2.0,
        title="Transfer window",
        description="Hours for bringing in and checking the inputs, at most.",
    )
    deploy_hours: Hours = Field(
        default=4.0,
        title="Deploy window",
        description="Hours for validating, at most.",
    )
    trajectories: int = Field(
        default=2048,
        ge=1,
        title="Trajectories",
        description="Interactions to train on first; what the table lacks is sampled.",
    )
    since_hours: float = Field(
        default=24.0,
        gt=0,
        le=100_000,
        title="Since",
        description="Hours back from which interactions are taken.",
    )
    keep_personal: bool = Field(
        default=False,
        title="Keep personal fields",
        description="Store the columns of the prompts named user, email, name, phone or address.",
    )
    seed: Seed = Field(default=0, title="Seed", description="Of the first night; later ones add 1.")
    ppo: Hyperparameters = Field(
        default_factory=lambda: Hyperparameters.model_validate({}), title="PPO"
    )
    gate: Gate = Field(default_factory=lambda: Gate.model_validate({}), title="Gate")
    rollout: Stages = Field(default_factory=lambda: Stages.model_validate({}), title="Rollout")
