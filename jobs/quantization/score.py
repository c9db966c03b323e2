"""Rewards of the answers of all variants, where rewards of a training are given, too.

    python -m jobs.quantization.score JOB_FOLDER

Inputs: `held_out`, `answers` (JSON lines {"variant", "completion", "ids"}, of each variant one a
prompt and in the prompts' order), optionally `reward`. Artefact: `rewards`, JSON lines {"variant",
"rewards"}.
"""

import json
from collections import defaultdict

from jobs.policy.data import read_prompts
from jobs.policy.inputs import job_reward
from jobs.quantization.config import ScoreConfig
from jobs.runtime import Job, Outcome, main


def program(job: Job[ScoreConfig]) -> Outcome:
    prompts = read_prompts(job.input("held_out"), "--held-out")
    reward = job_reward(job)
    answers: dict[str, list[dict]] = defaultdict(list)
    for line in job.input("answers").read_text().splitlines():
        answer = json.loads(line)
        answers[answer["variant"]].append(answer)
    path = job.scratch / "rewards.jsonl"
    means = {}
    with path.open("w") as stream:
        for step, (variant, given) in enumerate(answers.items(), 1):
            texts = [one["completion"] for one in given]
            rewards = reward(prompts[: len(texts)], texts, [one["ids"] for one in given])
            means[variant] = sum(rewards) / len(rewards)
            stream.write(json.dumps({"variant": variant, "rewards": rewards}) + "\n")
            job.progress(step, len(answers), variant, reward=means[variant])
    return Outcome(means, {"rewards": path})


if __name__ == "__main__":
    main(ScoreConfig, program)
