"""Our PPO beside TRL's GRPO and RLOO and, where it is installed, TRL 1.12's PPO: episodes a CPU
second, and CPU seconds to the same held-out reward.

    python -m benchmarks.ppo_speed --base MODEL --prompts FILE --held-out FILE \\
        --reward module:function [--max-new-tokens 48 --rollouts 128] [--trl-1-12 PYTHON]

Run it in the job environment `train`. `benchmarks.demo_nights` leaves bases of the design requests
in its folder (reward jobs.design.reward:reward), `benchmarks.redteam` the stories (rewards
benchmarks.redteam_rewards:reward_honest_dialogue and reward_honest_distinct). The same model,
prompts, lengths, LoRA, rollouts and one thread for all, each run in a process of its own, CPU
seconds of that process after its imports.
Held-out rewards are greedy, of every checkpoint, measured afterwards and not counted. TRL 1.12 is
the last version with a PPO trainer; `--trl-1-12` names the Python of an environment that has it
(it shares none with 1.16); it saves no checkpoints, so only its speed and its end are compared.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.objects import put

ALGORITHMS = ("ppo", "grpo", "rloo")
SHARE_OF_GAIN = 0.8
"""The reward to be reached: the base's plus this share of what GRPO gains in the end."""


def main() -> None:
    options = parse()
    if options.child:
        print(json.dumps(child(options.child, Path(options.folder))))
        return
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(options.seeds):
            for name in (*ALGORITHMS, *(["trl-1.12-ppo"] if options.trl_1_12 else [])):
                folder = write_job(Path(place) / f"{name}-{seed}", name, seed, options)
                runs.setdefault(name, []).append(launch(name, folder, options))
                print(json.dumps({"name": name, "seed": seed, **runs[name][-1]}), flush=True)
    report(runs)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--reward")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--rollouts", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trl-1-12", metavar="PYTHON")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_job(folder: Path, name: str, seed: int, options: argparse.Namespace) -> Path:
    folder.mkdir(parents=True)
    inputs = {"base": options.base, "prompts": options.prompts, "held_out": options.held_out}
    spec = {
        "name": "ppo.train",
        "environment": "train",
        "config": {
            "reward": options.reward,
            "max_new_tokens": options.max_new_tokens,
            "iterations": options.iterations,
            "rollouts": options.rollouts,
            "algorithm": name if name in ALGORITHMS else "ppo",
            "checkpoint_interval": 1,
            "probe_prompts": 1,
            "patience": options.iterations + 1,
            "seed": seed,
        },
        "inputs": {
            key: put(path, (folder / "inputs-of" / key).as_uri()).uri
            for key, path in inputs.items()
        },
        "output": (folder / "output").as_uri(),
        "max_hours": 1,
        "key": folder.name,
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def launch(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one training in its own process; what it printed last is its result."""
    python = options.trl_1_12 if name == "trl-1.12-ppo" else sys.executable
    command = [python, "-m", "benchmarks.ppo_speed", "--child", name, "--folder", str(folder)]
    done = subprocess.run(
        command,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def child(name: str, folder: Path) -> dict[str, Any]:
    """Train; {cpu_seconds, episodes, curve: [[CPU seconds, held-out reward], ...]}."""
    from jobs.ppo.config import PPOConfig
    from jobs.runtime import Job

    job = Job(folder, PPOConfig)
    if name == "trl-1.12-ppo":
        from benchmarks.ppo_speed_trl_1_12 import train

        cpu, adapters = train(job)
    else:
        cpu, adapters = train_ours(job)
    episodes = job.config.iterations * job.config.rollouts
    return {
        "cpu_seconds": cpu,
        "episodes": episodes,
        "curve": [[at, held_out_reward(job, path)] for at, path in adapters],
    }


def train_ours(job: Any) -> tuple[float, list[tuple[float, Path | None]]]:
    """Run the job; (CPU seconds, [(CPU seconds when it was saved, adapter)])."""
    from jobs.ppo.train import program
    from jobs.ppo.trl_trainers import train  # noqa: F401 (its import is not counted either)

    adapters: list[tuple[float, Path | None]] = [(0.0, None)]
    save = job.save_checkpoint
    saving = 0.0

    def keep(step: int, write: Callable[[Path], None]) -> None:
        nonlocal saving
        save(step, write)
        now = time.process_time()
        kept = job.folder / f"kept-{step}"
        shutil.copytree(job.folder / "checkpoints" / f"step-{step:08d}", kept)
        adapter = kept / "adapter" if (kept / "adapter").is_dir() else kept
        adapters.append((now - began - saving, adapter))
        saving += time.process_time() - now

    job.save_checkpoint = keep
    began = time.process_time()
    program(job)
    return time.process_time() - began - saving, adapters


def held_out_reward(job: Any, adapter: Path | None) -> float:
    """Mean greedy reward of the base with an adapter."""
    from peft import PeftModel

    from jobs.policy.data import read_prompts
    from jobs.policy.model import load_base
    from jobs.policy.reward import load_reward
    from jobs.policy.rollout import roll_out

    policy = load_base(job.config, job.input("base"))
    if adapter:
        policy.model = PeftModel.from_pretrained(policy.model, str(adapter)).eval()
    answers, _ = roll_out(
        policy,
        read_prompts(job.input("held_out")),
        load_reward(job.config.reward),
        model_version="",
        max_new_tokens=job.config.max_new_tokens,
        temperature=0,
        seed=0,
        batch=job.config.rollout_batch,
    )
    return statistics.mean(answer.reward for answer in answers)


def report(runs: dict[str, list[dict[str, Any]]]) -> None:
    base = runs["grpo"][0]["curve"][0][1]
    gained = statistics.mean(run["curve"][-1][1] for run in runs["grpo"]) - base
    target = base + SHARE_OF_GAIN * gained
    print(f"held-out reward of the base {base:.3f}, to be reached {target:.3f}\n")
    print(f"{'':14}{'episodes/CPU s':>16}{'reward at end':>16}{'CPU s to reach':>24}")
    result: dict[str, Any] = {"base": base, "target": target}
    for name, found in runs.items():
        speed = [run["episodes"] / run["cpu_seconds"] for run in found]
        end = [run["curve"][-1][1] for run in found]
        reached = [next((at for at, r in run["curve"] if r >= target), None) for run in found]
        times = "  ".join("-" if at is None else f"{at:.1f}" for at in reached)
        print(
            f"{name:14}{statistics.median(speed):9.0f} ±{spread(speed):4.0f}"
            f"{statistics.mean(end):11.3f} ±{spread(end):.3f}{times:>24}"
        )
        result[name] = {"episodes_per_cpu_second": speed, "reward": end, "cpu_seconds": reached}
    print(json.dumps(result))


def spread(values: list[float]) -> float:
    return (max(values) - min(values)) / 2


if __name__ == "__main__":
    main()
