"""What a federation of tenants is told, and what its model is; the control plane reads it, too."""

from typing import Literal

from pydantic import Field, model_validator

from infra.contract import Group, JobConfig, Seed

Strategy = Literal[
    "fedavg", "fedprox", "fedadam", "fedyogi", "fedadagrad", "median", "trimmed-mean", "krum"
]
DATA, TEXTS = "data.csv", "texts.jsonl"
"""In the folder of each tenant: a table, or for a language model texts."""
HELD_OUT_COLUMN = "held_out"
"""Optional there: 1 in it holds a row out, 0 trains on it."""
OF_SINGLE_UPDATES = ("median", "trimmed-mean", "krum")
"""Strategies that compare the updates of single tenants."""
OF_SERVER_RATE = ("fedadam", "fedyogi", "fedadagrad")
"""Strategies by which the server takes a step of its own."""
MOST_TENANTS = 200
Unit = Literal["tenant", "record"]
"""Whose privacy it is (the privacy unit, Ponomareva 2023): that of a tenant with all its rows, or
that of each row."""
QUANTISATION_LEVELS = 2**30
"""Of a value of an update in secure aggregation, over its clipping range."""
FEWEST_IN_A_SUM = 3
"""Tenants of secure aggregation: of two, each would see the other's update."""


class Rounds(Group):
    """How the tenants train together."""

    rounds: int = Field(
        default=10, ge=1, le=1000, title="Rounds", description="Of training and aggregation."
    )
    strategy: Strategy = Field(
        default="fedavg",
        title="Strategy",
        description="Flower's, by which updates become one; median, trimmed-mean and krum bear "
        "a hostile tenant.",
    )
    weighted: bool = Field(
        default=True,
        title="Weighted",
        description="By the rows that each tenant says it has; never where noise hides tenants.",
    )
    own_bias: bool = Field(
        default=True,
        title="Own intercepts",
        description="Each tenant fits the output's intercept to its own rows, and keeps it; "
        "without, one is learnt for all.",
    )
    hidden: int = Field(
        default=0,
        ge=0,
        le=256,
        title="Hidden units",
        description="Of the network; 0 is logistic regression, or a linear encoder.",
    )
    local_steps: int = Field(
        default=10,
        ge=1,
        le=1000,
        title="Local steps",
        description="Of gradient descent over all rows of a tenant, each round; of an adapter "
        "over --batch of its texts.",
    )
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        title="Learning rate",
        description="Of the tenants. Unset: 0.5 for a table; 0.01 for an encoder; for an adapter "
        "0.128 / the model's width.",
    )
    server_rate: float = Field(
        default=0.1,
        gt=0,
        title="Server's learning rate",
        description="Of fedadam, fedyogi and fedadagrad.",
    )
    decay: float = Field(
        default=0.01, ge=0, title="Weight decay", description="L2 penalty of the weights."
    )
    proximal: float = Field(
        default=0.1,
        ge=0,
        title="Proximal term",
        description="Of fedprox: the pull to the global model.",
    )
    norm_bound: float = Field(
        default=10.0,
        gt=0,
        title="Norm bound",
        description="An update of a larger L2 norm is refused, and its tenant named.",
    )
    minimum_tenants: int = Field(
        default=2,
        ge=2,
        le=MOST_TENANTS,
        title="Fewest tenants",
        description="With fewer answers in a round, three times in a row, the run ends.",
    )
    round_seconds: float = Field(
        default=60.0,
        ge=5,
        le=86400,
        title="Seconds a round",
        description="A tenant that has not answered by then is left out, and asked again later.",
    )
    secure_aggregation: bool = Field(
        default=False,
        title="Secure aggregation",
        description="By SecAgg+: the server sees masked updates and their sum, of no tenant its "
        "own.",
    )

    @model_validator(mode="after")
    def _can_be_summed(self) -> "Rounds":
        if not self.secure_aggregation:
            return self
        if self.strategy in OF_SINGLE_UPDATES:
            raise ValueError(
                f"secure_aggregation hides the single updates that strategy {self.strategy} needs; "
                "choose fedavg, fedprox, fedadam, fedyogi or fedadagrad"
            )
        if self.minimum_tenants < FEWEST_IN_A_SUM:
            raise ValueError(
                f"secure_aggregation needs minimum_tenants of at least {FEWEST_IN_A_SUM}: "
                "of two, each sees the other's update"
            )
        return self


class Adapters(Group):
    """How the tenants train an adapter of a language model."""

    batch: int = Field(default=16, ge=1, title="Batch", description="Texts in one local step.")
    lora_rank: int = Field(
        default=16,
        ge=1,
        le=4096,
        title="LoRA rank",
        description="Of the adapter; a champion's must be the same.",
    )


