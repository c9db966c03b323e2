"""Hourly measurements: checked one by one as they come, and a whole year at a time as files.

The sums and the checks of a year are those of jobs.surrogate.observations, where pandas is.
"""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from prefect.events import emit_event
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, create_model

from infra.contract import Artifact
from infra.database import Pool
from infra.errors import InputError, first_fault
from infra.records import readings
from jobs.surrogate.config import DESIGN, OBSERVED
from tasks.runs.given import store
from tasks.surrogate import observations

EVENT = "readings.year-complete"
PLACE = {"latitude": (-90, 90), "longitude": (-180, 180)}
COLUMNS = [*PLACE, *(q.name for q in DESIGN)]
BEGUN = "%Y%m%dT%H%M"
AHEAD = timedelta(days=1)
"""A clock may be so much ahead of ours."""
EARLIEST = datetime(2001, 1, 1, tzinfo=UTC)
"""Clocks that were never set stand at 1970 or 2000."""

_Number: Any = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_measured: dict[str, Any] = {
    q.name: (Annotated[_Number | None, Field(ge=q.low, le=q.high)], None) for q in OBSERVED
}
_place: dict[str, Any] = {
    name: (Annotated[_Number, Field(ge=low, le=high)], ...) for name, (low, high) in PLACE.items()
}
_design: dict[str, Any] = {q.name: (observations.number(q), ...) for q in DESIGN}
_strict = ConfigDict(extra="forbid")
Reading: type[BaseModel] = create_model(
    "Reading", __config__=_strict, time=(AwareDatetime, ...), **_measured
)
"""What was measured in the hour that begins at `time`; what is absent may come by itself."""
Description: type[BaseModel] = create_model("Description", __config__=_strict, **_place, **_design)
"""A building's place and design."""


def store_reading(pool: Pool, model: str, building: str, content: Any) -> None:
    """Store an hour, or without a `time` the description of a building. Raises InputError.

    The hour after a year emits the event `readings.year-complete` of the model.
    """
    if not isinstance(content, dict):
        raise InputError(
            "the reading: it is no JSON object. NIGHTSHIFT_MQTT_MAPPING says what such a sensor is",
            "docs/mqtt.md shows a mapping.",
        )
    if "time" not in content:
        if content.keys().isdisjoint(COLUMNS):
            raise InputError(
                "time: an hour's reading has it, and what was measured under the names of "
                f"docs/mqtt.md; {', '.join(list(content)[:5]) or 'nothing'} is not among them. "
                "NIGHTSHIFT_MQTT_MAPPING says what such a sensor means",
                "docs/mqtt.md shows a mapping.",
            )
        described = _checked(Description, content).model_dump()
        readings.describe(pool, model, building, described)
        if any(year["name"] == building for year in readings.complete(pool, model)):
            announce_year(model)
        return
    measured = _checked(Reading, content).model_dump(exclude_none=True)
    time: datetime = measured.pop("time")
    if time.minute or time.second or time.microsecond:
        raise InputError(f"time: {content['time']} is no whole hour", "Give hourly means.")
    if time > datetime.now(UTC) + AHEAD:
        raise InputError(f"time: {content['time']} is in the future", "Set the sensor's clock.")
    if time < EARLIEST:
        raise InputError(f"time: {content['time']} is before 2001", "Set the sensor's clock.")
    if not measured:
        raise InputError("nothing was measured", "docs/mqtt.md lists what can be.")
    if readings.add(pool, model, building, time.astimezone(UTC), measured):
        announce_year(model)


def announce_year(model: str) -> None:
    """Emit the event that a year of some building is complete."""
    emit_event(
        EVENT,
        resource={"prefect.resource.id": f"nightshift.model.{model}"},
        payload={"model": model},
    )


def _checked(kind: type[BaseModel], content: Any) -> BaseModel:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        where, message = first_fault(error)
        field = ".".join(where) or "the reading"
        raise InputError(f"{field}: {message}", "docs/mqtt.md lists the fields.") from None


def store_years(pool: Pool, model: str) -> Artifact | None:
    """The complete years of a model's buildings as a folder of files, stored; None without any.

    A building without a description is noted as refused, and its year waits.
    """
    with TemporaryDirectory() as scratch:
        for year in readings.complete(pool, model):
            if year["description"] is None:
                readings.mark_lacking(pool, model, year["name"], "no description of it came")
                continue
            hours = readings.hours(pool, model, year["name"], year["start"])
            path = Path(scratch) / f"{year['name']}@{year['start'].astimezone(UTC):{BEGUN}}.csv"
            _write(path, year["description"], hours)
        return store(Path(scratch), "readings") if any(Path(scratch).iterdir()) else None


def _write(
    path: Path, description: dict[str, float], hours: list[tuple[datetime, dict[str, float]]]
) -> None:
    names = [q.name for q in OBSERVED]
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["time", *names, *COLUMNS])
        constant = [description[name] for name in COLUMNS]
        for hour, measured in hours:
            time = hour.astimezone(UTC).isoformat(timespec="minutes")
            table.writerow([time, *(measured.get(name, "") for name in names), *constant])


def store_verdicts(pool: Pool, model: str, verdicts: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """Store what jobs.surrogate.collect found of each year; how many observations are new, and a
    line for each year that was refused.

    Safe to repeat: an observation is stored once by its content, a year is taken once.
    """
    new = observations.store(pool, model, [one["row"] for one in verdicts if "row" in one])
    refused = []
    for one in verdicts:
        building, _, began = one["file"].removesuffix(".csv").rpartition("@")
        start = datetime.strptime(began, BEGUN).replace(tzinfo=UTC)
        error = one.get("error")
        readings.mark_taken(pool, model, building, start, error)
        if error:
            refused.append(f"{building}, from {start:%Y-%m-%d}: {error}")
    if any(year["description"] for year in readings.complete(pool, model)):  # one year later
        announce_year(model)
    return new, refused
