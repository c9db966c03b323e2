"""Take measured buildings in, and tell the world when there are enough for a retraining."""

from collections.abc import Sequence
from typing import Annotated, Any

from prefect.events import emit_event
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from infra.database import Pool
from infra.errors import InputError, first_fault
from infra.records import observations
from infra.settings import settings
from jobs.surrogate.config import DEGREE_DAYS, DESIGN, TARGETS, WEATHER, Quantity

EVENT = "observations.threshold-reached"
LOADS = [q.name for q in TARGETS[:4]]
"""Heating and cooling of both rooms; without any of them there is nothing to learn."""
SIZES = ("width", "depth", "height", "wall_u", "roof_u", "floor_u")
"""What is never 0."""
HOTTEST = 100.0
"""degC: what is above is kelvin."""


def number(quantity: Quantity) -> Any:
    """The type of a field: a finite number that its quantity can have."""
    limits: dict[str, Any] = {}
    if quantity.low >= 0:
        limits["gt" if quantity.name in SIZES else "ge"] = 0
    if quantity.unit == "degC":
        limits["le"] = HOTTEST
    return Annotated[float, Field(strict=True, allow_inf_nan=False, **limits)]


_fields: dict[str, Any] = {q.name: (number(q), ...) for q in DESIGN + WEATHER}
_fields |= {q.name: (number(q) | None, None) for q in DEGREE_DAYS + TARGETS}
Row: type[BaseModel] = create_model("Row", __config__=ConfigDict(extra="forbid"), **_fields)
"""One measured building-year: all inputs of the surrogate, and what was measured of its targets."""


def checked(row: Any) -> dict[str, float]:
    """One observation that was summed up elsewhere. Raises InputError naming the field."""
    try:
        found = Row.model_validate(row).model_dump(exclude_none=True)
    except ValidationError as error:
        where, message = first_fault(error)
        field = ".".join(where) or "the observation"
        raise InputError(
            f"{field}: {message}", "docs/mqtt.md lists the fields of an observation."
        ) from None
    if not any(name in found for name in LOADS):
        raise InputError(f"none of {', '.join(LOADS)} is there", "Give what was measured.")
    return found


def store(pool: Pool, model: str, rows: Sequence[dict[str, float]]) -> int:
    """Store observations (rows of jobs.surrogate.collect) for a model; how many are new.

    Each time that the model's observations pass a multiple of NIGHTSHIFT_OBSERVATION_THRESHOLD, the
    event `observations.threshold-reached` of the resource `nightshift.model.<model>` is emitted.
    """
    threshold = settings().observation_threshold
    new = observations.add(pool, model, rows)
    total = observations.count(pool, model, 0, observations.newest(pool, model))
    if total // threshold > (total - new) // threshold:
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"nightshift.model.{model}"},
            payload={"model": model, "observations": total},
        )
    return new
