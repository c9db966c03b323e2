"""Four hospitals train one model: FLamby's protocol and ours, by strategy, five seeds each.

    python -m benchmarks.federated_hospitals ../shared/data/heart-disease-4-hospitals
    python -m benchmarks.federated_hospitals FOLDER --write TENANTS   (the files of seed 42)

Run it in the job environment `federated-test`.

The rounds are the job's own functions, called in one process: no node, no network. All settings are
the flow's defaults. FLamby: Ogier du Terrail et al. 2022, Fed-Heart-Disease.
"""

import argparse
import csv
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from sklearn.model_selection import train_test_split

from jobs.federated import accountant, client, model, strategies
from jobs.federated.config import DATA, FederatedConfig
from jobs.federated.data import Table, load
from jobs.federated.model import Weights
from jobs.federated.tables import TableLearner, together

FILES = {
    "cleveland": "processed.cleveland.data",
    "hungary": "reprocessed.hungarian.data",
    "switzerland": "processed.switzerland.data",
    "va": "processed.va.data",
}
COLUMNS = "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal".split()
CATEGORIES = {"cp": (2, 3, 4), "restecg": (1, 2), "slope": (2, 3), "thal": (6, 7)}
SEEDS = range(42, 47)
STRATEGIES = "fedavg fedprox fedadam fedyogi fedadagrad median trimmed-mean krum".split()
TRAIN = 0.66
DRAWS = 2000


