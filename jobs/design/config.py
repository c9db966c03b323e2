"""What the base model of the design domain can be told. No torch here."""

from pydantic import BaseModel, ConfigDict, Field

from infra.contract import Seed


class BaseModelConfig(BaseModel):
    """A small base, trained to a mediocre level on purpose: the cycle shall improve it."""

    model_config = ConfigDict(extra="forbid")

    seed: Seed = Field(default=0, title="Seed", description="Same seed, same weights on a CPU.")
    steps: int = Field(default=400, ge=1, title="Steps", description="Optimiser steps.")
    batch: int = Field(default=32, ge=1, title="Batch", description="Requests in one step.")
    learning_rate: float = Field(
        default=2e-3, gt=0, title="Learning rate", description="AdamW, peak."
    )
    hidden: int = Field(default=128, ge=16, title="Width", description="Hidden size.")
    layers: int = Field(default=4, ge=1, title="Layers", description="Transformer blocks.")
    checkpoint_interval: int = Field(
        default=100, ge=1, title="Checkpoint interval", description="Steps between two checkpoints."
    )
    prompts: int = Field(
        default=2000, ge=1, title="Prompts", description="Training requests written."
    )
    held_out: int = Field(
        default=300, ge=1, title="Held out", description="Held-out requests written."
    )
