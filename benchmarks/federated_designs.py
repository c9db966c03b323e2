"""Four workshops adapt the demo's design policy, one kind of part each: alone, together, all rows.

    python -m benchmarks.federated_designs BASE

Run it in the job environment `federated-test`. BASE is the demo's base model, a folder
(`datasets/design/…/model` in the object store, after any night of the demo). The rounds are the
job's own functions, called in one process: no node, no network. All settings are the preset's.

Right is an answer that is the design that was asked for, letter by letter. `own` is the mean of the
workshops on their own held-out requests, `all` on those of all four.
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from jobs.federated import adapters, client, strategies
from jobs.federated.adapters import AdapterLearner
from jobs.federated.config import FederatedConfig
from jobs.federated.model import Weights
from tasks.federated.demo import WORKSHOPS, make_workshops

SEEDS = range(42, 45)
ROUNDS = {"rounds": 5, "local_steps": 10}


def config_of(seed: int, **rounds: object) -> FederatedConfig:
    """The preset's."""
    told = {"tenants": "", "names": list(WORKSHOPS), "features": [], "label": "label"}
    told |= {"seed": seed, "model": "design", "centralised": False, "spent": {}, "privacy": {}}
    return FederatedConfig.model_validate({**told, "rounds": {**ROUNDS, **rounds}})


def federate(config: FederatedConfig, tenants: list[AdapterLearner]) -> Weights:
    """All rounds, in this process."""
    weights, strategy = tenants[0].initial, strategies.make(config)
    for number in range(1, config.rounds.rounds + 1):
        replies = []
        for tenant in tenants:
            content = RecordDict({"arrays": client.record_of(weights)})
            asked = Message(RecordDict(), dst_node_id=1, message_type="train")
            replies.append(Message(client.improve(content, number, tenant), reply_to=asked))
        weights = strategies.aggregate(strategy, config, number, weights, replies)
    return weights


def rights(weights: list[Weights], tenants: list[AdapterLearner]) -> np.ndarray:
    """Share of right answers, [model of workshop, requests of workshop]."""
    return np.array([[t.judge(own)[0].mean() for t in tenants] for own in weights])


def one_seed(base: str, seed: int) -> dict[str, np.ndarray]:
    """By model: `rights`, of one model each workshop, or of one for all."""
    config = config_of(seed)
    with TemporaryDirectory() as name:
        folder = make_workshops(Path(name), seed)
        data = [adapters.load(config, folder / workshop) for workshop in WORKSHOPS]
    tenants = [AdapterLearner(config, base, texts) for texts in data]
    everything = AdapterLearner(config, base, adapters.together(data))
    models: dict[str, Callable[[], list[Weights]]] = {
        "base": lambda: [tenants[0].initial],
        "alone": lambda: [tenant.alone() for tenant in tenants],
        "all rows": lambda: [everything.alone()],
        "FedAvg": lambda: [federate(config, tenants)],
    }
    return {called: rights(make(), tenants) for called, make in models.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base")
    asked = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    seeds = [one_seed(asked.base, seed) for seed in SEEDS]
    rows = {}
    print("| model | own | all | by workshop, own |")
    print("|---|---:|---:|---|")
    for called in seeds[0]:
        found = [one[called] for one in seeds]
        own = [np.diag(each) if len(each) > 1 else each[0] for each in found]
        means, every = [each.mean() for each in own], [each.mean() for each in found]
        shares = " ".join(
            f"{name} {v:.2f}" for name, v in zip(WORKSHOPS, np.mean(own, 0), strict=True)
        )
        print(
            f"| {called} | {np.mean(means):.3f} ± {np.std(means, ddof=1):.3f} |"
            f" {np.mean(every):.3f} ± {np.std(every, ddof=1):.3f} | {shares} |"
        )
        rows[called] = {"own": means, "all": every}
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
