"""What the demo's nights are worth, on several bases: the answers of other machines.

    python -m benchmarks.demo_nights --bases 5 --night-seeds 5 --folder build/nights

Run it in the job environment `train`. A base is trained for each seed, with requests, tokenizer and
weights of its own, as other machines give other bases. Each night has the settings of
`--preset demo`: trajectories are sampled, PPO trains, and both policies answer the base's own
held-out requests greedily. Printed: the share that each base solves, and for each night the share
before and after, with the 95 % bootstrap interval of the paired gain in success and in reward, and
CPU seconds. `--nights 3` goes on from each candidate that is surely better. What has its line in
the folder is not done again.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.job_folder import make_job
from infra.settings import REPOSITORY
from jobs.design import base as design
from jobs.design.config import BaseModelConfig
from jobs.policy import evaluate, sample
from jobs.policy.config import EvaluateConfig, SampleConfig
from jobs.ppo import train
from jobs.ppo.config import PPOConfig
from jobs.runtime import Job

PRESET = REPOSITORY / "deployments" / "presets" / "nightly-ppo" / "demo.yaml"
REWARD = {"reward": "jobs.design.reward:reward"}
SUCCESS = {"success": "jobs.design.reward:success"}
RESAMPLES = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "nights")
    parser.add_argument("--bases", type=int, default=5)
    parser.add_argument("--night-bases", type=int, default=2, help="bases that have nights")
    parser.add_argument("--night-seeds", type=int, default=5)
    parser.add_argument("--nights", type=int, default=1, help="one after the other")
    parser.add_argument("--ppo", type=json.loads, default={}, help="JSON beside the preset's")
    options = parser.parse_args()
    preset = yaml.safe_load(PRESET.read_text())
    for seed in range(options.bases):
        folder = options.folder / f"base-{seed}"
        print(json.dumps(once(folder, lambda at, seed=seed: train_base(at, seed))), flush=True)
    for base in range(options.night_bases):
        for seed in range(options.night_seeds):
            champion = None
            for night in range(options.nights):
                place = options.folder / f"night-{base}-{seed}-{night}"
                start, files = champion, options.folder / f"base-{base}"
                config = options.ppo | {"seed": seed + night, "policy_version": str(night + 1)}
                found = once(
                    place, lambda at, s=start, f=files, c=config: one_night(at, f, s, preset, c)
                )
                print(json.dumps({"base": base, "seed": seed, "night": night, **found}), flush=True)
                if found["reward_gain"][1] > 0:
                    champion = place / "candidate"


def once(folder: Path, made: Any) -> dict[str, Any]:
    """What `made(folder)` finds, kept in the folder."""
    kept = folder / "found.json"
    if not kept.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        kept.write_text(json.dumps(made(folder)))
    return json.loads(kept.read_text())


def train_base(folder: Path, seed: int) -> dict[str, Any]:
    began = time.process_time()
    job = Job(make_job(folder, "base", {"seed": seed}), BaseModelConfig)
    outcome = design.program(job)
    cpu = time.process_time() - began
    for name, path in outcome.artifacts.items():
        path.rename(folder / (name if path.is_dir() else path.name))
    judged = make_job(
        folder, "judged", {**REWARD, **SUCCESS, "max_new_tokens": 32},
        base=folder / "model", prompts=folder / "held_out.jsonl",
    )  # fmt: skip
    metrics = evaluate.program(Job(judged, EvaluateConfig)).metrics
    return {
        "base": seed,
        "held_out": round(metrics["base_success"], 3),
        "reward": round(metrics["base_reward"], 3),
        "cpu_seconds": round(cpu, 1),
    }


def one_night(
    folder: Path, base: Path, champion: Path | None, preset: dict[str, Any], config: dict[str, Any]
) -> dict[str, Any]:
    began = time.process_time()
    common = {**REWARD, "max_new_tokens": preset["max_new_tokens"]}
    inputs = {"base": base / "model"} | ({"champion": champion} if champion else {})
    asked = {"prompts": base / "prompts.jsonl"}
    told = {"count": preset["trajectories"], "model_version": config["policy_version"]}
    job = make_job(folder, "sample", {**common, **told, "seed": config["seed"]}, **inputs, **asked)
    stored = sample.program(Job(job, SampleConfig)).artifacts["trajectories"]
    told = {**preset.get("ppo", {}), **config}
    job = make_job(folder, "train", {**common, **told}, **inputs, **asked, trajectories=stored)
    trained = train.program(Job(job, PPOConfig))
    cpu = time.process_time() - began
    shutil.copytree(trained.artifacts["candidate"], folder / "candidate")
    job = make_job(
        folder, "judge", {**common, **SUCCESS}, **inputs,
        prompts=base / "held_out.jsonl", candidate=folder / "candidate",
    )  # fmt: skip
    judged = evaluate.program(Job(job, EvaluateConfig))
    lines = [json.loads(line) for line in judged.artifacts["evaluation"].read_text().splitlines()]
    metrics = judged.metrics
    return {
        "success": [round(metrics[f"{side}_success"], 3) for side in ("champion", "candidate")],
        "success_gain": interval(lines, "success"),
        "reward_gain": interval(lines, "reward"),
        "kl_per_token": round(metrics["kl"] / metrics["candidate_length"], 3),
        "best_iteration": trained.metrics.get("best_iteration"),
        "iterations": trained.metrics["iterations"],
        "cpu_seconds": round(cpu, 1),
    }


def interval(lines: list[dict[str, Any]], measure: str) -> list[float]:
    """The mean paired gain and the ends of its 95 % bootstrap interval."""
    gains = np.array([row["candidate"][measure] - row["champion"][measure] for row in lines])
    chance = np.random.default_rng(0)
    means = [chance.choice(gains, len(gains)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return [round(float(value), 3) for value in (gains.mean(), low, high)]


if __name__ == "__main__":
    main()
