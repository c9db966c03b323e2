"""What every flow that costs money is told, and the types of what many of them are told."""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from infra.contract import MODEL_NAME, in_order
from tasks.runs.purse import Target

Hours = Annotated[float, Field(gt=0, le=168, allow_inf_nan=False)]
"""The window of a step: it is ended after so many hours, a week at most."""
ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
"""The name of a model in the registry."""
LARGEST = 2**53
"""Whole numbers up to it are the same in every JSON; Prefect's server fails at those of 65 bits."""


FIRST = ("name", "model", "prompts", "reward", "max_cost", "target", "accelerators", "hours")
"""What a first run is told, in the order of a form."""


def first_fields_first(schema: dict[str, Any]) -> None:
    """Order the form of a flow: first what a first run is told, then all else, as advanced and in
    the order of the help."""
    fields: dict[str, Any] = schema.get("properties", {})
    rest = [name for name in fields if name not in FIRST]
    for name in rest:
        fields[name]["title"] = f"Advanced: {fields[name].get('title', name.capitalize())}"
    schema["properties"] = {name: fields[name] for name in (*FIRST, *rest) if name in fields}
    in_order(schema)


class RunParameters(BaseModel):
    """What the parameters of every flow that costs money begin with."""

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), json_schema_extra=first_fields_first
    )

    max_cost: Decimal = Field(
        default=Decimal(20),
        gt=0,
        max_digits=12,
        decimal_places=4,
        title="Largest cost",
        description="Dollars that this run may cost in all, retries included.",
    )
    target: Target = Field(
        default="local",
        title="Target",
        description="Where jobs run: this machine, SkyPilot, or whichever is cheaper.",
    )

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        """Of every number, those of nested models too."""
        if faults := list(_faults(self.model_dump())):
            raise ValidationError.from_exception_data(type(self).__name__, faults)
        return self


def _faults(value: Any, where: tuple[str, ...] = ()) -> Iterator[InitErrorDetails]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _faults(inner, (*where, name))
    elif isinstance(value, float) and not math.isfinite(value):
        yield InitErrorDetails(type="finite_number", loc=where, input=value)
    elif isinstance(value, int) and abs(value) > LARGEST:
        message = "Input should be a whole number up to {most}"
        kind = PydanticCustomError("too_large", message, {"most": LARGEST})
        yield InitErrorDetails(type=kind, loc=where, input=value)
