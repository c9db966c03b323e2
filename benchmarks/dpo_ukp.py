"""How often DPO teaches a tiny pretrained model to rank human pairs of debates it never saw.

    python -m benchmarks.dpo_ukp --pairs ../shared/data/preferences-ukpconvarg1/pairs.jsonl

Run it in the job environment `train`. The base is the pretrained stories260K; whole debates are
held out. Printed for each seed: the share of held-out pairs of which the chosen one is likelier, in
all and a token, before and after, and that the implicit reward ranks right, beside 'the longer
wins' and chance. Intervals: 95 % bootstrap over held-out pairs for one seed, Student's t over seeds
for the mean.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job_folder import make_job
from jobs.dpo import build, train
from jobs.dpo.config import BuildConfig, DPOConfig, PairEvaluateConfig
from jobs.dpo.pairs import fitting, load, log_probabilities
from jobs.policy.model import load_base, load_candidate
from jobs.runtime import Job
from tests.jobs.train.stories import write_stories

STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""97.5 % points of Student's t, by the number of seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--loss", default="sigmoid")
    parser.add_argument("--sft-weight", type=float, default=0.0)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--held-out-share", type=float, default=0.2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        base = write_stories(folder / "base")
        share = {"held_out_share": options.held_out_share}
        made = make_job(folder, "build", share, pairs=options.pairs)
        dataset = build.program(Job(made, BuildConfig)).artifacts["dataset"]
        card = json.loads((dataset / "card.json").read_text())
        counts = {name: split["pairs"] for name, split in card["splits"].items()}
        config = {
            "max_tokens": options.tokens,
            "max_steps": options.steps,
            "micro_batch": 8,
            "beta": options.beta,
            "loss": options.loss,
            "sft_weight": options.sft_weight,
            "learning_rate": options.learning_rate,
        }
        found = []
        for seed in range(options.seeds):
            files = {"base": base, "dataset": dataset}
            job = make_job(folder, f"train-{seed}", {**config, "seed": seed}, **files)
            outcome = train.program(Job(job, DPOConfig))
            candidate = outcome.artifacts["candidate"]
            found.append(measure(folder, seed, base, dataset, candidate, options.tokens))
            print(f"seed {seed}: {shown(found[-1])}", flush=True)
    seen = 16 * options.steps
    print(f"\n{seen:,} of {counts['train']:,} pairs trained on, {counts['held_out']:,} held out")
    rows = {name: [one[name][0] for one in found] for name in found[0]}
    for name, values in rows.items():
        mean, half = spread(values)
        print(f"{name:32} {mean:.3f} ± {half:.3f}")
    print(json.dumps({"pairs": counts, "seeds": found}))


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval by Student's t."""
    if len(set(values)) == 1:
        return values[0], 0.0
    half = STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def measure(
    folder: Path, seed: int, base: Path, dataset: Path, candidate: Path, tokens: int
) -> dict[str, tuple[float, float, float]]:
    """Accuracy on all held-out pairs with its bootstrap interval, by name."""
    place = make_job(folder, f"measure-{seed}", {"max_tokens": tokens})
    job = Job(place, PairEvaluateConfig)
    before = load_base(job.config, base)
    pairs: Any = fitting(load(dataset / "held_out.parquet", job.scratch), before, tokens).to_list()
    scored = {"before": np.array(log_probabilities(job, before, pairs))}
    after = load_base(job.config, base)
    load_candidate(after, candidate)
    scored["after"] = np.array(log_probabilities(job, after, pairs))
    longer = np.array([len(pair["chosen"]) - len(pair["rejected"]) for pair in pairs])
    differences = {"the longer wins": longer, "chance": np.zeros(len(pairs))}
    for name, each in scored.items():
        differences[f"likelihood, {name}"] = each[:, 0] - each[:, 1]
        differences[f"likelihood a token, {name}"] = (
            each[:, 0] / each[:, 2] - each[:, 1] / each[:, 3]
        )
    change = scored["after"] - scored["before"]
    differences["implicit reward, after"] = change[:, 0] - change[:, 1]
    return {name: accuracy(difference) for name, difference in differences.items()}


def accuracy(difference: np.ndarray) -> tuple[float, float, float]:
    """Share above 0, a tie being half, with its 95 % bootstrap interval."""
    right = np.where(difference == 0, 0.5, difference > 0)
    chance = np.random.default_rng(0)
    means = [chance.choice(right, len(right)).mean() for _ in range(2000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(right.mean()), float(low), float(high)


def shown(found: dict[str, tuple[float, float, float]]) -> str:
    return "; ".join(
        f"{name} {mean:.3f} ({low:.3f} to {high:.3f})" for name, (mean, low, high) in found.items()
    )


if __name__ == "__main__":
    main()
