"""What the nightly PPO cycle is told: the one model behind options, the UI's form and webhooks."""

from pydantic import BaseModel, Field

from jobs.contract import Place, Seed
from jobs.ppo.config import Hyperparameters
from tasks.gate import Gate
from tasks.run import RunParameters

DESIGN_TOKENS = 32
"""The demo's own model has a context of 128 for both sides."""


class PolicyParameters(BaseModel):
    """What every training of a language model is told."""

    model: Place = Field(
        default="design",
        title="Model",
        description="Folder or Hugging Face hub id of the base model; 'design': the demo's own.",
    )
    reward_model: Place | None = Field(
        default=None,
        title="Reward model",
        description="Folder or hub id of a reward model, in place of the reward function.",
    )
    success: Place | None = Field(
        default=None,
        title="Success",
        description="module:function that gives 1 for a solved prompt; shown in the report.",
    )
    accelerators: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9-]+:[1-9][0-9]*$",
        title="Accelerators",
        description="Kind and number of GPUs of training and judging, e.g. H100:1; none: CPU only.",
    )
    max_new_tokens: int = Field(
        default=128,
        ge=1,
        le=32768,
        title="Completion length",
        description="At most, in tokens; the demo's own model is given 32 at most.",
    )
    judge_temperature: float = Field(
        default=0.0,
        ge=0,
        le=10,
        title="Judging temperature",
        description="Decoding of both policies when they are judged; 0 is greedy.",
    )

    @property
    def answer_tokens(self) -> int:
        """Tokens of an answer at most."""
        own = self.model == "design"
        return min(self.max_new_tokens, DESIGN_TOKENS) if own else self.max_new_tokens


class NightlyPPOParameters(PolicyParameters, RunParameters):
    """What a night is told; every field is an option of the command and a field of the form."""

    name: str = Field(
        default="design",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
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
    collect_hours: float = Field(
        default=6.0,
        gt=0,
        le=168,
        title="Collect window",
        description="Hours for collecting, at most.",
    )
    hours: float = Field(
        default=12.0,
        gt=0,
        le=168,
        title="Training window",
        description="Hours of training, at most.",
    )
    transfer_hours: float = Field(
        default=2.0,
        gt=0,
        le=168,
        title="Transfer window",
        description="Hours for bringing in and checking the inputs, at most.",
    )
    deploy_hours: float = Field(
        default=4.0,
        gt=0,
        le=168,
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
    ppo: Hyperparameters = Field(default_factory=lambda: Hyperparameters.model_validate({}))
    gate: Gate = Field(default_factory=lambda: Gate.model_validate({}))
