"""Take feedback in, and tell the world when there is enough of it for a training."""

from collections.abc import Sequence
from datetime import UTC, datetime

from prefect.events import emit_event

from infra import feedback
from infra.database import Pool
from infra.feedback import Left
from infra.settings import settings
from jobs.dpo.data import Feedback

EVENT = "feedback.threshold-reached"
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


def leave(pool: Pool, model: str, rows: Sequence[Left]) -> int:
    """Store feedback on a model's answers; how many rows are new. Raises InputError.

    Each time that the model's feedback passes a multiple of NIGHTSHIFT_FEEDBACK_THRESHOLD, the
    event `feedback.threshold-reached` of the resource `nightshift.model.<model>` is emitted.
    """
    return _announced(pool, model, feedback.add(pool, rows))


def take_in(pool: Pool, model: str, rows: Sequence[Feedback]) -> int:
    """As `leave`, with the answers that are not stored yet; what is known already is not new."""
    return _announced(pool, model, feedback.add_with_answers(pool, model, map(dict, rows)))


def _announced(pool: Pool, model: str, new: int) -> int:
    threshold = settings().feedback_threshold
    total = feedback.count(pool, model, ALWAYS, datetime.now(UTC))
    if total // threshold > (total - new) // threshold:
        emit_event(
            EVENT,
            resource={"prefect.resource.id": f"nightshift.model.{model}"},
            payload={"model": model, "feedback": total},
        )
    return new
