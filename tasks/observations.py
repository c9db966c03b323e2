"""Take measured buildings in, and tell the world when there are enough for a retraining."""

from collections.abc import Sequence

from prefect.events import emit_event

from infra import observations
from infra.database import Pool
from infra.settings import settings

EVENT = "observations.threshold-reached"


def take(pool: Pool, model: str, rows: Sequence[dict[str, float]]) -> int:
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
