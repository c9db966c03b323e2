"""What corrections and ratings are worth: the demo's design policy before and after DPO on them.

    python -m benchmarks.dpo_design --base MODEL --prompts FILE

Run it in the job environment `train`, with the demo's base and prompts (`nightshift run nightly-ppo
--preset demo` leaves them under NIGHTSHIFT_HOME/objects/datasets/design). The policy answers each
request four times; users correct a wrong answer with probability 0.5 (one correction in twenty is
itself sloppy) and else rate it with 1 to 5 stars by its reward, give or take a star.

First fixed settings are compared on a validation set; chosen is the one of a single epoch whose
gain is largest on its worst seed (a second epoch doubles the cost, and is shown for comparison).
Then that one, plain DPO and the defaults are measured once on requests, and with users, samples and
training seeds, that nothing was chosen on. With `--validation-seeds 0` nothing is chosen, and the
defaults alone are measured; `--first-seed` draws other requests, users and samples. All requests
that judge have phrasings that neither the base nor the training has seen. Printed: the share of
requests that are solved, before and after, greedy, with the 95 % bootstrap interval of the paired
gain of each seed, and the mean gain with Student's t over the seeds.
"""

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dpo_ukp import spread
from benchmarks.job_folder import make_job
from jobs.design.base import sloppy
from jobs.design.requests import Row, rows
from jobs.design.reward import reward, success
from jobs.dpo import build, evaluate, train
from jobs.dpo.config import BuildConfig, DPOConfig, PairEvaluateConfig
from jobs.policy import sample
from jobs.policy.config import SampleConfig
from jobs.policy.data import Trajectory, read_trajectories
from jobs.runtime import Job

REWARD = "jobs.design.reward:reward"
CORRECTED, WRONG = 0.5, 0.05
ANSWERS_EACH = 4
"""To each request, so that ratings can be compared."""
PLAIN: dict[str, Any] = {"sft_weight": 0, "epochs": 1}
DEFAULT: dict[str, Any] = {"epochs": 1}
"""The weight follows from the share of corrections."""
CANDIDATES: list[dict[str, Any]] = [
    PLAIN,
    {"sft_weight": 0, "epochs": 1, "loss": "apo_zero"},
    {"sft_weight": 1, "epochs": 1},
    {"sft_weight": 1, "epochs": 2},
    {"sft_weight": 1, "epochs": 2, "loss": "apo_zero"},
    {"sft_weight": 10, "epochs": 1},
    {"sft_weight": 10, "epochs": 2},
]
"""Plain DPO; APO for chosen answers that are better than the policy's (D'Oosterlinck et al. 2024);
RPO, whose paper takes 1 (Pang et al. 2024)."""
FIRST_SEED = 100
"""Of the validation; its requests are drawn from it, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--prompts", type=Path, required=True, help="requests that are trained on")
    parser.add_argument("--answers", type=int, default=1000)
    parser.add_argument("--validation-requests", type=int, default=300)
    parser.add_argument("--validation-seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=200, help="of the report")
    options = parser.parse_args()
    judging = draw(options)
    with tempfile.TemporaryDirectory() as place:
        for split in judging:
            (Path(place) / split).mkdir()
        found, chosen, compared = [], None, [DEFAULT]
        if options.validation_seeds:
            found = measure(
                Path(place) / "validation", judging["validation"], CANDIDATES,
                options.validation_seeds, FIRST_SEED, options,
            )  # fmt: skip
            single = [one for one in CANDIDATES if one["epochs"] == 1]
            chosen = max(single, key=lambda one: min(gains_of(found, one)))
            print(f"\nchosen on the validation set: {chosen}\n", flush=True)
            compared += {json.dumps(one): one for one in (PLAIN, chosen)}.values()
        reported = measure(
            Path(place) / "report", judging["report"], compared,
            options.seeds, options.first_seed, options,
        )  # fmt: skip
    print(json.dumps({"validation": found, "chosen": chosen, "report": reported}))


def draw(options: argparse.Namespace) -> dict[str, list[Row]]:
    """Requests to choose by and to report on, no prompt in both."""
    chosen_by = rows("held_out", options.validation_requests, FIRST_SEED)
    seen = {row["prompt"] for row in chosen_by}
    fresh = rows("held_out", 2 * options.requests, options.first_seed)
    return {
        "validation": chosen_by,
        "report": [row for row in fresh if row["prompt"] not in seen][: options.requests],
    }


def measure(
    folder: Path,
    requests: list[Row],
    candidates: list[dict[str, Any]],
    seeds: int,
    first: int,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Every candidate on the users of every seed; prints as it goes, and a summary."""
    judged_by = folder / "requests.jsonl"
    judged_by.write_text("".join(json.dumps(row) + "\n" for row in requests))
    found: list[dict[str, Any]] = []
    for seed in range(first, first + seeds):
        place = folder / str(seed)
        place.mkdir()
        dataset = dataset_of(place, seed, options)
        for number, candidate in enumerate(candidates):
            each = place / str(number)
            each.mkdir()
            found.append(one(each, seed, candidate, dataset, judged_by, options.base))
            print(json.dumps(found[-1]), flush=True)
    print(f"\n{'training':48} mean gain, points   lowest   KL")
    for candidate in candidates:
        gains = gains_of(found, candidate)
        mean, half = spread(gains)
        kl = np.mean([row["kl"] for row in found if row["training"] == candidate])
        print(
            f"{json.dumps(candidate):48} {100 * mean:+5.1f} ± {100 * half:4.1f}   "
            f"{100 * min(gains):+8.1f}   {kl:.1f}"
        )
    return found


