"""What became of a candidate, as events that automations can act on.

`policy.promoted` and `policy.refused`, `surrogate.promoted` and `surrogate.refused`, all of the
resource `nightshift.model.<name>`. A resumed run announces the same event, by its id, once.
"""

from typing import Any, Literal
from uuid import NAMESPACE_URL, uuid5

from prefect.events import emit_event

from infra.registry import ModelVersion
from infra.verdicts import Verdict

Kind = Literal["policy", "surrogate"]


def judged(kind: Kind, candidate: ModelVersion, champion: str, verdict: Verdict) -> None:
    """Announce that the gate said no; `champion` is the version that stays."""
    if not verdict.promote:
        _emit(f"{kind}.refused", candidate, {"champion": champion, "why": verdict.reason})


def promoted(kind: Kind, candidate: ModelVersion) -> None:
    """Announce a new champion, once it serves."""
    _emit(f"{kind}.promoted", candidate, {"metrics": candidate.metrics})


def _emit(event: str, candidate: ModelVersion, payload: dict[str, Any]) -> None:
    emit_event(
        event,
        resource={"prefect.resource.id": f"nightshift.model.{candidate.model}"},
        payload=payload | {"model": candidate.model, "version": candidate.version},
        id=uuid5(NAMESPACE_URL, f"nightshift:{event}:{candidate.model}:{candidate.version}"),
    )
