"""What the jobs of every language model can be told.

Imported by the control plane too: no torch here.
"""

from typing import Literal

from pydantic import Field

from infra.contract import JobConfig, Seed


class ModelConfig(JobConfig):
    """Which model, and how it runs on the machine."""

    model: str = Field(
        default="",
        title="Model",
        description="Folder or Hugging Face hub id of a causal language model; not used where the "
        "job has an input artefact `base`.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        title="Number format",
        description="auto: bfloat16 on a GPU, float32 on a CPU.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        title="CPU threads",
        description="Unset: OMP_NUM_THREADS, else 1 for models under 20 million parameters and "
        "all cores for larger ones.",
    )
    seed: Seed = Field(default=0, title="Seed", description="Same seed, same result on a CPU.")


class RolloutConfig(ModelConfig):
    """How completions are sampled and rewarded."""

    reward: str = Field(
        title="Reward",
        description="module:function or file.py:function with the signature of TRL's reward "
        "functions, f(prompts, completions, **columns) → list of floats, or the folder or hub id "
        "of a reward model. An input artefact `reward` (file or folder) takes the place of the "
        "path.",
    )
    max_new_tokens: int = Field(
        default=128, ge=1, le=32768, title="Completion length", description="At most, in tokens."
    )
    rollout_batch: int = Field(
        default=256,
        ge=1,
        title="Rollout batch",
        description="Completions sampled at the same time.",
    )


class SampleConfig(RolloutConfig):
    """Completions of the champion, rewarded and stored as trajectories."""

    count: int = Field(
        default=256,
        ge=1,
        title="Samples",
        description="Completions in all; prompts are cycled through.",
    )
    samples_per_prompt: int = Field(
        default=1,
        ge=1,
        title="Samples of a prompt",
        description="Completions of one prompt before the next one.",
    )
    start: int = Field(
        default=0,
        ge=0,
        title="First sample",
        description="Number of samples taken before, to go on from.",
    )
    temperature: float = Field(
        default=1.0, gt=0, le=10, title="Temperature", description="Softmax."
    )
    model_version: str = Field(
        default="0", title="Model version", description="Of the champion; 0 is the untouched base."
    )


class LoraHyperparameters(JobConfig):
    """How a LoRA adapter is trained, by PPO or by DPO."""

    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Learning rate",
        description="AdamW, of the adapter. Unset: 0.128 / the model's width, which is 1e-3 for a "
        "toy of width 128 and 3e-5 for one of 4096.",
    )
    max_gradient_norm: float = Field(
        default=1.0,
        gt=0,
        le=1_000_000,
        title="Largest gradient norm",
        description="Larger gradients are scaled down.",
    )
    lora_rank: int = Field(
        default=16,
        ge=1,
        le=4096,
        title="LoRA rank",
        description="Of a new adapter; a champion's keeps its own.",
    )
    lora_alpha: float = Field(
        default=32.0, gt=0, le=1_000_000, title="LoRA alpha", description="Scale times rank."
    )
    lora_targets: str = Field(
        default="all-linear",
        title="LoRA targets",
        description="all-linear, or comma-separated module names, e.g. q_proj,v_proj.",
    )


class SuccessConfig(JobConfig):
    """What tells which prompts are solved."""

    success: str | None = Field(
        default=None,
        title="Success",
        description="module:function or file.py:function, called like the reward: 1 where the "
        "completion solves its task, 0 where not.",
    )


class EvaluateConfig(RolloutConfig, SuccessConfig):
    """Candidate against champion on held-out prompts."""

    temperature: float = Field(
        default=0.0,
        ge=0,
        le=10,
        title="Temperature",
        description="0: greedy. Else sampled by the seed.",
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        title="Prompts",
        description="Use the first so many held-out prompts only.",
    )


class RewardModelConfig(ModelConfig):
    """A reward model from preferences."""

    lora_rank: int = Field(
        default=16,
        ge=1,
        le=4096,
        title="LoRA rank",
        description="Of the adapter that is trained, then merged.",
    )

    epochs: float = Field(
        default=1.0, gt=0, le=1000, title="Epochs", description="Passes over the preferences."
    )
    max_steps: int | None = Field(
        default=None, ge=1, title="Largest number of steps", description="Ends training earlier."
    )
    batch: int = Field(default=16, ge=1, title="Batch", description="Pairs in one step.")
    learning_rate: float = Field(
        default=1e-4, gt=0, le=1, title="Learning rate", description="AdamW."
    )
    max_tokens: int = Field(
        default=1024,
        ge=8,
        title="Length",
        description="Tokens of prompt and completion; longer pairs are left out.",
    )
    checkpoint_interval: int = Field(
        default=50, ge=1, title="Checkpoint interval", description="Steps between two checkpoints."
    )
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        title="Held out",
        description="Share of the pairs that tests accuracy.",
    )
