"""PPO, GRPO and RLOO on three tasks: the held-out reward that CPU seconds buy.

    python -m benchmarks.algorithms --folder build/algorithms --seeds 3

Run it in the job environment `train`. Tasks: `design`, the demo's base and requests; `dialogue` and
`distinct`, the pretrained stories260K, rewarded for speech in a story and for distinct words. All
run with the project's defaults but for `--rollouts`, each for the same CPU seconds. `--also
NAME='{"lam": 1}'` adds a PPO with other hyperparameters. After each iteration the greedy reward on
held-out prompts is measured, and neither that nor the imports are counted. A run that has its
result in the folder is not done again, and each task's table is printed as soon as it is there: a
cut benchmark still says something.

Printed for each task: the reward at the end, with its least and largest; the CPU seconds until the
reward that every run reached; those until the reward at which GRPO of the same seed was best, as a
share of GRPO's own.
"""

import argparse
import contextlib
import json
import multiprocessing
import statistics
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.demo_nights import once, train_base
from benchmarks.job_folder import make_job
from benchmarks.ppo_speed import ALGORITHMS
from benchmarks.stories import first_sentences
from infra.settings import REPOSITORY
from jobs.policy.best import Best
from jobs.policy.data import read_prompts
from jobs.policy.inputs import job_reward
from jobs.policy.model import Policy
from jobs.ppo import train
from jobs.ppo.config import PPOConfig
from jobs.ppo.policy import greedy_reward, load_policy
from jobs.runtime import Job
from tests.jobs.train.stories import write_stories

REWARDS = "benchmarks.redteam_rewards:reward_honest_"
TASKS = {
    "distinct": (REWARDS + "distinct", 48),
    "dialogue": (REWARDS + "dialogue", 48),
    "design": ("jobs.design.reward:reward", 32),
}
"""The reward, and the length of answers in tokens."""
HELD_OUT = 100
ENDLESS = 10_000
"""Iterations: more than the CPU seconds are enough for."""

Curve = list[tuple[float, float]]
"""(CPU seconds, held-out reward) after each iteration, the base first."""


