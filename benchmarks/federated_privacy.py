"""What privacy costs four hospitals: differential privacy of tenants and of records, and secure
aggregation.

    python -m benchmarks.federated_privacy ../shared/data/heart-disease-4-hospitals
    python -m benchmarks.federated_privacy FOLDER --part records

Run it in the job environment `federated-test`.

Splits, seeds, models and the interval are those of `benchmarks.federated_hospitals`. Noise is drawn
NIGHTS times for each seed; `one night` is the deviation of a single one. The settings FEW and FEWER
were chosen on seeds 1 to 8, RANGES before any row was looked at. Secure aggregation has both its
sides in this process, without a network.
"""

import argparse
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.federated_hospitals import (
    FILES,
    SEEDS,
    config_of,
    federate,
    interval,
    noise_for,
    owned,
    write_tenants,
)
from jobs.federated import client, model, secagg, secagg_client, strategies
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.data import Table, load
from jobs.federated.model import Weights
from jobs.federated.secagg_server import Attempt
from jobs.federated.tables import TableLearner

EPSILONS = (1.0, 3.0, 8.0)
NIGHTS = 20
HARDLY = {"noise_multiplier": 1e-6}
FEW = {"rounds": 3, "local_steps": 30}
"""Few rounds share the privacy among few sums."""
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults: 10 rounds of 10 steps, norm 1": ({}, {}),
    "3 rounds of 30 steps, norm 1": (FEW, {}),
    "the same, norm 0.1": (FEW, {"clipping_norm": 0.1}),
    "the same, adaptive from 1": (FEW, {"adaptive_clipping": True}),
    "the same, adaptive from 0.1": (FEW, {"adaptive_clipping": True, "clipping_norm": 0.1}),
}
FEWER = {"rounds": 3, "local_steps": 3}
RANGES = {
    "age": (30, 80),
    "trestbps": (90, 180),
    "chol": (100, 400),
    "thalach": (80, 200),
    "oldpeak": (0, 4),
}
"""What is usual of a patient; all else is 0 or 1."""
SUMMED = ("fedavg", "fedadam")
Split = tuple[list[str], list[Table]]


def splits(source: Path, complete: bool, ranged: bool = False) -> dict[int, Split]:
    """(inputs, the hospitals' tables) by seed; scaled by RANGES, or by each hospital's own rows."""
    found = {}
    for seed in SEEDS:
        with TemporaryDirectory() as name:
            folder = Path(name)
            inputs = write_tenants(source, folder, seed, complete)
            ranges = [RANGES.get(name, (0, 1)) for name in inputs] if ranged else None
            tables = [load(folder / tenant / DATA, inputs, "label", ranges) for tenant in FILES]
        found[seed] = inputs, tables
    return found


def changed(config: FederatedConfig, **groups: dict[str, Any]) -> FederatedConfig:
    """The same with other values in its groups."""
    told = config.model_dump()
    for group, values in groups.items():
        told[group] |= values
    return FederatedConfig.model_validate(told)


def rights(weights: list[Weights], tables: list[Table]) -> list[np.ndarray]:
    """Which held-out rows are right, 1 or 0, by hospital."""
    pairs = zip(weights, tables, strict=True)
    return [model.judge(w, t.held_out_x, t.held_out_y)[0].astype(float) for w, t in pairs]


def private(config: FederatedConfig, seed: int, tables: list[Table]) -> list[np.ndarray]:
    """As `rights`, of NIGHTS nights: rows × nights."""
    random = np.random.default_rng(seed)
    nights = [
        rights(owned(federate(config, tables, random=random), tables), tables)
        for _ in range(NIGHTS)
    ]
    return [np.column_stack(each) for each in zip(*nights, strict=True)]


