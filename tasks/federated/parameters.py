"""What federated rounds are told: the model behind options, form and webhook."""

from pydantic import Field

from infra.contract import Group, Place, Seed
from jobs.federated.config import Adapters, Privacy, Rounds
from tasks.runs.parameters import Hours, ModelName, RunParameters


class FederatedGate(Group):
    """When the federated model replaces the champion."""

    minimum_gain: float = Field(
        default=0.0,
        ge=-1,
        le=1,
        title="Minimum gain",
        description="Held-out accuracy that the gain over the champion must surely exceed.",
    )
    gate_confidence: float = Field(
        default=0.95,
        gt=0.5,
        lt=1,
        title="Confidence of the gate",
        description="Of the gain's interval, 0 to 1.",
    )
    max_tenant_loss: float = Field(
        default=0.05,
        ge=0,
        le=1,
        title="Largest loss of a tenant",
        description="Held-out accuracy that any one tenant may lose.",
    )


class FederatedParameters(RunParameters):
    """What a run is told; every field is an option of the command and of the form."""

    name: ModelName = Field(
        default="federation", title="Name", description="Name of the model in the registry."
    )
    tenants: Place | None = Field(
        default=None,
        title="Tenants",
        description="Folder with one folder of each tenant, and data.csv in it, with --model "
        "texts.jsonl; without one a small made-up federation.",
    )
    model: Place | None = Field(
        default=None,
        title="Model",
        description="Folder or Hugging Face hub id of a language model, of which the tenants train "
        "an adapter instead of a table's model; 'design': the demo's own.",
    )
    federation: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        title="Federation",
        description="Name of one whose tenants join from their own machines, instead of --tenants.",
    )
    label: str = Field(
        default="label",
        min_length=1,
        max_length=200,
        title="Label",
        description="Column with 0 or 1, which is predicted.",
    )
    features: str | None = Field(
        default=None,
        min_length=1,
        max_length=20_000,
        title="Features",
        description="Columns to predict from, with commas between; without them the champion's, or "
        "those that most tenants have.",
    )
    centralised: bool = Field(
        default=False,
        title="Centralised, too",
        description="Let this machine read all tenants' data at once and train on it, to compare. "
        "For simulations only.",
    )
    hours: Hours = Field(default=1.0, title="Window", description="Hours of the rounds, at most.")
    seed: Seed = Field(default=0, title="Seed", description="Of the first weights.")
    rounds: Rounds = Field(default_factory=lambda: Rounds.model_validate({}), title="Rounds")
    adapters: Adapters = Field(
        default_factory=lambda: Adapters.model_validate({}), title="Adapters"
    )
    privacy: Privacy = Field(default_factory=lambda: Privacy.model_validate({}), title="Privacy")
    gate: FederatedGate = Field(
        default_factory=lambda: FederatedGate.model_validate({}), title="Gate"
    )

    @property
    def transfer_hours(self) -> float:
        """Of making the demo's language model."""
        return self.hours
