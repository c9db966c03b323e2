"""Which answers of the tenants may be aggregated, and why the others may not."""

import math
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from infra.inert import visible
from jobs.federated.client import COUNTS, record_of, weights_of
from jobs.federated.model import Weights

LONGEST_REASON = 200


def screen(
    replies: list[Message], names: dict[int, str], number: int, sent: Weights, bound: float
) -> tuple[dict[str, Message], dict[str, str]]:
    """(answers to the message of round `number` by tenant, reasons of those that were refused).

    `names`: tenants by node. `sent`: the weights that the round began with. `bound`: the largest L2
    norm of an update. What is good holds nothing but the weights, in the order of `sent`, and the
    counts: one that says more would stop the strategy for all.
    """
    good: dict[str, Message] = {}
    refused: dict[str, str] = {}
    for reply in replies:
        tenant = names[reply.metadata.src_node_id]
        reason = fault(reply, number, COUNTS) or fault_of_update(reply, sent, bound)
        if reason:
            refused[tenant] = reason
            continue
        found, counts = weights_of(reply.content, "arrays"), counts_of(reply)
        reply.content = RecordDict(
            {
                "arrays": record_of({name: found[name].astype(sent[name].dtype) for name in sent}),
                "metrics": MetricRecord({name: float(counts[name]) for name in COUNTS}),
            }
        )
        good[tenant] = reply
    return good, refused


def no_answer(reply: Message, number: int) -> str | None:
    """Why it is none to the message of round `number`: an error, a refusal, another round's."""
    if reply.has_error():
        return _inert(f"its node failed: {reply.error.reason}")
    content = reply.content
    if "refusal" in content.config_records:
        return _inert(f"its node refuses: {content.config_records['refusal'].get('reason')}")
    if content.config_records.get("echo", {}).get("round") != number:
        return "it answered to another round"
    return None


def fault(reply: Message, number: int, counts: tuple[str, ...]) -> str | None:
    """What is wrong with an answer that has counts: it is none, or they are not there, no finite
    numbers or contradict each other."""
    if reason := no_answer(reply, number):
        return reason
    told = counts_of(reply)
    values = [told.get(name) for name in (*counts, *told)]
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return "its counts are missing or no finite numbers"
    within = [value for name, value in told.items() if "right" in name or name == "groups"]
    if not told["held-out"] > 0 or any(value > told["held-out"] for value in within):
        return "its counts contradict each other"
    return None


def fault_of_update(reply: Message, sent: Weights, bound: float) -> str | None:
    """What is wrong with the weights: their names, shapes, values, or how far they have moved."""
    if not counts_of(reply)["num-examples"] > 0:
        return "it says that it has no rows"
    try:
        found = weights_of(reply.content, "arrays")
    except Exception as error:  # bytes of a stranger
        return f"its weights cannot be read ({type(error).__name__})"
    shapes = {name: value.shape for name, value in found.items()}
    if shapes != {name: value.shape for name, value in sent.items()}:
        return "its weights have other names or shapes: another version of the model"
    if not all(value.dtype.kind == "f" and np.isfinite(value).all() for value in found.values()):
        return "its weights are not finite numbers"
    norm = math.sqrt(sum(float(((found[n] - sent[n]) ** 2).sum()) for n in sent))
    if not norm <= bound:
        return f"its update has a norm of {norm:.3g}, above the bound of {bound:g}"
    return None


def counts_of(reply: Message) -> dict[str, Any]:
    """What an answer says in numbers, as they came."""
    return dict(reply.content.metric_records.get("metrics", {}))


def _inert(text: str) -> str:
    return visible(text)[:LONGEST_REASON]