class Encoders(Group):
    """What the tenants' encoder makes of an item."""

    dimensions: int = Field(
        default=16,
        ge=2,
        le=1024,
        title="Dimensions",
        description="Of the unit vector that an encoder makes of an item.",
    )


class Privacy(Group):
    """Differential privacy, with a budget over all nights: of whole tenants, by noise on the mean
    of clipped updates; or of single records, by noise in each node's own training (DP-SGD)."""

    privacy_unit: Unit = Field(
        default="tenant",
        title="Privacy unit",
        description="Of whom: a tenant as a whole, by noise of the server on the mean; or each "
        "record, by noise of its own node on every step (DP-SGD), which the server cannot see "
        "through.",
    )
    noise_multiplier: float = Field(
        default=0.0,
        ge=0,
        title="Noise multiplier",
        description="Deviation of the noise over --clipping-norm; 0 is no differential privacy.",
    )
    clipping_norm: float = Field(
        default=1.0,
        gt=0,
        title="Clipping norm",
        description="Largest L2 norm of an update; of records that of a row's gradient.",
    )
    sampling_rate: float = Field(
        default=1.0,
        gt=0,
        le=1,
        title="Sampling rate",
        description="Of records: with what probability a local step uses a row.",
    )
    adaptive_clipping: bool = Field(
        default=False,
        title="Adaptive clipping",
        description="Let the norm follow the median of the updates' norms from --clipping-norm on; "
        "a twentieth more noise pays for it.",
    )
    max_epsilon: float = Field(
        default=8.0,
        gt=0,
        title="Largest epsilon",
        description="Of a tenant over all nights; who has spent it is left out and told.",
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, title="Delta", description="Of the privacy.")

    @property
    def of_tenants(self) -> bool:
        """Whether the server adds noise to the mean."""
        return self.noise_multiplier > 0 and self.privacy_unit == "tenant"

    @property
    def of_records(self) -> bool:
        """Whether each node adds noise to its own steps."""
        return self.noise_multiplier > 0 and self.privacy_unit == "record"


class Spent(Group):
    """So many rounds of a tenant, each with `steps` releases of noise of that multiplier; of
    records each of which is in a release with probability `sampling_rate`."""

    noise_multiplier: float
    rounds: int
    unit: Unit = "tenant"
    sampling_rate: float = 1.0
    steps: int = 1


def spends(rounds: Rounds, privacy: Privacy, count: int) -> Spent:
    """What `count` such rounds spend of a tenant's privacy."""
    return Spent(
        noise_multiplier=privacy.noise_multiplier,
        rounds=count,
        unit=privacy.privacy_unit,
        sampling_rate=privacy.sampling_rate,
        steps=rounds.local_steps if privacy.of_records else 1,
    )


class FederatedConfig(JobConfig):
    """Of a job. `tenants` is the folder with one of each tenant; nothing of it is copied. With a
    `door`, the folder of a federation, they come to its `address` from their own machines instead.

    A table has `features` and a `label`, and with `ranges` (one for each feature) their usual
    values, by which they are scaled. With a `group` instead of the label, the column that says
    which items belong together, an encoder is trained. With a `model` (its name; the input `base`
    has it where it came from a folder) an adapter of it is trained, of texts.

    `spent`: what each tenant's privacy was spent on before. `centralised` lets this machine read
    the data of all tenants at once, to compare with a model of everything: in simulations only.
    """

    tenants: str
    door: str | None = None
    address: str | None = None
    names: list[str]
    features: list[str]
    label: str
    group: str = ""
    ranges: list[tuple[float, float]] | None = None
    model: str = ""
    adapters: Adapters = Field(default_factory=lambda: Adapters.model_validate({}))
    encoders: Encoders = Field(default_factory=lambda: Encoders.model_validate({}))
    seed: Seed
    centralised: bool
    rounds: Rounds
    privacy: Privacy
    spent: dict[str, list[Spent]]

    def spends(self, rounds: int) -> Spent:
        """What so many rounds of this run spend of a tenant's privacy."""
        return spends(self.rounds, self.privacy, rounds)

    @property
    def clipping_range(self) -> float:
        """In secure aggregation: largest size of a value, and L2 norm, of an update."""
        privacy = self.privacy
        return privacy.clipping_norm if privacy.of_tenants else self.rounds.norm_bound

    @property
    def quantisation_step(self) -> float:
        """Between two levels of a value, in secure aggregation."""
        return 2 * self.clipping_range / QUANTISATION_LEVELS