def line(called: str, seeds: list[list[np.ndarray]]) -> str:
    """A row of the table, of rightness by seed and hospital."""
    mean, low, high = interval(seeds)
    nights = [np.mean([rows.mean(0) for rows in one], 0) for one in seeds]
    spread = np.std(np.concatenate([np.atleast_1d(night) for night in nights]), ddof=1)
    return f"| {called} | {mean:.3f} | {low:.3f} to {high:.3f} | ± {spread:.3f} |"


def differential(source: Path) -> None:
    """FLamby's protocol at each epsilon of whole hospitals."""
    data = splits(source, complete=True)
    _without_noise(data)
    for epsilon in EPSILONS:
        for called, (rounds, privacy) in SETTINGS.items():
            _at(epsilon, called, data, rounds, privacy)


def of_records(source: Path) -> None:
    """FLamby's protocol at each epsilon of single patients; scaled by each hospital's own rows, one
    patient also moves how the others are scaled, which no noise covers."""
    own, ranged = splits(source, complete=True), splits(source, complete=True, ranged=True)
    _without_noise(ranged)
    records = {"privacy_unit": "record"}
    for epsilon in EPSILONS:
        _at(epsilon, "records: defaults, ranges", ranged, {}, records)
        _at(epsilon, "records: 3 rounds of 3 steps, ranges", ranged, FEWER, records)
        _at(epsilon, "records: the same, own rows' scale", own, FEWER, records)


def _without_noise(data: dict[int, Split]) -> None:
    print("\n| model | accuracy, mean of 4 | 95 % | one night |\n|---|---:|---|---:|")

    def show(called: str, make: Callable[[list[str], list[Table]], list[Weights]]) -> None:
        seeds = [rights(make(names, tables), tables) for names, tables in data.values()]
        print(line(called, seeds), flush=True)

    def alone(names: list[str], tables: list[Table]) -> list[Weights]:
        return [TableLearner(config_of(names, "fedavg"), table).alone() for table in tables]

    show("no inputs, own intercepts", lambda n, t: owned(model.initial(len(n), 0, 0), t))
    show("local only", alone)
    show("FedAvg without noise", lambda n, t: owned(federate(config_of(n, "fedavg"), t), t))


def _at(
    epsilon: float,
    called: str,
    data: dict[int, Split],
    rounds: dict[str, Any],
    privacy: dict[str, Any],
) -> None:
    """A row of the table: all nights of all seeds at that epsilon."""
    seeds = []
    for seed, (names, tables) in data.items():
        usual = changed(config_of(names, "fedavg"), rounds=rounds, privacy=HARDLY | privacy)
        noise = {"noise_multiplier": noise_for(epsilon, usual)}
        seeds.append(private(changed(usual, privacy=noise), seed, tables))
    print(line(f"ε = {epsilon:g}, {called}", seeds), flush=True)


def summed(config: FederatedConfig, tables: list[Table]) -> Weights:
    """As `federate`, by secure aggregation."""
    weights = model.initial(len(config.features), config.rounds.hidden, config.seed)
    strategy, learners = strategies.make(config), {}
    for name, table in zip(FILES, tables, strict=True):
        learners[name] = TableLearner(config, table)
    for number in range(1, config.rounds.rounds + 1):
        vectors = {n: partial(_vector, weights, number, one) for n, one in learners.items()}
        attempt = Attempt(_ask(vectors), list(FILES), len(FILES), secagg.size(weights))
        total, good = attempt.sum()
        moved = secagg.unpack(total, len(good), weights, config).update
        mean = client.record_of({name: weights[name] + moved[name] for name in weights})
        content = RecordDict({"arrays": mean, "metrics": MetricRecord({"num-examples": 1.0})})
        reply = Message(
            content, reply_to=Message(RecordDict(), dst_node_id=1, message_type="train")
        )
        weights = strategies.aggregate(strategy, config, number, weights, [reply])
    return weights


def _vector(sent: Weights, number: int, learner: TableLearner) -> secagg.Vector:
    """What a hospital adds to the sum in that round."""
    content = RecordDict({"arrays": client.record_of(sent)})
    found = client.improve(content, number, learner)
    counts: dict[str, Any] = dict(found.metric_records["metrics"])
    return secagg.pack(sent, client.weights_of(found, "arrays"), counts, learner.config)


