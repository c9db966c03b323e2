"""What a quantisation is told: the model behind options, the form and webhooks."""

from pydantic import Field

from infra.contract import Group, Place
from jobs.quantization.config import VARIANTS, Variant
from tasks.runs.parameters import Hours, ModelName, RunParameters


class Objective(Group):
    """What a variant must hold under the load, to be registered."""

    min_quality: float = Field(
        default=0.95,
        ge=0,
        le=1,
        title="Least quality kept",
        description="Share of the champion's mean reward that the lower end of the paired "
        "interval must keep.",
    )
    max_latency_ms: float | None = Field(
        default=None,
        gt=0,
        title="Greatest latency",
        description="Of a whole answer under the load, median in milliseconds. Unset: any.",
    )


class QuantizationParameters(RunParameters):
    """What is quantised, under which load it is measured, and what it must hold."""

    name: ModelName = Field(
        default="design",
        title="Name",
        description="Name of the policy in the registry; its champion is quantised.",
    )
    prompts: Place = Field(
        default="design",
        title="Prompts",
        description="JSON lines as of nightly-ppo, which the variants are calibrated on; 'design': "
        "the demo's own.",
    )
    held_out: Place | None = Field(
        default=None,
        title="Held-out prompts",
        description="JSON lines to measure with; none: a fifth of the prompts is split off.",
    )
    reward: Place = Field(
        default="jobs.design.reward:reward",
        title="Reward",
        description="module:function or file.py:function that tells the quality of answers, "
        "called as TRL calls reward functions.",
    )
    reward_model: Place | None = Field(
        default=None,
        title="Reward model",
        description="Folder or hub id of a reward model, in place of the reward function.",
    )
    variant: Variant | None = Field(
        default=None,
        title="Variant",
        description="The only one that is made: INT8 W8A8, GPTQ W4A16, AWQ W4A16 or FP8 dynamic. "
        "Unset: all of them.",
    )
    clients: int = Field(
        default=8,
        ge=1,
        le=1024,
        title="Clients",
        description="That ask at the same time, each one prompt after another.",
    )
    requests: int = Field(
        default=128,
        ge=1,
        le=1_000_000,
        title="Requests",
        description="To each variant; at least one for each held-out prompt.",
    )
    max_new_tokens: int = Field(
        default=128, ge=1, le=32768, title="Completion length", description="At most, in tokens."
    )
    objective: Objective = Field(
        default_factory=lambda: Objective.model_validate({}), title="Objective"
    )
    hours: Hours = Field(
        default=2.0, title="Quantising window", description="Hours of making variants, at most."
    )
    measure_hours: Hours = Field(
        default=2.0, title="Measuring window", description="Hours of measuring them, at most."
    )
    transfer_hours: Hours = Field(
        default=1.0,
        title="Transfer window",
        description="Hours for the demo's own prompts and for the rewards, each, at most.",
    )

    @property
    def variants(self) -> list[Variant]:
        """Those that are made."""
        return [self.variant] if self.variant else list(VARIANTS)
