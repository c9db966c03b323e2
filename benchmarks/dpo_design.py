"""What corrections and ratings are worth: the demo's design policy before and after DPO on them.

    python -m benchmarks.dpo_design --base MODEL --prompts FILE --held-out FILE

Run it in the job environment `train`, with the demo's base and prompts (`nightshift run nightly-ppo
--preset demo` leaves them under NIGHTSHIFT_HOME/objects/datasets/design). The policy answers each
request four times; users correct a wrong answer with probability 0.5 (one correction in twenty is
itself sloppy) and else rate it with 1 to 5 stars by its reward, give or take a star. Printed: the
share of held-out requests that are solved, before and after, greedy, with the 95 % bootstrap
interval of the paired gain.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dpo_ukp import make_job
from jobs.design.base import sloppy
from jobs.design.reward import reward, success
from jobs.dpo import build, evaluate, train
from jobs.dpo.config import BuildConfig, DPOConfig, PairEvaluateConfig
from jobs.ppo import sample
from jobs.ppo.config import SampleConfig
from jobs.ppo.data import Trajectory, read_trajectories
from jobs.runtime import Job

REWARD = "jobs.design.reward:reward"
CORRECTED, WRONG = 0.5, 0.05
ANSWERS_EACH = 4
"""To each request, so that ratings can be compared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--held-out", type=Path, required=True)
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=json.loads, default={}, help="config of the training")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.seeds):
            results.append(one(Path(place) / str(seed), seed, options))
            print(f"seed {seed}: {results[-1]}", flush=True)
    print(json.dumps(results))


def one(folder: Path, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One policy, its users, its training."""
    folder.mkdir()
    base = {"base": options.base}
    config = {"reward": REWARD, "count": options.answers, "max_new_tokens": 32, "seed": seed}
    config |= {"samples_per_prompt": ANSWERS_EACH}
    job = make_job(folder, "sample", config, **base, prompts=options.prompts)
    answers = read_trajectories(sample.program(Job(job, SampleConfig)).artifacts["trajectories"])
    path = folder / "feedback.jsonl"
    left = feedback(answers, random.Random(seed))
    path.write_text("".join(json.dumps(row) + "\n" for row in left))
    job = make_job(folder, "build", {"workers": 1}, feedback=path)
    built = build.program(Job(job, BuildConfig))
    dataset = {"dataset": built.artifacts["dataset"]}
    config = {"max_tokens": 96, "seed": seed, **options.train}
    job = make_job(folder, "train", config, **base, **dataset)
    trained = train.program(Job(job, DPOConfig))
    config = {"reward": REWARD, "success": "jobs.design.reward:success", "max_new_tokens": 32}
    files = {"candidate": trained.artifacts["candidate"], "prompts": options.held_out}
    job = make_job(folder, "evaluate", config, **base, **dataset, **files)
    found = evaluate.program(Job(job, PairEvaluateConfig))
    rows = [json.loads(line) for line in found.artifacts["evaluation"].read_text().splitlines()]
    gains = np.array([r["candidate"]["success"] - r["champion"]["success"] for r in rows])
    chance = np.random.default_rng(0)
    means = [chance.choice(gains, len(gains)).mean() for _ in range(5000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "pairs": built.metrics["train"],
        "success": [found.metrics["champion_success"], found.metrics["candidate_success"]],
        "gain": [float(gains.mean()), float(low), float(high)],
        "pairs_ranked": found.metrics["candidate_reward_accuracy"],
        "kl": found.metrics["kl"],
        "loss": trained.metrics["loss"],
    }


def feedback(answers: list[Trajectory], chance: random.Random) -> list[dict[str, Any]]:
    """What the users leave."""
    left = []
    for number, answer in enumerate(answers):
        target = answer.columns["target"]
        row = {"prompt": answer.prompt, "completion": answer.completion, "user": f"u{number}"}
        row["columns"] = answer.columns
        if not success([answer.completion], [target])[0] and chance.random() < CORRECTED:
            corrected = sloppy(target, chance) if chance.random() < WRONG else target
            left.append({**row, "kind": "correction", "correction": corrected})
        else:
            stars = 1 + 4 * reward([answer.completion], [target])[0] + chance.uniform(-1, 1)
            left.append({**row, "kind": "rating", "value": min(5, max(1, round(stars)))})
    return left


if __name__ == "__main__":
    main()
