"""What federated rounds are told: the model behind options, form and webhook."""

import math
from collections.abc import Iterator
from typing import Self

from pydantic import Field, model_validator

from infra.contract import Group, Place, Seed
from infra.errors import InputError
from jobs.federated.config import (
    FEWEST_IN_A_SUM,
    OF_SERVER_RATE,
    OF_SINGLE_UPDATES,
    Adapters,
    Encoders,
    Privacy,
    Rounds,
)
from tasks.policy.design import DEMO
from tasks.runs.parameters import Hours, ModelName, RunParameters

LABEL = "label"
Ranges = list[tuple[float, float]]
"""Of each feature: between which values most lie."""


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
        default=LABEL,
        min_length=1,
        max_length=200,
        title="Label",
        description="Column with 0 or 1, which is predicted.",
    )
    group: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        title="Group",
        description="Column with a name or number that items which belong together share: an "
        "encoder is trained that finds them, instead of a model that predicts a label.",
    )
    features: str | None = Field(
        default=None,
        min_length=1,
        max_length=20_000,
        title="Features",
        description="Columns to predict from, with commas between; without them the champion's, or "
        "those that most tenants have.",
    )
    ranges: str | None = Field(
        default=None,
        min_length=1,
        max_length=20_000,
        title="Ranges",
        description="Between which values most of a column lie, as age=20:80,chol=100:400; 0:1 "
        "without a name is of all others. Scales the columns, instead of each tenant's own rows.",
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
    encoders: Encoders = Field(
        default_factory=lambda: Encoders.model_validate({}), title="Encoders"
    )
    privacy: Privacy = Field(default_factory=lambda: Privacy.model_validate({}), title="Privacy")
    gate: FederatedGate = Field(
        default_factory=lambda: FederatedGate.model_validate({}), title="Gate"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        for fault in self._faults():
            raise ValueError(fault)
        return self

    def _faults(self) -> Iterator[str]:
        """What excludes each other, or would be ignored; in words for people, with the names of
        the fields, which a command tells as options."""
        rounds, privacy = self.rounds, self.privacy
        if self.model and privacy.of_records:
            yield (
                "privacy_unit record is of tables only, not of a model's adapter; choose tenant, "
                "or leave model out"
            )
        if self.model:
            yield from _given(
                "is of tables, and with model a run trains an adapter on texts; leave one of the "
                "two out",
                group=self.group,
                features=self.features,
                ranges=self.ranges,
                label=self.label != LABEL,
                hidden=rounds.hidden,
                own_bias=not rounds.own_bias,
            )
            if self.model != DEMO and not (self.tenants or self.federation):
                yield (
                    f"tenants or federation is needed with a model that is not the demo's own "
                    f"({DEMO!r})"
                )
            if self.model == DEMO and self.federation:
                yield (
                    f"model {DEMO!r} does not go with federation, whose tenants have no copy of "
                    "it; give a folder or hub id that they have, too"
                )
        else:
            usual = Adapters()
            yield from _given(
                "is of adapters; give model, too, or leave it out",
                batch=self.adapters.batch != usual.batch,
                lora_rank=self.adapters.lora_rank != usual.lora_rank,
            )
        yield from self._faults_of_encoders()
        if self.federation:
            yield from _given(
                "does not go with federation, whose data lies elsewhere; leave one of the two out",
                tenants=self.tenants,
                centralised=self.centralised,
            )
        if len(set(self.columns)) < len(self.columns) or self.learnt_from in self.columns:
            own = "group" if self.group else "label"
            yield f"features names a column twice, or that of {own}"
        yield from self._faults_of_ranges()
        if rounds.strategy != "fedprox":
            yield from _given(
                "is of strategy fedprox only", proximal=rounds.proximal != Rounds().proximal
            )
        if rounds.strategy not in OF_SERVER_RATE:
            yield from _given(
                f"is of strategy {', '.join(OF_SERVER_RATE)} only",
                server_rate=rounds.server_rate != Rounds().server_rate,
            )
        if rounds.strategy in OF_SINGLE_UPDATES:
            if privacy.of_tenants:
                yield (
                    f"noise_multiplier does not go with strategy {rounds.strategy}: noise hides "
                    "what one can change of a mean, and more of this; choose fedavg, fedprox, "
                    "fedadam, fedyogi or fedadagrad"
                )
            if rounds.minimum_tenants < FEWEST_IN_A_SUM:
                yield (
                    f"strategy {rounds.strategy} needs minimum_tenants of at least "
                    f"{FEWEST_IN_A_SUM}: of two, nobody can tell who is hostile"
                )
        yield from self._faults_of_privacy()

    def _faults_of_encoders(self) -> Iterator[str]:
        if not self.group:
            yield from _given(
                "is of encoders; give group, too, or leave it out",
                dimensions=self.encoders.dimensions != Encoders().dimensions,
            )
            return
        yield from _given(
            "does not go with group, by which an encoder is trained; leave one of the two out",
            label=self.label != LABEL,
            own_bias=not self.rounds.own_bias,
        )
        if self.privacy.of_records:
            yield (
                "privacy_unit record does not go with group: what an item is compared with in a "
                "step are others, so that no gradient is of one alone; choose tenant, or leave "
                "group out"
            )

    def _faults_of_ranges(self) -> Iterator[str]:
        try:
            named = {name for name, _ in _read_ranges(self.ranges or "")} - {""}
        except ValueError as error:
            yield f"ranges: {error}"
            return
        if self.columns and (strange := sorted(named - set(self.columns))):
            yield f"ranges names {', '.join(strange)}, which features does not"

    def _faults_of_privacy(self) -> Iterator[str]:
        rounds, privacy = self.rounds, self.privacy
        if privacy.of_tenants and privacy.adaptive_clipping and rounds.secure_aggregation:
            yield (
                "adaptive_clipping does not go with secure_aggregation: who was clipped is not "
                "summed; leave one of the two out"
            )
        if not privacy.noise_multiplier:
            usual = Privacy()
            yield from _given(
                "says how noise is added and counted, and there is none; give noise_multiplier, "
                "too, or leave it out",
                privacy_unit=privacy.privacy_unit != usual.privacy_unit,
                adaptive_clipping=privacy.adaptive_clipping,
                clipping_norm=privacy.clipping_norm != usual.clipping_norm,
                max_epsilon=privacy.max_epsilon != usual.max_epsilon,
                delta=privacy.delta != usual.delta,
            )
        if not privacy.of_records:
            yield from _given(
                "is of privacy_unit record only", sampling_rate=privacy.sampling_rate != 1
            )
            return
        yield from _given(
            "is of privacy_unit tenant only: a record's gradient is clipped where it lies, and how "
            "many were is not told",
            adaptive_clipping=privacy.adaptive_clipping,
        )
        if not self.ranges and not self.model:
            yield (
                "ranges is needed with privacy_unit record: columns scaled by a tenant's own rows "
                "would tell of single ones; say what is usual, from what is known without them"
            )

    @property
    def learnt_from(self) -> str:
        """The column that is learnt from: the group's, or the label's."""
        return self.group or self.label

    @property
    def columns(self) -> list[str]:
        """Those of `features`; none where it is not given."""
        return [name.strip() for name in (self.features or "").split(",") if name.strip()]

    def scales(self, features: list[str]) -> Ranges | None:
        """The range of each feature; None without any. Raises InputError where one has none, or
        is of no feature."""
        if self.ranges is None:
            return None
        found = dict(_read_ranges(self.ranges))
        if strange := sorted(found.keys() - {"", *features}):
            raise InputError(
                f"--ranges: {', '.join(strange)} is none of the columns {', '.join(features)}",
                "Name columns that the tenants have, or give --features.",
            )
        if lacking := [name for name in features if name not in found and "" not in found]:
            raise InputError(
                f"--ranges: none is given of {', '.join(lacking)}",
                "Name theirs, too, or one without a name for all others.",
            )
        return [found.get(name, found.get("", (0.0, 0.0))) for name in features]

    @property
    def transfer_hours(self) -> float:
        """Of making the demo's language model."""
        return self.hours


def _given(why: str, **fields: object) -> Iterator[str]:
    """A fault for each of the fields that has a value that is not as usual."""
    yield from (f"{name} {why}" for name, value in fields.items() if value)


def _read_ranges(text: str) -> Iterator[tuple[str, tuple[float, float]]]:
    """(name, range) of each; the name of one without is empty. Raises ValueError in words."""
    for each in filter(None, (part.strip() for part in text.split(","))):
        name, _, values = each.rpartition("=")
        low, _, high = values.partition(":")
        try:
            found = float(low), float(high)
        except ValueError:
            raise ValueError(f"{each!r} is no range such as age=20:80") from None
        if not (math.isfinite(found[0]) and math.isfinite(found[1]) and found[0] < found[1]):
            raise ValueError(f"{each!r} does not go from a lower number to a higher one")
        yield name.strip(), found