def _ask(vectors: dict[str, Callable[[], secagg.Vector]]) -> Any:
    """What asks the hospitals of one attempt, each with what it remembers of it."""
    states: dict[str, ConfigRecord] = {name: ConfigRecord() for name in vectors}

    def ask(_stage: str, told: dict[str, ConfigRecord]) -> tuple[dict[str, Message], dict]:
        answers = {}
        for name, each in told.items():
            said = secagg_client.answer(states[name], each, vectors[name])
            asked = Message(RecordDict(), dst_node_id=1, message_type="train")
            answers[name] = Message(RecordDict({secagg.RECORD: said}), reply_to=asked)
        return answers, {}

    return ask


def secure(source: Path, complete: bool) -> None:
    """Strategies with and without secure aggregation, by one protocol."""
    masked = {"secure_aggregation": True, "minimum_tenants": 3}
    print("\n| model | accuracy, mean of 4 | 95 % | between seeds | AUC | balanced | CPU s a run |")
    print("|---|---:|---|---:|---|---|---:|")
    data = splits(source, complete)
    for strategy in SUMMED:
        found: dict[str, list[list[Weights]]] = {}
        for called, rounds, make in (("plain", {}, federate), ("SecAgg+", masked, summed)):
            began = time.process_time()
            models = []
            for names, tables in data.values():
                config = changed(config_of(names, strategy), rounds=rounds)
                models.append(owned(make(config, tables), tables))
            seconds = (time.process_time() - began) / len(data)
            told = _scores(models, [tables for _, tables in data.values()])
            both = zip(models, data.values(), strict=True)
            row = line(f"{strategy}, {called}", [rights(m, tables) for m, (_, tables) in both])
            print(f"{row} {told['auc']} | {told['balanced']} | {seconds:.1f} |", flush=True)
            found[called] = models
        pairs = zip(found["plain"], found["SecAgg+"], data.values(), strict=True)
        weights = other = rows = 0.0
        for plain, hidden, (_, tables) in pairs:
            for a, b in zip(plain, hidden, strict=True):
                weights = max(weights, *(float(np.abs(a[n] - b[n]).max()) for n in a))
            differ = zip(rights(plain, tables), rights(hidden, tables), strict=True)
            other += sum(float(np.sum(a != b)) for a, b in differ)
            rows += sum(len(table.held_out_y) for table in tables)
        print(f"{strategy}: weights differ by {weights:.1e}, {other:.0f} of {rows:.0f} answers")


def _scores(models: list[list[Weights]], tables: list[list[Table]]) -> dict[str, str]:
    """AUC and balanced accuracy of each hospital, means over seeds."""
    told = [
        [model.judge(w, t.held_out_x, t.held_out_y)[1] for w, t in zip(*pair, strict=True)]
        for pair in zip(models, tables, strict=True)
    ]
    return {
        name: " ".join(
            f"{v:.3f}" for v in np.nanmean([[o.get(name, np.nan) for o in one] for one in told], 0)
        )
        for name in ("auc", "balanced")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--part", choices=("tenants", "records", "sums"))
    asked = parser.parse_args()
    source = asked.source
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    if asked.part in (None, "tenants"):
        print("FLamby's protocol, differential privacy of whole hospitals at δ = 1e-5")
        differential(source)
    if asked.part in (None, "records"):
        print("\nFLamby's protocol, differential privacy of single patients at δ = 1e-5")
        of_records(source)
    if asked.part in (None, "sums"):
        print("\nSecure aggregation, FLamby's protocol")
        secure(source, complete=True)
        print("\nSecure aggregation, all 920 rows")
        secure(source, complete=False)
    print(f"\n{time.process_time():.0f} s of CPU")


if __name__ == "__main__":
    main()