def gains_of(found: list[dict[str, Any]], candidate: dict[str, Any]) -> list[float]:
    """The gains of a candidate, one a seed."""
    return [row["gain"][0] for row in found if row["training"] == candidate]


def dataset_of(folder: Path, seed: int, options: argparse.Namespace) -> Path:
    """The pairs of one policy's answers and its users."""
    config = {"reward": REWARD, "count": options.answers, "max_new_tokens": 32, "seed": seed}
    config |= {"samples_per_prompt": ANSWERS_EACH}
    job = make_job(folder, "sample", config, base=options.base, prompts=options.prompts)
    answers = read_trajectories(sample.program(Job(job, SampleConfig)).artifacts["trajectories"])
    path = folder / "feedback.jsonl"
    left = feedback(answers, random.Random(seed))
    path.write_text("".join(json.dumps(row) + "\n" for row in left))
    job = make_job(folder, "build", {"workers": 1}, feedback=path)
    return build.program(Job(job, BuildConfig)).artifacts["dataset"]


def one(
    folder: Path, seed: int, training: dict[str, Any], dataset: Path, requests: Path, base: Path
) -> dict[str, Any]:
    """One training, judged."""
    config = {"max_tokens": 96, "seed": seed, **training}
    job = make_job(folder, "train", config, base=base, dataset=dataset)
    trained = train.program(Job(job, DPOConfig))
    config = {"reward": REWARD, "success": "jobs.design.reward:success", "max_new_tokens": 32}
    files = {"candidate": trained.artifacts["candidate"], "prompts": requests}
    job = make_job(folder, "evaluate", config, base=base, dataset=dataset, **files)
    judged = evaluate.program(Job(job, PairEvaluateConfig))
    lines = [json.loads(line) for line in judged.artifacts["evaluation"].read_text().splitlines()]
    gains = np.array([r["candidate"]["success"] - r["champion"]["success"] for r in lines])
    chance = np.random.default_rng(0)
    means = [chance.choice(gains, len(gains)).mean() for _ in range(5000)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "seed": seed,
        "training": training,
        "pairs": trained.metrics["pairs"],
        "success": [judged.metrics["champion_success"], judged.metrics["candidate_success"]],
        "gain": [round(float(value), 4) for value in (gains.mean(), low, high)],
        "pairs_ranked": round(judged.metrics["candidate_reward_accuracy"], 3),
        "kl": round(judged.metrics["kl"], 2),
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
