"""What became of a candidate, as events that automations can act on.

`<kind>.promoted` and `<kind>.refused` for each kind of model, e.g. `policy.promoted`, all of the
resource `nightshift.model.<name>`. A resumed run announces the same event, by its id, once.
"""

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from infra.models.registry import ModelVersion
from infra.models.verdicts import Verdict


def judged(candidate: ModelVersion, champion: str, verdict: Verdict) -> None:
    """Announce that the gate said no; `champion` is the version that stays."""
    if not verdict.promote:
        refused(candidate, champion, verdict.reason)


def refused(candidate: ModelVersion, champion: str, why: str) -> None:
    """Announce that the version `champion` stays."""
    _emit("refused", candidate, {"champion": champion, "why": why})


def promoted(candidate: ModelVersion) -> None:
    """Announce a new champion, once it serves."""
    _emit("promoted", candidate, {"metrics": candidate.metrics})


def _emit(became: str, candidate: ModelVersion, payload: dict[str, Any]) -> None:
    from prefect.events import emit_event  # `models rollback` is at it sooner without

    event = f"{candidate.kind}.{became}"
    emit_event(
        event,
        resource={"prefect.resource.id": f"nightshift.model.{candidate.model}"},
        payload=payload | {"model": candidate.model, "version": candidate.version},
        id=uuid5(NAMESPACE_URL, f"nightshift:{event}:{candidate.model}:{candidate.version}"),
    )
