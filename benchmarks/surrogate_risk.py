"""When does fear of risk pay? A search through designs of which a part was never simulated.

    PYTHONPATH=. PYTHON -m benchmarks.surrogate_risk --simulated simulated.parquet --output risk

PYTHON is that of the job environment (`python -m infra.compute.environments surrogate`),
`--simulated` what jobs.surrogate.simulate wrote. A surrogate is trained on the designs with at
least `--mass` m of concrete alone. NSGA-II then searches over the whole range, trusting it and
fearing its doubts, and both fronts are simulated. Prints a line for every seed and aversion and
draws those of the first seed.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel

from infra.objects import put
from jobs.runtime import Job
from jobs.surrogate import optimise, train
from jobs.surrogate.config import OptimiseConfig, TrainConfig

Fronts = dict[str, pd.DataFrame]
BUDGETS = 30
"""Evenly over the costs that all fronts reach; within each the best promise is bought."""


def job(model: type[BaseModel], config: dict[str, Any], **inputs: Path) -> Job[Any]:
    """A job in a new folder."""
    folder = Path(tempfile.mkdtemp(prefix="risk-"))
    stored = (folder / "objects").as_uri()
    uris = {name: put(path, f"{stored}/{name}").uri for name, path in inputs.items()}
    spec = {
        "name": "surrogate.any", "environment": "surrogate", "config": config, "inputs": uris,
        "output": f"{stored}/out", "max_hours": 1, "key": folder.name,
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps(spec))
    return Job(folder, model)


def search(champion: Path, aversion: float, seed: int) -> Fronts:
    """The simulated designs of both fronts, `neutral` and `averse`."""
    config = {"risk_aversion": aversion, "seed": seed}
    found = optimise.program(job(OptimiseConfig, config, champion=champion))
    lines = pd.read_json(found.artifacts["fronts"], lines=True).dropna(subset=["simulated"])
    lines["mass"] = [design["mass"] for design in lines["design"]]
    return {str(name): front for name, front in lines.groupby("front")}


def describe(front: pd.DataFrame, budgets: np.ndarray, least: float) -> str:
    """What the best promise within each budget turns out to be."""
    by_promise = front.sort_values("predicted")
    cost = by_promise["cost"].to_numpy()
    bought = by_promise.iloc[[int(np.argmax(cost <= money)) for money in budgets]]
    surprise = bought["simulated"] - bought["predicted"]
    return (
        f"promised {bought['predicted'].mean():.1f}, got {bought['simulated'].mean():.1f} kWh/m2; "
        f"surprise mean {surprise.mean():+.1f}, worst {surprise.max():+.1f}, "
        f"deviation {bought['deviation'].mean():.1f}; "
        f"thinner than simulated {(bought['mass'] < least).mean():.0%}"
    )


def draw(fronts: Fronts, path: Path) -> None:
    """What each front promised and what it got."""
    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(fronts), sharey=True)
    for panel, (name, front) in zip(np.atleast_1d(axes), fronts.items(), strict=True):
        panel.errorbar(
            front["cost"], front["predicted"], 1.645 * front["deviation"], fmt="o", ms=4,
            color="#1f5fa8", ecolor="#9aa5b1", label="predicted, with the interval of 90 %",
        )  # fmt: skip
        panel.scatter(front["cost"], front["simulated"], c="#c2402c", s=22, zorder=3,
                      label="simulated")  # fmt: skip
        panel.set(title=name, xlabel="euros/m2")
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("heating and cooling, kWh/m2 a year")
    labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="When does fear of risk pay?")
    parser.add_argument("--simulated", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="Folder for the plot.")
    parser.add_argument("--mass", type=float, default=0.1, help="m of concrete that was simulated.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--aversions", type=float, nargs="+", default=[2.0, 4.0])
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    table = pd.read_parquet(arguments.simulated)
    heavy = arguments.output / "heavy.parquet"
    table[table["mass"] >= arguments.mass].to_parquet(heavy)
    for seed in range(arguments.seeds):
        config = {"folds": 4, "epochs": 200, "seed": seed}
        trained = train.program(job(TrainConfig, config, simulated=heavy))
        drawn: Fronts = {}
        for aversion in arguments.aversions:
            fronts = search(trained.artifacts["candidate"], aversion, seed)
            drawn |= {"trusting": fronts["neutral"], f"aversion {aversion:g}": fronts["averse"]}
        cheapest = max(front["cost"].min() for front in drawn.values())
        dearest = min(front["cost"].max() for front in drawn.values())
        budgets = np.linspace(cheapest, dearest, BUDGETS)
        for name, front in drawn.items():
            what = describe(front, budgets, arguments.mass)
            print(f"seed {seed}, {name:<12} {what}", flush=True)
        if seed == 0:
            draw(drawn, arguments.output / "risk.png")


if __name__ == "__main__":
    main()
