"""What a rollout is told."""

from pydantic import BaseModel, ConfigDict, Field

from infra.contract import MODEL_NAME, Place
from tasks.policy.parameters import Stages
from tasks.runs.parameters import first_fields_first


class RolloutParameters(BaseModel):
    """Which challenger, and how much must be seen of it before it gets more."""

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), json_schema_extra=first_fields_first
    )

    model: str = Field(
        default="design@challenger",
        pattern=rf"^{MODEL_NAME}@[A-Za-z0-9_.-]+$",
        title="Challenger",
        description="The version that is to be champion, as NAME@challenger or NAME@NUMBER.",
    )
    prompts: Place | None = Field(
        default=None,
        title="Held-out prompts",
        description="JSON lines as of nightly-ppo, which both versions are asked where users ask "
        "too little. Without any, too few requests end the rollout.",
    )
    stages: Stages = Field(default_factory=lambda: Stages.model_validate({}), title="Stages")
