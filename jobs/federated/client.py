"""What a tenant's node does: Flower's ClientApp. It sees the tenant's rows, and answers with
weights and counts only.

A message carries the weights (`arrays`) and the job's config as JSON. The node knows its own
folder, and where a language model lies, by its own configuration; the server cannot name another.
"""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from infra.errors import InputError
from jobs.federated import secagg, secagg_client
from jobs.federated.config import FederatedConfig
from jobs.federated.kinds import Learner, kind_of
from jobs.federated.model import Weights

app = ClientApp()
COUNTS = ("num-examples", "right", "held-out", "loss")
"""What an update says of the tenant's rows, beside its weights."""

COMPARED, IN_GROUPS = ("right", "won", "lost"), ("gains-gains", "gains-sizes", "recall5")
"""What a judgement says of each model; the latter of an encoder only."""


@app.train()
def train(message: Message, context: Context) -> Message:
    """The tenant's update of the global model, and how good the latter is on its held-out rows; in
    secure aggregation one of its four stages."""
    return _answer(message, context, _train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """How the candidate does on the held-out rows, against the champion and the tenant alone."""
    return _answer(message, context, _compare)


def _answer(
    message: Message,
    context: Context,
    work: Callable[[RecordDict, FederatedConfig, Context], RecordDict],
) -> Message:
    """The reply; what is wrong with the tenant's data is told in words, without its values."""
    told = message.content.config_records["config"]
    config = FederatedConfig.model_validate_json(str(told["job"]))
    try:
        reply = work(message.content, config, context)
    except InputError as error:
        reply = RecordDict({"refusal": ConfigRecord({"reason": error.message})})
    reply["echo"] = ConfigRecord({"round": told["round"]})
    return Message(reply, reply_to=message)


def _train(content: RecordDict, config: FederatedConfig, context: Context) -> RecordDict:
    number = int(str(content.config_records["config"]["round"]))
    if not config.rounds.secure_aggregation:
        if context.node_config.get("only_sums"):
            raise InputError(
                "it has joined for secure aggregation only",
                "Start the run with --secure-aggregation.",
            )
        return improve(content, number, _learner(config, context))

    def vector() -> secagg.Vector:
        """What this tenant adds to the sum."""
        found = improve(content, number, _learner(config, context))
        counts: dict[str, Any] = dict(found.metric_records["metrics"])
        sent, moved = weights_of(content, "arrays"), weights_of(found, "arrays")
        return secagg.pack(sent, moved, counts, config)

    state = context.state.config_records.setdefault(secagg.RECORD, ConfigRecord())
    told = content.config_records[secagg.RECORD]
    said = secagg_client.answer(state, told, vector, digest(content))
    return RecordDict({secagg.RECORD: said})


def digest(content: RecordDict) -> bytes:
    """SHA-256 of the weights, the config and the round of a message: in secure aggregation the
    tenants compare it."""
    parts = [repr(sorted(content.config_records["config"].items())).encode()]
    for name, array in content.array_records.get("arrays", {}).items():
        parts += [name.encode(), array.dtype.encode(), repr(array.shape).encode(), array.data]
    return sha256(b"".join(sha256(part).digest() for part in parts)).digest()


def improve(content: RecordDict, number: int, learner: Learner) -> RecordDict:
    """What round `number` makes of the weights of a message, and counts of the tenant's rows."""
    weights = weights_of(content, "arrays")
    right, scores = learner.judge(weights)
    found = learner.improve(weights, number)
    metrics: dict[str, Any] = {
        "num-examples": float(learner.rows),
        "right": float(right.sum()),
        "held-out": float(len(right)),
        "loss": scores["loss"],
    }
    return RecordDict({"arrays": record_of(found), "metrics": MetricRecord(metrics)})


def _compare(content: RecordDict, config: FederatedConfig, context: Context) -> RecordDict:
    """Counts of held-out rows: which are right for each model, and for one of each pair only.

    Of rows that err together in groups also sums over the groups: of squared sizes, squared gains,
    and products of both.
    """
    learner = _learner(config, context)
    sent = {"arrays": "candidate", "champion": "champion", "centralised": "centralised"}
    models = {
        called: weights_of(content, name)
        for name, called in sent.items()
        if name in content.array_records
    }
    judged = {name: learner.judge(weights) for name, weights in models.items()}
    judged["local"] = learner.judge(learner.alone())
    ours = judged["candidate"][0]
    metrics: dict[str, Any] = {"held-out": float(len(ours))}
    groups = learner.groups
    if groups is not None:
        sizes = np.bincount(groups)
        metrics |= {"groups": float(len(sizes)), "sizes-sizes": float(sizes @ sizes)}
    for name, (right, scores) in judged.items():
        metrics[f"{name}-right"] = float(right.sum())
        metrics[f"{name}-won"] = float((ours & ~right).sum())
        metrics[f"{name}-lost"] = float((right & ~ours).sum())
        metrics |= {f"{name}-{score}": value for score, value in scores.items()}
        if groups is not None:
            gains, sizes = np.bincount(groups, ours.astype(float) - right), np.bincount(groups)
            metrics[f"{name}-gains-gains"] = float(gains @ gains)
            metrics[f"{name}-gains-sizes"] = float(gains @ sizes)
    return RecordDict({"metrics": MetricRecord(metrics)})


def judged_counts(config: FederatedConfig, models: list[str]) -> tuple[str, ...]:
    """What a judgement of these models has to tell."""
    each = (*COMPARED, *IN_GROUPS) if config.group else COMPARED
    whole = ("held-out", "groups", "sizes-sizes") if config.group else ("held-out",)
    return (*whole, *(f"{model}-{count}" for model in models for count in each))


def _learner(config: FederatedConfig, context: Context) -> Learner:
    """The tenant with its rows. Raises InputError."""
    kind, own = kind_of(config), context.node_config
    if config.model and own.get("identity", config.model) != config.model:
        raise InputError(
            "its language model is another one than the run's"
            if own["base"]
            else "it has joined without --model, and the run adapts a language model",
            "Join with a copy of the model that the owner of the federation names.",
        )
    data = kind.load(config, Path(str(own["folder"])))
    return kind.learner(config, str(own["base"]), data)


def record_of(weights: Weights) -> ArrayRecord:
    """As Flower sends them."""
    return ArrayRecord({name: Array(value) for name, value in weights.items()})


def weights_of(content: RecordDict, name: str) -> Weights:
    """The weights in one record of a message."""
    return {key: array.numpy() for key, array in content.array_records[name].items()}
