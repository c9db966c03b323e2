"""As `federated_membership`, by a stronger attack: the likelihood ratio of Carlini et al. 2022.

    python -m benchmarks.federated_lira ../shared/data/heart-disease-4-hospitals

Run it in the job environment `federated-test`.

The attacker trains models like the attacked one on other splits of the same patients, and knows of
each whom it was trained on: LiRA, online, with one variance for all patients since the models are
few (its section VI.A). Each of MODELS splits is attacked with all others. "Was trained on" is said
where the patient's confidence is likelier among models that were trained on the patient. The right
answers are counted as in `federated_membership`; the interval draws splits anew.
"""

import argparse
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flwr.supercore.task_identity import TaskIdentity
from scipy.special import logit
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
from benchmarks.federated_membership import (
    DRAWS,
    HARDLY,
    OVERFITTED,
    changed,
    losses,
    own_updates,
)
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.data import Table, load, read
from jobs.federated.model import Weights

MODELS = 21
EPSILON = 3.0


def confidences(models: list[Weights], tables: list[Table], masks: list[np.ndarray]) -> np.ndarray:
    """Logit of the right label's probability, of all patients in the order of their files."""
    found = []
    for weights, table, held_out in zip(models, tables, masks, strict=True):
        one = np.empty(len(held_out))
        for rows, x, y in (
            (~held_out, table.train_x, table.train_y),
            (held_out, table.held_out_x, table.held_out_y),
        ):
            one[rows] = logit(np.exp(-losses(weights, x, y)).clip(1e-9, 1 - 1e-9))
        found.append(one)
    return np.concatenate(found)


def ratios(confidence: np.ndarray, members: np.ndarray, target: int) -> np.ndarray:
    """Log likelihood ratio of each patient in model `target`; nan where no other tells.

    `confidence` and `members` (whom a model was trained on): models × patients.
    """
    others = np.arange(len(members)) != target
    known, trained = confidence[others], members[others]
    tells = (trained.sum(0) > 1) & (~trained).sum(0).astype(bool)
    means, variances = [], []
    for of in (trained, ~trained):
        mean = np.where(of, known, 0).sum(0) / of.sum(0).clip(1)
        means.append(mean)
        variances.append(np.where(of, (known - mean) ** 2, 0).sum() / of.sum())
    inside, outside = (
        -((confidence[target] - mean) ** 2) / (2 * variance) - np.log(variance) / 2
        for mean, variance in zip(means, variances, strict=True)
    )
    return np.where(tells, inside - outside, np.nan)


def attack(confidence: np.ndarray, members: np.ndarray) -> list[tuple[float, float]]:
    """(accuracy with as many members as others, AUC) of the attack on each model."""
    found = []
    for target in range(len(members)):
        ratio = ratios(confidence, members, target)
        known, said = ~np.isnan(ratio), ratio > 0
        inside, outside = known & members[target], known & ~members[target]
        right = (said[inside].mean() + (~said[outside]).mean()) / 2
        found.append((float(right), float(roc_auc_score(members[target][known], ratio[known]))))
    return found


def settings_of(names: list[str]) -> dict[str, FederatedConfig]:
    """By name: without noise, and with it of whole hospitals and of single patients."""
    overfitted = changed(config_of(names, "fedavg"), **OVERFITTED)
    found = {"no noise": overfitted}
    for called, unit in (("hospitals", "tenant"), ("patients", "record")):
        noise = noise_for(EPSILON, changed(overfitted, HARDLY, unit))
        found[f"{called}' ε = {EPSILON:g}"] = changed(overfitted, noise, unit)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    found: dict[str, list[np.ndarray]] = {}
    members = []
    for seed in range(SEEDS[0], SEEDS[0] + MODELS):
        with TemporaryDirectory() as name:
            folder = Path(name)
            inputs = write_tenants(source, folder, seed, complete=True)
            files = [folder / tenant / DATA for tenant in FILES]
            tables = [load(file, inputs, "label") for file in files]
            masks = [read(file, inputs, "label")[2] for file in files]
        members.append(~np.concatenate(masks))
        for called, config in settings_of(inputs).items():
            random = np.random.default_rng(seed)
            weights = federate(config, tables, random=random)
            sent = own_updates(weights, config, tables, random)
            for what, models in (("global", owned(weights, tables)), ("own update", sent)):
                rows = confidences(models, tables, masks)
                found.setdefault(f"{called}, {what}", []).append(rows)
    print(f"overfitted network, {MODELS} splits\n\n| model | accuracy | 95 % | AUC |")
    print("|---|---:|---|---:|")
    rng = np.random.default_rng(0)
    for called, rows in found.items():
        told = np.array(attack(np.array(rows), np.array(members)))
        drawn = [rng.choice(told[:, 0], len(told)).mean() for _ in range(DRAWS)]
        low, high = np.quantile(drawn, (0.025, 0.975))
        accuracy, area = told.mean(0)
        print(f"| {called} | {accuracy:.3f} | {low:.3f} to {high:.3f} | {area:.3f} |")


if __name__ == "__main__":
    main()
