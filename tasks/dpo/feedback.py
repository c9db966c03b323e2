"""Take feedback in, and tell the world when there is enough of it for a training."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prefect.events import emit_event

from infra.database import Pool
from infra.errors import InputError
from infra.records import feedback
from infra.records.feedback import Left
from infra.settings import settings
from jobs.dpo.data import Feedback, Reading, require_one_kind

EVENT = "feedback.threshold-reached"
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


def read(path: Path, option: str) -> tuple[list[Feedback], Reading]:
    """The feedback of a file that `option` names, checked; and what was read of the file.

    Raises InputError.
    """
    reading, rows = Reading(path, option), list[Feedback]()
    for number, row in reading.rows(lambda text: text.replace("\0", "\ufffd")):
        if not isinstance(row, Feedback):
            raise InputError(
                f"{path}, line {number}: a pair, and no feedback with a `kind`",
                "Train on pairs with `nightshift run dpo-training --dataset`.",
            )
        if row.kind == "comparison" and row.against == row.completion:
            reading.skipped["comparisons of an answer with itself"] += 1
        else:
            rows.append(row)
    if not rows:
        why = "; ".join(reading.named) or "it is empty"
        raise InputError(f"{path} holds no feedback: {why}", f"Correct {option}.")
    require_one_kind({row.is_chat for row in rows}, option)
    return rows, reading


def store(pool: Pool, model: str, rows: Sequence[Left]) -> int:
    """Store feedback on a model's answers; how many rows are new. Raises InputError.

    Each time that the model's feedback passes a multiple of NIGHTSHIFT_FEEDBACK_THRESHOLD, the
    event `feedback.threshold-reached` of the resource `nightshift.model.<model>` is emitted.
    """
    return _announced(pool, model, feedback.add(pool, rows))


def store_with_answers(pool: Pool, model: str, rows: Sequence[Feedback]) -> int:
    """As `store`, with the answers that are not stored yet; what is known already is not new."""
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
