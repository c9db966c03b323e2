"""What follows on events: flows that others start, and notices to people.

Chains cost money and are off until somebody turns them on in the Prefect UI; notices go to the
blocks of NIGHTSHIFT_NOTIFICATIONS. An automation that is there keeps its switch.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, RunDeployment, SendNotification
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation

from deployments.catalogue import capability, flow_names
from tasks.benchmarks import steps as benchmarks
from tasks.guard import steps as guard

TAG = "nightshift"
MODEL = {"prefect.resource.id": "nightshift.model.*"}
RUN = {"prefect.resource.id": "prefect.flow-run.*"}
DECLARED = [capability(name) for name in flow_names()]
CHAINS = {one.started_by: one.name for one in DECLARED if one.started_by}
"""Event of a model → the flow that it starts for this model."""
NOTICES: dict[str, tuple[set[str], dict[str, str], str, str]] = {
    "budget warnings": (
        {guard.EVENT},
        {"prefect.resource.id": "nightshift.budget.*"},
        "{{ event.payload.scope }} a {{ event.payload.period }} has reached "
        "{{ event.payload.percent }} % of its budget",
        "{{ event.payload.used }} of {{ event.payload.limit }} dollars are charged or reserved. "
        "`nightshift budget show` tells by whom.",
    ),
    "failed gates": (
        {f"{one.makes}.refused" for one in DECLARED if one.makes},
        MODEL,
        "{{ event.payload.model }}: version {{ event.payload.version }} did not pass the gate",
        "Version {{ event.payload.champion }} stays champion. {{ event.payload.why }}",
    ),
    "regressed benchmarks": (
        {benchmarks.EVENT},
        {"prefect.resource.id": "nightshift.benchmark.*"},
        "{{ event.payload.figure }} got slower",
        "{{ event.payload.told }} Run {{ event.payload.run }} has the samples and the plots.",
    ),
    "failed runs": (
        {"prefect.flow-run.Crashed", "prefect.flow-run.Failed"},
        RUN,
        "{{ flow_run.name }}: {{ flow_run.state.name }}",
        "{{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
    ),
}
"""Name → events, the resources they are of, subject and text as Prefect's Jinja templates."""


def automations(flows: dict[str, UUID], blocks: Sequence[UUID]) -> list[AutomationCore]:
    """All automations. `flows`: deployment by flow; `blocks`: notification blocks to tell."""
    chains = [
        AutomationCore(
            name=f"{event} starts {flow}",
            description="Off until you turn it on: the run costs up to its --max-cost.",
            enabled=False,
            tags=[TAG],
            trigger=EventTrigger(expect={event}, match=_resources(MODEL)),
            actions=[_run(flows[flow])],
        )
        for event, flow in CHAINS.items()
    ]
    notices = [
        AutomationCore(
            name=f"notice of {name}",
            description="Sent to the blocks of NIGHTSHIFT_NOTIFICATIONS.",
            tags=[TAG],
            trigger=EventTrigger(expect=events, match=_resources(resources)),
            actions=[
                SendNotification(block_document_id=block, subject=subject, body=body)
                for block in blocks
            ],
        )
        for name, (events, resources, subject, body) in NOTICES.items()
    ]
    return chains + (notices if blocks else [])


def apply(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> None:
    """Make the server's automations with our tag the `wanted` ones; safe to repeat.

    Of two with one name, as two `up` of different home folders can make, one that is on stays.
    """
    tagged = AutomationFilter(tags=AutomationFilterTags(all_=[TAG]))
    mine = client.read_automations(automations=tagged)
    there: dict[str, Automation] = {}
    for one in sorted(mine, key=lambda one: not one.enabled):
        if there.setdefault(one.name, one) is not one:
            client.delete_automation(one.id)
    for automation in wanted:
        old = there.pop(automation.name, None)
        if old is None:
            client.create_automation(automation)
            continue
        kept = automation.model_copy(update={"enabled": old.enabled})
        if _content(kept) != _content(old):
            client.update_automation(old.id, kept)
    for stale in there.values():
        client.delete_automation(stale.id)


def _run(deployment: UUID) -> RunDeployment:
    """Start a deployment for the model that the event is of."""
    parameters = {"parameters": {"name": "{{ event.payload.model }}"}}
    return RunDeployment.model_validate(
        {"deployment_id": deployment, "parameters": parameters, "source": "selected"}
    )


def _resources(labels: dict[str, str]) -> Any:
    from prefect.automations import ResourceSpecification

    return ResourceSpecification.model_validate(labels)


def _content(automation: AutomationCore) -> dict[str, Any]:
    return AutomationCore.model_validate(automation.model_dump()).model_dump(mode="json")
