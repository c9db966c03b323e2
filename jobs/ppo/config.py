"""What the jobs of the PPO cycle can be told. Imported by the control plane too: no torch here."""

from typing import Literal

from pydantic import Field, model_validator

from jobs.policy.config import LoraHyperparameters, RolloutConfig, SuccessConfig


class Hyperparameters(LoraHyperparameters):
    """How a policy is improved."""

    algorithm: Literal["ppo", "grpo", "rloo"] = Field(
        default="ppo",
        title="Algorithm",
        description="ppo is ours; grpo and rloo are TRL's trainers.",
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=10,
        title="Temperature",
        description="Of the rollouts, and of the policy.",
    )

    iterations: int = Field(
        default=16,
        ge=0,
        title="Iterations",
        description="Of fresh rollouts, after the one on the stored trajectories.",
    )
    rollouts: int = Field(
        default=256,
        ge=2,
        le=1_000_000,
        title="Rollouts",
        description="Fresh completions in each iteration.",
    )
    samples_per_prompt: int = Field(
        default=4,
        ge=1,
        le=1_000_000,
        title="Samples of a prompt",
        description="Completions of one prompt at a time.",
    )
    epochs: int = Field(
        default=1, ge=1, le=1000, title="Epochs", description="Passes over the same rollouts."
    )
    minibatch: int = Field(
        default=64, ge=1, le=1_000_000, title="Minibatch", description="Completions in one step."
    )

    value_learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        title="Value learning rate",
        description="AdamW, of the value head. Unset: 0.384 / the model's width.",
    )

    clip_low: float = Field(
        default=0.2, gt=0, lt=1, title="Lower clip", description="Ratios are clipped at 1 − this."
    )
    clip_high: float = Field(
        default=0.28, gt=0, title="Upper clip", description="Ratios are clipped at 1 + this."
    )
    stored_clip_high: float = Field(
        default=3.0,
        gt=0,
        title="Upper clip, stored",
        description="The upper clip on stored trajectories: they are one trust region only, "
        "which a wider clip makes worth more.",
    )
    gamma: float = Field(default=1.0, gt=0, le=1, title="Discount", description="Per token.")
    lam: float = Field(
        default=1.0,
        ge=0,
        le=1,
        title="GAE lambda",
        description="1: every token is judged by what followed it; less: more by the value head, "
        "which knows nothing at first.",
    )
    value_clip: float = Field(
        default=1.0,
        gt=0,
        title="Value clip",
        description="Largest change of a value, reward points.",
    )
    kl_coefficient: float = Field(
        default=0.02,
        ge=0,
        title="KL coefficient",
        description="Reward points taken away for each nat away from the base.",
    )
    target_kl: float = Field(
        default=0.05,
        gt=0,
        title="Target KL",
        description="Nats a token from the policy that began the iteration; beyond 1.5 times "
        "this the iteration's updates stop.",
    )

    max_staleness: int = Field(
        default=1,
        ge=0,
        title="Largest staleness",
        description="Stored trajectories of policies more than this many versions old are left "
        "out.",
    )

    checkpoint_interval: int = Field(
        default=1,
        ge=1,
        title="Checkpoint interval",
        description="Iterations between two checkpoints.",
    )
    target_reward: float | None = Field(
        default=None,
        title="Target reward",
        description="Training ends once an iteration's mean reward reaches it.",
    )
    probe_prompts: int = Field(
        default=64,
        ge=1,
        title="Probe prompts",
        description="Training prompts, a fifth of them at most, that are set aside and not trained "
        "on: their greedy reward after each iteration chooses the best checkpoint.",
    )
    patience: int = Field(
        default=8,
        ge=1,
        title="Patience",
        description="Training ends after so many iterations without a better checkpoint.",
    )

    @model_validator(mode="after")
    def _whole_groups(self) -> "Hyperparameters":
        if self.rollouts % self.samples_per_prompt:
            raise ValueError("rollouts must be a multiple of samples_per_prompt")
        if self.algorithm == "ppo":
            return self
        if self.rollouts % min(self.minibatch, self.rollouts):
            raise ValueError("grpo and rloo need rollouts that are a multiple of minibatch")
        if self.samples_per_prompt < 2:
            raise ValueError("grpo and rloo compare completions: samples_per_prompt of at least 2")
        return self


class PPOConfig(RolloutConfig, Hyperparameters):
    """One night of policy improvement."""

    policy_version: str = Field(
        default="0",
        title="Policy version",
        description="Of the champion that training starts from.",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        title="Time limit",
        description="Minutes of training; then the candidate is what there is.",
    )


class PreflightConfig(PPOConfig, SuccessConfig):
    """What a training and its judging will be told, tried out."""
