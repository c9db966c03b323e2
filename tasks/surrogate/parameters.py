"""What surrogate retraining and the collecting of observations are told: the models behind options,
forms and webhooks."""

from typing import Literal

from pydantic import Field

from infra.contract import Group, Place, Seed
from jobs.surrogate.config import Optimisation, Training
from tasks.runs.parameters import Hours, ModelName, RunParameters


class ObservationParameters(RunParameters):
    """Which files are checked and stored, for which model."""

    name: ModelName = Field(
        default="house",
        title="Name",
        description="Name of the surrogate in the registry.",
    )
    observations: Place | None = Field(
        default=None,
        title="Observations",
        description="Folder of CSV or Parquet files, one measured building-year each, that are "
        "checked and added to the stored ones. `collect-observations` without one takes the years "
        "that sensors have completed over MQTT.",
    )
    minimum_observations: int = Field(
        default=20,
        ge=1,
        title="Fewest observations",
        description="With fewer nothing is learnt from them.",
    )
    data_hours: Hours = Field(
        default=1.0,
        title="Data window",
        description="Hours for checking the files, telling drift and simulating, each, at most.",
    )


class SurrogateGate(Group):
    """When a candidate is good enough; shares are fractions of 1."""

    minimum_gain: float = Field(
        default=0.0,
        title="Minimum gain",
        description="Accuracy (1 − error) that the gain over the champion must surely exceed.",
    )
    gate_confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        title="Confidence of the gate",
        description="Of the gain's interval, 0 to 1.",
    )
    max_error: float = Field(
        default=0.15,
        gt=0,
        title="Largest error",
        description="Mean absolute error of the loads over their mean.",
    )
    max_coverage_gap: float = Field(
        default=0.04,
        gt=0,
        title="Largest coverage gap",
        description="By which the share that the intervals cover may differ from --confidence.",
    )
    max_imbalance: float = Field(
        default=0.01,
        ge=0,
        title="Largest share of imbalance",
        description="Of designs whose prediction breaks the energy balance by more than 1 %.",
    )
    max_broken: float = Field(
        default=0.05,
        ge=0,
        title="Largest share of broken physics",
        description="Of designs whose prediction breaks balance, bounds or the coupling of zones.",
    )
    max_old_error_ratio: float = Field(
        default=1.1,
        gt=0,
        title="Largest forgetting",
        description="Error on climates of earlier trainings against the champion's.",
    )


class SurrogateParameters(ObservationParameters):
    """What a retraining is told; every field is an option of the command and of the form."""

    weather: Place | None = Field(
        default=None,
        title="Weather",
        description="EPW file that a part of the designs is simulated and trained in.",
    )
    town_of: ModelName | None = Field(
        default=None,
        title="Town of",
        description="Surrogate of all climates that a model of one town must be surely better "
        "than: --name is trained in --weather alone.",
    )
    towns: Place | None = Field(
        default=None,
        title="Towns",
        description="Folder of EPW files to judge the candidate in, town by town, for the report; "
        "none is trained on.",
    )
    retrain: Literal["always", "needed"] = Field(
        default="always",
        title="Retrain",
        description="needed: only without a champion, after drift, or when "
        "NIGHTSHIFT_OBSERVATION_THRESHOLD new observations are there.",
    )
    window: int = Field(
        default=100,
        ge=10,
        title="Drift window",
        description="Newest observations that drift is told by.",
    )
    drift_significance: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        title="Significance of drift",
        description="Largest p-value of the test that counts as drift.",
    )
    cpus: int = Field(
        default=1,
        ge=1,
        title="CPU cores",
        description="At least, of the machine that simulates and trains.",
    )
    hours: Hours = Field(
        default=2.0,
        title="Training window",
        description="Hours of training, at most.",
    )
    deploy_hours: Hours = Field(
        default=1.0,
        title="Deploy window",
        description="Hours for judging, at most.",
    )
    seed: Seed = Field(
        default=0,
        title="Seed",
        description="Of the designs and the training; each version draws designs of its own.",
    )
    training: Training = Field(
        default_factory=lambda: Training.model_validate({}), title="Training"
    )
    gate: SurrogateGate = Field(
        default_factory=lambda: SurrogateGate.model_validate({}), title="Gate"
    )


class OptimisationParameters(RunParameters):
    """What a search for good designs is told."""

    name: ModelName = Field(
        default="house",
        title="Name",
        description="Name of the surrogate in the registry, whose champion is asked.",
    )
    weather: Place | None = Field(
        default=None,
        title="Weather",
        description="EPW file to build for; a made-up mild climate without one.",
    )
    hours: Hours = Field(default=0.5, title="Window", description="Hours of the search, at most.")
    seed: Seed = Field(default=0, title="Seed", description="Of the first population.")
    optimisation: Optimisation = Field(
        default_factory=lambda: Optimisation.model_validate({}), title="Optimisation"
    )