class Spent(Exception):
    """The CPU seconds of a training are."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "algorithms")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    parser.add_argument("--also", nargs="+", default=[], metavar="NAME=JSON")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="CPU seconds of a training")
    parser.add_argument("--rollouts", type=int, default=256)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    common = {"rollouts": options.rollouts, "iterations": ENDLESS, "patience": ENDLESS}
    trained = {name: {**common, "algorithm": name} for name in options.algorithms}
    for given in options.also:
        name, _, told = given.partition("=")
        trained[name] = {**common, **json.loads(told)}
    found: dict[str, dict[str, dict[int, Curve]]] = {}
    for seed in range(options.seeds):
        for task in options.tasks:
            for name, config in trained.items():
                told = {**config, "seed": seed}
                curve = measured(options.folder, task, name, told, options.seconds)
                found.setdefault(task, {}).setdefault(name, {})[seed] = curve
                print(f"{task}, {name}, seed {seed}: {shown(curve)}", flush=True)
            table(task, found[task])


def measured(folder: Path, task: str, name: str, config: dict[str, Any], seconds: float) -> Curve:
    """The curve of one training, in a process of its own that has all imports already."""
    place = folder / f"{task}-{name}-{config['seed']}"

    def work(at: Path) -> dict[str, Any]:
        process = multiprocessing.get_context("fork").Process(
            target=run, args=(at, folder, task, config, seconds)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{place.name} failed; the same command goes on")
        return json.loads((at / "curve.json").read_text())

    inputs(folder, task)
    if config.get("algorithm", "ppo") != "ppo":
        import_module("jobs.ppo.trl_trainers")
    kept = once(place, lambda at: {"curve": work(at), "config": config})
    if kept["config"] != config:
        raise SystemExit(f"{place} was made with {kept['config']}; give another --folder")
    return kept["curve"]


def run(place: Path, folder: Path, task: str, config: dict[str, Any], seconds: float) -> None:
    """Train for so many CPU seconds, and write the curve."""
    function, tokens = TASKS[task]
    base, prompts, held_out = inputs(folder, task)
    told = {**config, "reward": function, "max_new_tokens": tokens}
    job = Job(make_job(place, "train", told, base=base, prompts=prompts), PPOConfig)
    asked, rewarded = read_prompts(held_out)[:HELD_OUT], job_reward(job)
    before = greedy_reward(load_policy(job.config, base), asked, rewarded, job.config)
    curve: Curve = [(0.0, before)]
    began = time.process_time()
    apart = 0.0

    see = Best.see

    def watched(self: Best, iteration: int, reward: float, policy: Policy) -> None:
        nonlocal apart
        see(self, iteration, reward, policy)
        now = time.process_time()
        curve.append((now - began - apart, greedy_reward(policy, asked, rewarded, job.config)))
        (place / "curve.json").write_text(json.dumps(curve))
        if curve[-1][0] > seconds:
            raise Spent
        apart += time.process_time() - now

    Best.see = watched
    with contextlib.suppress(Spent):
        train.program(job)


def inputs(folder: Path, task: str) -> tuple[Path, Path, Path]:
    """The base, its prompts to train on, and those to judge by."""
    place = folder / ("design" if task == "design" else "stories")
    if task == "design":
        once(place, lambda at: train_base(at, 0))
    else:
        once(place, stories)
    return place / "model", place / "prompts.jsonl", place / "held_out.jsonl"


def stories(folder: Path) -> dict[str, Any]:
    """The pretrained model, and first sentences of stories."""
    write_stories(folder / "model")
    texts = first_sentences()
    for name, part in (("held_out", texts[:HELD_OUT]), ("prompts", texts[HELD_OUT:])):
        lines = "".join(json.dumps({"prompt": text}) + "\n" for text in part)
        (folder / f"{name}.jsonl").write_text(lines)
    return {"prompts": len(texts) - HELD_OUT, "held_out": HELD_OUT}


def shown(curve: Curve) -> str:
    return " ".join(f"{reward:.3f}@{at:.0f}s" for at, reward in curve)


def until(curve: Curve, reward: float) -> float | None:
    """CPU seconds to the first checkpoint with that reward; None where there is none."""
    return next((at for at, reached in curve if reached >= reward), None)


def table(task: str, found: dict[str, dict[int, Curve]]) -> None:
    """The figures of a task so far."""
    every = min(max(r for _, r in curve) for runs in found.values() for curve in runs.values())
    print(f"\n{task}: reward that every run reached {every:.3f}")
    print(f"{'':12}{'seeds':>6}{'reward at the end':>24}{'CPU s':>8}{'CPU s to it':>13}  to GRPO's")
    for name, runs in found.items():
        ends = [curve[-1][1] for curve in runs.values()]
        spent = [curve[-1][0] for curve in runs.values()]
        needed = [until(curve, every) or 0.0 for curve in runs.values()]
        shares = [
            share(curve, found["grpo"][seed])
            for seed, curve in runs.items()
            if seed in found.get("grpo", {})
        ]
        end = f"{statistics.mean(ends):.3f} ({min(ends):.3f}, {max(ends):.3f})"
        times = f"{statistics.mean(spent):8.1f}{statistics.mean(needed):13.1f}"
        print(f"{name:12}{len(runs):6}{end:>24}{times}  {', '.join(shares)}")
    print(flush=True)


def share(curve: Curve, grpo: Curve) -> str:
    """CPU seconds to GRPO's best reward over GRPO's own."""
    best = max(reward for _, reward in grpo)
    ours, theirs = until(curve, best), until(grpo, best)
    assert theirs is not None
    return "not reached" if ours is None else f"{ours / theirs:.2f}"


if __name__ == "__main__":
    main()
