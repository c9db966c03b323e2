"""What DPO training and the making of its dataset are told: the models behind options, forms and
webhooks."""

from datetime import timedelta

from pydantic import Field

from infra.contract import Place, Seed
from jobs.dpo.config import DPOHyperparameters, PairChoice
from tasks.policy.gate import Gate
from tasks.policy.parameters import PolicyParameters, Stages
from tasks.runs.parameters import Hours, ModelName, RunParameters

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class PreferenceParameters(RunParameters):
    """Which feedback becomes which pairs."""

    name: ModelName = Field(
        default="design",
        title="Name",
        description="Name of the model in the registry; feedback on its answers is taken.",
    )
    feedback_since: str = Field(
        default="24h",
        pattern=r"^[0-9]{1,5}(\.[0-9]+)?[mhdw]$",
        title="Feedback since",
        description="How far back feedback is taken: minutes, hours, days or weeks, e.g. 24h.",
    )
    dataset: Place | None = Field(
        default=None,
        title="Dataset",
        description="Pairs or feedback of one's own, in any shape of docs/dpo-training.md: a file, "
        "an artefact's URI, or a dataset of the Hugging Face hub, ORG/NAME or ORG/NAME:SPLIT; or a "
        "dataset that build-preferences made. Then no table is read.",
    )
    data_hours: Hours = Field(
        default=1.0,
        title="Data window",
        description="Hours for making the dataset, at most.",
    )
    pairs: PairChoice = Field(default_factory=lambda: PairChoice.model_validate({}), title="Pairs")

    @property
    def since(self) -> timedelta:
        """`feedback_since` as a duration."""
        return timedelta(**{UNITS[self.feedback_since[-1]]: float(self.feedback_since[:-1])})


class DPOTrainingParameters(PolicyParameters, PreferenceParameters):
    """What a training is told; every field is an option of the command and a field of the form."""

    prompts: Place | None = Field(
        default=None,
        title="Prompts",
        description="JSON lines to simulate answers for; none: the demo's own for its model.",
    )
    held_out: Place | None = Field(
        default=None,
        title="Held-out prompts",
        description="Prompts to judge with, as JSON lines, or pairs in any shape that --dataset "
        "takes; none: the demo's own for its model, else a share of the dataset.",
    )
    reward: Place | None = Field(
        default=None,
        title="Reward",
        description="module:function or file.py:function that judges answers, called as TRL calls "
        "reward functions; none: the demo's own for its model, else a reward model is trained on "
        "the pairs.",
    )
    judge: Place | None = Field(
        default=None,
        title="Judge",
        description="module:function or file.py:function, f(prompts, first, second, **columns) → "
        "probabilities that the first answer is better, in place of a reward.",
    )
    simulate: int = Field(
        default=0,
        ge=0,
        title="Simulated answers",
        description="Answers of the champion that are sampled and paired by their reward, for "
        "bootstrapping; such pairs are marked and never judged with.",
    )
    hours: Hours = Field(
        default=6.0,
        title="Training window",
        description="Hours of training, at most.",
    )
    transfer_hours: Hours = Field(
        default=1.0,
        title="Transfer window",
        description="Hours for checking the inputs and sampling, each, at most.",
    )
    deploy_hours: Hours = Field(
        default=2.0,
        title="Deploy window",
        description="Hours for judging, at most.",
    )
    seed: Seed = Field(default=0, title="Seed", description="Same seed, same result on a CPU.")
    dpo: DPOHyperparameters = Field(
        default_factory=lambda: DPOHyperparameters.model_validate({}), title="DPO"
    )
    gate: Gate = Field(default_factory=lambda: Gate.model_validate({}), title="Gate")
    rollout: Stages = Field(default_factory=lambda: Stages.model_validate({}), title="Rollout")
