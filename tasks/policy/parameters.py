"""What every training of a language model is told."""

from typing import Self

from pydantic import BaseModel, Field, model_validator

from infra.contract import Group, Place, Resources
from tasks.runs.parameters import Hours

DESIGN_TOKENS = 32
"""The demo's own model has a context of 128 for both sides."""


SHARES = (0.05, 0.25, 1.0)
"""Of the requests, that a challenger answers in the stages of a rollout."""


class Stages(Group):
    """How much must be seen of a challenger on a live endpoint before it gets more requests."""

    stage_minutes: float = Field(
        default=10,
        gt=0,
        le=1440,
        title="Minutes of a stage",
        description="How long the challenger has 5 %, 25 % and all of the requests, at least.",
    )
    stage_requests: int = Field(
        default=400,
        ge=1,
        le=1_000_000,
        title="Requests of a stage",
        description="How many answers of the challenger each stage compares, at least.",
    )
    wait_minutes: float = Field(
        default=10,
        ge=0,
        le=1440,
        title="Minutes to wait",
        description="How long a stage waits beyond its time for requests of users.",
    )
    rollout_hours: Hours = Field(
        default=4.0,
        title="Rollout window",
        description="Hours of all stages, at most; then the champion stays.",
    )

    @model_validator(mode="after")
    def _fit_in(self) -> Self:
        if len(SHARES) * self.stage_minutes > 60 * self.rollout_hours:
            raise ValueError(f"{len(SHARES)} stages of stage_minutes do not fit into rollout_hours")
        return self


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


def resources(parameters: PolicyParameters) -> Resources:
    """What each job of a training asks for."""
    if parameters.accelerators is None:
        return Resources(cpus=1, memory_gb=4)
    kind, _, count = parameters.accelerators.partition(":")
    return Resources(cpus=4, memory_gb=16, accelerators={kind: int(count)})
