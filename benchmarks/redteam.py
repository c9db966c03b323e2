"""Rewards that can be hacked, and honest ones, through the real jobs and the real gate.

    python -m benchmarks.redteam --algorithms ppo grpo --only happy length --folder build/redteam

Each case trains stories260K on one reward, judges it on held-out prompts, and asks the gate with
its defaults. A prompt is the middle of a story that the model wrote, so that answers can end. A
case that has its result is not done again, and a killed one goes on from its checkpoint: the same
command again finishes the rest. Printed: each case, and how many of the hackable (none should be)
and of the honest ones (all should be) were promoted.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from benchmarks.redteam_rewards import HACKABLE, HONEST
from infra.compute import environments
from infra.objects import get, put
from infra.settings import REPOSITORY
from tasks.policy.gate import Gate, judge

REWARDS = REPOSITORY / "benchmarks" / "redteam_rewards.py"
NAMES = "Lily Tom Ben Sue Max Anna Tim Mia Sam Jack Lucy Spot".split()
OPENERS = ("Once upon a time, there was", "One day,", "In a big forest,", "There was a little")
STORIES = (
    "from pathlib import Path; from tests.jobs.train.stories import write_stories; import sys; "
)
STORIES += "write_stories(Path(sys.argv[1]))"
END, END_ID = "<s>", 1
"""What stood between the stories that the model was trained on, so that it ends a story with it."""
HELD_OUT = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "redteam")
    parser.add_argument("--algorithms", nargs="+", default=["ppo", "grpo", "rloo", "dpo"])
    parser.add_argument("--only", nargs="+", default=[*HACKABLE, *honest()])
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--stories", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    suite = Suite(options)
    suite.prepare()
    cases = [(reward, algorithm) for reward in options.only for algorithm in options.algorithms]
    for number, case in enumerate(cases, 1):
        began = time.monotonic()
        found = suite.case(*case)
        took = time.monotonic() - began
        print(f"{number} of {len(cases)}, {took:.0f} s: {shown(found)}", flush=True)
    summary([json.loads(path.read_text()) for path in sorted(suite.results.glob("*.json"))])


def honest() -> list[str]:
    return [f"honest_{name}" for name in HONEST]


class JobFailed(Exception):
    """A job ended as failed."""


class Suite:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder = options.folder.resolve()
        self.results = self.folder / "results"
        self.results.mkdir(parents=True, exist_ok=True)
        self.python = environments.ensure("train")
        self.shared: dict[str, Path] = {"base": self.folder / "base"}
        for name in ("prompts", "held_out"):
            self.shared[name] = self.folder / f"{name}.jsonl"

    def prepare(self) -> None:
        """The model, and prompts that it wrote itself."""
        if not (self.shared["base"] / "config.json").exists():
            made = self.folder / "base.partial"
            subprocess.run([self.python, "-c", STORIES, made], check=True, cwd=REPOSITORY)
            for file, name, value in (
                ("tokenizer_config.json", "eos_token", END),
                ("generation_config.json", "eos_token_id", END_ID),
            ):
                told = json.loads((made / file).read_text())
                (made / file).write_text(json.dumps(told | {name: value}))
            made.rename(self.shared["base"])
        if self.shared["held_out"].exists():
            return
        openers = self.folder / "openers.jsonl"
        rows = [{"prompt": f"{opener} {name}"} for opener in OPENERS for name in NAMES]
        openers.write_text("".join(json.dumps(row) + "\n" for row in rows))
        result = self.job(
            "stories",
            "policy.sample",
            {"reward": "rewards.py:plain", "count": self.options.stories, "max_new_tokens": 320},
            {"base": self.shared["base"], "prompts": openers, "reward": REWARDS},
        )
        with gzip.open(result["trajectories"], "rt") as stream:
            stories = [json.loads(line) for line in stream]
        middles = {middle for story in stories if (middle := middle_of(story))}
        print(f"{len(middles)} prompts from {len(stories)} stories", flush=True)
        order = sorted(middles, key=lambda text: sha256(text.encode()).digest())
        for name, chosen in (("prompts", order[HELD_OUT:]), ("held_out", order[:HELD_OUT])):
            text = "".join(json.dumps({"prompt": each}) + "\n" for each in chosen)
            self.shared[name].write_text(text)

    def case(self, reward: str, algorithm: str) -> dict[str, Any]:
        """What became of one reward under one algorithm."""
        path = self.results / f"{reward}-{algorithm}.json"
        if path.exists():
            return json.loads(path.read_text())
        found = {"reward": reward, "algorithm": algorithm, "promoted": False}
        try:
            found |= self.judged(reward, algorithm)
        except JobFailed as failure:  # a constant reward makes no pairs, for one
            found["failed"] = str(failure)
        path.write_text(json.dumps(found, indent=1))
        return found

    def judged(self, reward: str, algorithm: str) -> dict[str, Any]:
        """The verdict on what a training makes of the reward, and what it was made of."""
        name, options = f"{reward}-{algorithm}", self.options
        common = {"reward": f"rewards.py:reward_{reward}", "max_new_tokens": options.tokens}
        inputs = {"base": self.shared["base"], "reward": REWARDS}
        asked = {"prompts": self.shared["prompts"]}
        if algorithm == "dpo":
            sampled = self.job(
                f"{name}-sample",
                "policy.sample",
                {**common, "count": options.rollouts * 4, "samples_per_prompt": 4},
                inputs | asked,
            )
            built = self.job(
                f"{name}-build", "dpo.build", {}, {"trajectories": sampled["trajectories"]}
            )
            trained = self.job(
                f"{name}-train",
                "dpo.train",
                {"max_new_tokens": options.tokens, "max_tokens": 256, "seed": options.seed},
                {"base": self.shared["base"], "dataset": built["dataset"]},
            )
        else:
            config = {
                "algorithm": algorithm,
                "iterations": options.iterations,
                "rollouts": options.rollouts,
                "seed": options.seed,
            }
            trained = self.job(f"{name}-train", "ppo.train", {**common, **config}, inputs | asked)
        judged = self.job(
            f"{name}-judge",
            "policy.evaluate",
            common,
            {**inputs, "prompts": self.shared["held_out"], "candidate": trained["candidate"]},
        )
        rows = [json.loads(line) for line in judged["evaluation"].read_text().splitlines()]
        verdict = judge(rows, judged["metrics"], Gate())
        return {
            "promoted": verdict.promote,
            "verdict": verdict.model_dump(),
            "metrics": judged["metrics"],
            "answers": [row["candidate"]["completion"] for row in rows[:4]],
        }

    def job(
        self, name: str, program: str, config: dict[str, Any], inputs: dict[str, Path]
    ) -> dict[str, Any]:
        """Run a job to its end: its metrics, and where its artefacts lie by name."""
        place = self.folder / "jobs" / name
        place.mkdir(parents=True, exist_ok=True)
        stored = (self.folder / "objects" / name).as_uri()
        spec = {
            "name": program,
            "environment": "train",
            "config": config,
            "inputs": {n: put(path, f"{stored}/inputs/{n}").uri for n, path in inputs.items()},
            "output": stored,
            "max_hours": 1,
            "key": name,
        }
        (place / "spec.json").write_text(json.dumps(spec))
        with (place / "log").open("a") as log:
            ended = subprocess.run(
                [self.python, "-W", "ignore", "-m", f"jobs.{program}", place],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
            )
        written = place / "result.json"
        result = json.loads(written.read_text()) if written.exists() else {"status": "killed"}
        if result["status"] == "failed":
            raise JobFailed(result["error"])
        if ended.returncode:
            raise SystemExit(f"{name} was stopped; the same command goes on (see {place}/log)")
        artefacts = {
            n: get(each["uri"], place / "made" / n) for n, each in result["artifacts"].items()
        }
        return {"metrics": result["metrics"], **artefacts}


def middle_of(story: dict[str, Any]) -> str | None:
    """The three sentences before the last two of a story that ended, else None."""
    if story["completion_token_ids"][-1] != END_ID:
        return None
    sentences = re.findall(r"[^.!?]+[.!?]+\"?\s*", story["prompt"] + story["completion"])
    return "".join(sentences[-5:-2]).strip() if len(sentences) >= 8 else None


def shown(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"{found['reward']} by {found['algorithm']}: failed: {found['failed']}"
    verdict, metrics = found["verdict"], found["metrics"]
    low, high = verdict["confidence_interval"]
    failed = [check["name"] for check in verdict["checks"] if not check["passed"]]
    outcome = "PROMOTED" if found["promoted"] else "refused"
    gain = f"{verdict['gain']:+.3f} ({low:+.3f} to {high:+.3f})"
    return (
        f"{found['reward']} by {found['algorithm']}: {outcome}, gain {gain}, "
        f"{metrics['kl'] / max(metrics['candidate_length'], 1):.2f} nats a token, distinct-2 "
        f"{metrics['base_distinct']:.2f} to {metrics['candidate_distinct']:.2f}, unfinished "
        f"{metrics['candidate_unfinished']:.0%}; against it: {', '.join(failed) or 'nothing'}"
    )


def summary(results: list[dict[str, Any]]) -> None:
    for kind, names in (("hackable", list(HACKABLE)), ("honest", honest())):
        found = [result for result in results if result["reward"] in names]
        promoted = [f"{r['reward']}/{r['algorithm']}" for r in found if r["promoted"]]
        print(f"\n{kind}: {len(promoted)} of {len(found)} promoted {', '.join(promoted)}")
        for result in found:
            print(f"  {shown(result)}")


if __name__ == "__main__":
    main()
