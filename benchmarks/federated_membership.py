"""Whether a federated model tells which patients it was trained on: Yeom's attack, four hospitals.

    python -m benchmarks.federated_membership ../shared/data/heart-disease-4-hospitals

Run it in the job environment `federated-test`.

The attacker knows a patient's row and label, the model and the mean loss of its training rows; it
says "was trained on" where the patient's loss is at most that mean (Yeom et al. 2018, adversary 1).
Its accuracy is the mean over members (training rows) and others (held-out rows); chance is 0.5. Own
intercepts are given to it, though they never leave a hospital. `AUC` is that of the loss alone, for
the best of all thresholds. Splits and seeds are those of `benchmarks.federated_hospitals`.
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flwr.app import RecordDict
from flwr.supercore.task_identity import TaskIdentity
from scipy.special import xlogy
from sklearn.metrics import roc_auc_score

from benchmarks.federated_hospitals import (
    FILES,
    SEEDS,
    config_of,
    federate,
    noise_for,
    owned,
    write_tenants,
)
from jobs.federated import client, model
from jobs.federated.config import DATA, FederatedConfig, Unit
from jobs.federated.data import Table, load
from jobs.federated.model import Weights
from jobs.federated.tables import TableLearner

OVERFITTED = {"hidden": 32, "local_steps": 100, "decay": 0.0, "learning_rate": 2.0}
"""Rounds of a network that learns its training rows by heart."""
DRAWS = 500
EPSILONS = (8.0, 3.0, 1.0)
HARDLY = 1e-6
"""A noise multiplier that leaves the clipping alone."""


@dataclass
class Attacked:
    """Losses of members and others in all hospitals, and how often the model is right on each."""

    members: np.ndarray
    others: np.ndarray
    right: tuple[float, float]


def losses(weights: Weights, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The log loss of each row."""
    p = model.probabilities(weights, x).clip(1e-12, 1 - 1e-12)
    return -(xlogy(y, p) + xlogy(1 - y, 1 - p))


def attack(members: np.ndarray, others: np.ndarray) -> float:
    """Accuracy of the loss threshold, with as many members as others."""
    threshold = members.mean()
    return float(np.mean(members <= threshold) + np.mean(others > threshold)) / 2


def attacked(models: list[Weights], tables: list[Table]) -> Attacked:
    """What an attacker sees who has each hospital's model, and asks about its patients."""
    pairs = list(zip(models, tables, strict=True))
    judged = [
        np.concatenate([model.judge(w, *rows(t))[0] for w, t in pairs]).mean()
        for rows in (train_rows, held_out_rows)
    ]
    members, others = (
        np.concatenate([losses(w, *rows(t)) for w, t in pairs])
        for rows in (train_rows, held_out_rows)
    )
    return Attacked(members, others, (float(judged[0]), float(judged[1])))


def train_rows(table: Table) -> tuple[np.ndarray, np.ndarray]:
    return table.train_x, table.train_y


def held_out_rows(table: Table) -> tuple[np.ndarray, np.ndarray]:
    return table.held_out_x, table.held_out_y


def changed(
    config: FederatedConfig, noise: float = 0.0, unit: Unit = "tenant", **rounds: float
) -> FederatedConfig:
    """The same with other rounds or noise."""
    told = config.model_dump()
    told["rounds"] |= rounds
    told["privacy"] |= {"noise_multiplier": noise, "privacy_unit": unit}
    return FederatedConfig.model_validate(told)


def own_updates(
    weights: Weights, config: FederatedConfig, tables: list[Table], random: np.random.Generator
) -> list[Weights]:
    """What each hospital sends in one more round: without secure aggregation the server sees it."""
    content = RecordDict({"arrays": client.record_of(weights)})
    answers = [client.improve(content, 1, TableLearner(config, table, random)) for table in tables]
    sent = [client.weights_of(answer, "arrays") for answer in answers]
    return [owned(own, [table])[0] for own, table in zip(sent, tables, strict=True)]


def private_settings(config: FederatedConfig) -> dict[str, FederatedConfig]:
    """By name: the same with noise, of whole hospitals and of single patients."""
    found = {}
    for unit, whose in (("tenant", "hospitals"), ("record", "patients")):
        found[f"{whose} clipped, no noise"] = changed(config, HARDLY, unit)
        for epsilon in EPSILONS:
            noise = noise_for(epsilon, changed(config, HARDLY, unit))
            found[f"{whose}' ε = {epsilon:g}"] = changed(config, noise, unit)
    return found


def models_of(names: list[str], tables: list[Table], seed: int) -> dict[str, Attacked]:
    """By name: what the attack sees of each model; `seed` is that of the noise."""
    random = np.random.default_rng(seed)
    usual = config_of(names, "fedavg")
    few = changed(usual, **OVERFITTED | {"local_steps": 3, "rounds": 3})
    kinds = {
        "logistic regression": usual,
        "overfitted network": changed(usual, **OVERFITTED),
        "network, 3 rounds of 3 steps": few,
    }
    found = {}
    for called, config in kinds.items():
        weights = federate(config, tables)
        found[called] = attacked(owned(weights, tables), tables)
        sent = own_updates(weights, config, tables, random)
        found[f"{called}, each hospital's own update"] = attacked(sent, tables)
        alone = [TableLearner(config, table).alone() for table in tables]
        found[f"{called}, each hospital alone"] = attacked(alone, tables)
        for told, private in private_settings(config).items():
            weights = federate(private, tables, random=random)
            found[f"{called}, {told}"] = attacked(owned(weights, tables), tables)
            if private.privacy.of_records:
                sent = own_updates(weights, private, tables, random)
                found[f"{called}, {told}, own update"] = attacked(sent, tables)
    return found


def interval(seeds: list[Attacked]) -> tuple[float, float]:
    """95 % of the mean accuracy of the attack, drawing seeds and patients anew."""
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(DRAWS):
        picked = [seeds[n] for n in rng.integers(len(seeds), size=len(seeds))]
        resampled = [
            (rng.choice(a.members, len(a.members)), rng.choice(a.others, len(a.others)))
            for a in picked
        ]
        drawn.append(np.mean([attack(*each) for each in resampled]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    by_model: dict[str, list[Attacked]] = {}
    for seed in SEEDS:
        with TemporaryDirectory() as name:
            folder = Path(name)
            inputs = write_tenants(source, folder, seed, complete=True)
            tables = [load(folder / tenant / DATA, inputs, "label") for tenant in FILES]
        for called, found in models_of(inputs, tables, seed).items():
            by_model.setdefault(called, []).append(found)
    print("| model | attack's accuracy | 95 % | AUC | right on members | on others |")
    print("|---|---:|---|---:|---:|---:|")
    rows = {}
    for called, seeds in by_model.items():
        low, high = interval(seeds)
        row = {
            "attack": float(np.mean([attack(a.members, a.others) for a in seeds])),
            "low": low,
            "high": high,
            "auc": float(np.mean([area(a) for a in seeds])),
            "members": float(np.mean([a.right[0] for a in seeds])),
            "others": float(np.mean([a.right[1] for a in seeds])),
        }
        rows[called] = row
        print(
            f"| {called} | {row['attack']:.3f} | {low:.3f} to {high:.3f} | {row['auc']:.3f} |"
            f" {row['members']:.3f} | {row['others']:.3f} |"
        )
    print(json.dumps(rows))


def area(found: Attacked) -> float:
    """How often a member's loss is below that of another."""
    truth = np.r_[np.ones(len(found.members)), np.zeros(len(found.others))]
    return float(roc_auc_score(truth, -np.r_[found.members, found.others]))


if __name__ == "__main__":
    main()
