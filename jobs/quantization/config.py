"""What the jobs of a quantisation are told. Imported by the control plane too: no torch here."""

from typing import Literal

from pydantic import Field

from jobs.policy.config import ModelConfig, RolloutConfig

Variant = Literal["int8", "gptq", "awq", "fp8"]
VARIANTS: dict[Variant, str] = {
    "int8": "INT8 W8A8",
    "gptq": "GPTQ W4A16",
    "awq": "AWQ W4A16",
    "fp8": "FP8 dynamic",
}
"""What they are called in the field: bits of weights and activations."""


class QuantiseConfig(ModelConfig):
    """Which variants of a model are made."""

    variants: list[Variant] = Field(min_length=1)
    calibration_prompts: int = Field(default=256, ge=1)
    calibration_tokens: int = Field(default=512, ge=1, description="Of a prompt, at most.")


class ScoreConfig(RolloutConfig):
    """How the answers of all variants are rewarded."""