def hospital(path: Path, complete: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(rows × inputs, NaN where missing; labels; names), one column for each category but one.

    `complete`: FLamby's ten columns of rows that lack none of them; else all of all rows.
    """
    with path.open(newline="") as stream:
        lines = list(csv.reader(stream))[1:]
    used = COLUMNS[:10] if complete else COLUMNS
    values = [
        [np.nan if v in ("?", "-9") else float(v) for v in line[: len(used)]] for line in lines
    ]
    x, y = np.array(values), np.array([line[-1] == "'present'" for line in lines], float)
    if complete:
        whole = ~np.isnan(x).any(1)
        x, y = x[whole], y[whole]
    columns, names = [], []
    for place, name in enumerate(used):
        if name not in CATEGORIES:
            columns, names = [*columns, x[:, place]], [*names, name]
        for level in CATEGORIES.get(name, ()):
            found = np.where(np.isnan(x[:, place]), np.nan, x[:, place] == level)
            columns, names = [*columns, found], [*names, f"{name}_{level}"]
    return np.column_stack(columns), y, names


def write_tenants(source: Path, folder: Path, seed: int, complete: bool) -> list[str]:
    """A file of each hospital with its `held_out` column, split as FLamby does; the inputs."""
    names: list[str] = []
    for tenant, file in FILES.items():
        x, y, names = hospital(source / file, complete)
        both = min(np.sum(y == 0), np.sum(y == 1)) > 2
        _, held_out = train_test_split(
            np.arange(len(y)),
            test_size=1 - TRAIN,
            train_size=TRAIN,
            random_state=seed,
            stratify=y if both else None,
        )
        marks = np.isin(np.arange(len(y)), held_out).astype(int)
        (folder / tenant).mkdir(parents=True)
        with (folder / tenant / DATA).open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow([*names, "label", "held_out"])
            for row, label, mark in zip(x, y, marks, strict=True):
                table.writerow([*("" if np.isnan(v) else v for v in row), int(label), mark])
    return names


def config_of(
    names: list[str], strategy: str, noise: float = 0.0, own_bias: bool = True
) -> FederatedConfig:
    """The flow's defaults, by that strategy."""
    told = {"tenants": "", "names": list(FILES), "features": names, "label": "label", "seed": 0}
    told |= {
        "centralised": False,
        "spent": {},
        "rounds": {"strategy": strategy, "own_bias": own_bias},
    }
    return FederatedConfig.model_validate(told | {"privacy": {"noise_multiplier": noise}})


def federate(
    config: FederatedConfig,
    tables: list[Table],
    hostile: int = -1,
    random: np.random.Generator | None = None,
) -> Weights:
    """All rounds, in this process; the hospital of number `hostile` turns its update's sign.

    `random` draws the noise of differential privacy, of the server and of the hospitals.
    """
    weights = model.initial(len(config.features), config.rounds.hidden, config.seed)
    strategy = strategies.make(config)
    for number in range(1, config.rounds.rounds + 1):
        replies = []
        for place, table in enumerate(tables):
            content = RecordDict({"arrays": client.record_of(weights)})
            answer = client.improve(content, number, TableLearner(config, table, random))
            if place == hostile:
                moved = client.weights_of(answer, "arrays")
                turned = {name: 2 * weights[name] - moved[name] for name in weights}
                answer["arrays"] = client.record_of(turned)
            counts = dict(answer.metric_records["metrics"])
            answer["metrics"] = MetricRecord({name: counts[name] for name in client.COUNTS})
            asked = Message(RecordDict(), dst_node_id=1, message_type="train")
            replies.append(Message(answer, reply_to=asked))
        weights = strategies.aggregate(strategy, config, number, weights, replies, random)
    return weights


def noise_for(epsilon: float, config: FederatedConfig) -> float:
    """The multiplier at which all rounds together cost `epsilon`."""
    low, high = 0.1, 1000.0
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        spent = config.spends(config.rounds.rounds).model_copy(update={"noise_multiplier": middle})
        over = accountant.epsilon([spent], config.privacy.delta, spent.unit) > epsilon
        low, high = (middle, high) if over else (low, middle)
    return high


def owned(weights: Weights, tables: list[Table]) -> list[Weights]:
    """As each hospital uses them, with its own intercept."""
    return [model.with_own_bias(weights, table.train_x, table.train_y) for table in tables]


def models_of(names: list[str], tables: list[Table]) -> dict[str, list[Weights]]:
    """By name: the model that each hospital has in the end."""
    config, count = config_of(names, "fedavg"), len(tables)
    pooled = together(tables)
    everything = TableLearner(config, pooled).alone()
    found = {
        "local only": [TableLearner(config, table).alone() for table in tables],
        "centralised": owned(everything, tables),
        "centralised, one intercept": [everything] * count,
    }
    for strategy in STRATEGIES:
        found[strategy] = owned(federate(config_of(names, strategy), tables), tables)
    one = config_of(names, "fedavg", own_bias=False)
    found["fedavg, one intercept"] = [federate(one, tables)] * count
    for strategy in ("fedavg", "median", "krum"):
        turned = federate(config_of(names, strategy), tables, hostile=0)
        found[f"{strategy}, the first turns its sign"] = owned(turned, tables)
    return found


def interval(seeds: list[list[np.ndarray]]) -> tuple[float, float, float]:
    """Mean rightness over seeds and hospitals; its interval, drawing seeds and patients anew."""
    rng = np.random.default_rng(0)
    mean = float(np.mean([[rows.mean() for rows in one] for one in seeds]))
    drawn = [
        np.mean(
            [
                [rng.choice(rows, len(rows)).mean() for rows in seeds[pick]]
                for pick in rng.integers(len(seeds), size=len(seeds))
            ]
        )
        for _ in range(DRAWS)
    ]
    return mean, *(float(v) for v in np.quantile(drawn, (0.025, 0.975)))


def protocol(source: Path, complete: bool) -> dict[str, dict]:
    """Rightness, AUC and balanced accuracy by model, over all seeds."""
    rights: dict[str, list[list[np.ndarray]]] = {}
    scores: dict[str, list[list[dict[str, float]]]] = {}
    for seed in SEEDS:
        with TemporaryDirectory() as name:
            folder = Path(name)
            inputs = write_tenants(source, folder, seed, complete)
            tables = [load(folder / tenant / DATA, inputs, "label") for tenant in FILES]
        for called, weights in models_of(inputs, tables).items():
            judged = [
                model.judge(own, t.held_out_x, t.held_out_y)
                for own, t in zip(weights, tables, strict=True)
            ]
            rights.setdefault(called, []).append([right.astype(float) for right, _ in judged])
            scores.setdefault(called, []).append([told for _, told in judged])
    rows = {}
    for called, seeds in rights.items():
        mean, low, high = interval(seeds)
        spread = float(np.std([np.mean([r.mean() for r in one]) for one in seeds], ddof=1))
        rows[called] = {"accuracy": mean, "low": low, "high": high, "deviation": spread}
        for measure in ("auc", "balanced"):
            values = [[told.get(measure, np.nan) for told in one] for one in scores[called]]
            rows[called][measure] = np.nanmean(values, 0).tolist()
    return rows


def show(title: str, rows: dict[str, dict]) -> None:
    """As a Markdown table."""
    print(f"\n{title}\n")
    print("| model | accuracy, mean of 4 | 95 % | between seeds | AUC | balanced accuracy |")
    print("|---|---:|---|---:|---|---|")
    for called, row in rows.items():
        area, balanced = (
            " ".join(f"{value:.3f}" for value in row[name]) for name in ("auc", "balanced")
        )
        print(
            f"| {called} | {row['accuracy']:.3f} | {row['low']:.3f} to {row['high']:.3f} |"
            f" ± {row['deviation']:.3f} | {area} | {balanced} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("--write", type=Path)
    asked = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    if asked.write:
        write_tenants(asked.source, asked.write, SEEDS[0], complete=True)
        return
    flamby, ours = protocol(asked.source, True), protocol(asked.source, False)
    show("FLamby's protocol: 740 complete rows, 13 inputs", flamby)
    show("All 920 rows, missing values filled: AUC and balanced accuracy by hospital", ours)
    print(json.dumps({"flamby": flamby, "ours": ours}))


if __name__ == "__main__":
    main()
