"""Sample completions of the champion and reward them: the trajectories a night can learn from.

    python -m jobs.policy.sample JOB_FOLDER

Inputs: `prompts`, and optionally `base`, `champion`, `reward`. Artefact: `trajectories`, gzipped
JSON lines in the order of sampling. Each batch is checkpointed, and has a seed of its own.
"""

from pathlib import Path

from jobs.policy.config import SampleConfig
from jobs.policy.data import read_prompts, read_trajectories, write_trajectories
from jobs.policy.inputs import base_identity, job_reward
from jobs.policy.model import NoValues, check_base, load_base, load_candidate
from jobs.policy.rollout import roll_out
from jobs.runtime import Job, Outcome, main, optional_input, stop_when_told

FILE = "trajectories.jsonl.gz"


def program(job: Job[SampleConfig]) -> Outcome:
    config = job.config
    prompts = read_prompts(job.input("prompts"))
    reward = job_reward(job)
    champion = optional_input(job, "champion")
    if champion:
        check_base(champion, base_identity(job))
    policy = load_base(config, optional_input(job, "base"))
    if champion:
        load_candidate(policy, champion)
    policy.value_head = NoValues()
    numbers = range(config.start, config.start + config.count)
    found = job.latest_checkpoint()
    trajectories = read_trajectories(found[1] / FILE) if found else []

    def save(folder: Path) -> None:
        write_trajectories(folder / FILE, trajectories)

    while len(trajectories) < config.count:
        part = numbers[len(trajectories) : len(trajectories) + config.rollout_batch]
        rolled, _ = roll_out(
            policy,
            [prompts[number // config.samples_per_prompt % len(prompts)] for number in part],
            reward,
            model_version=config.model_version,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=(config.seed << 32) + part[0],
            batch=config.rollout_batch,
            check=lambda: stop_when_told(job),
        )
        trajectories.extend(rolled)
        mean = sum(t.reward for t in trajectories) / len(trajectories)
        job.progress(len(trajectories), config.count, "samples", reward=mean)
        job.save_checkpoint(len(trajectories), save)
    path = job.scratch / FILE
    write_trajectories(path, trajectories)
    tokens = sum(len(t.completion_token_ids) for t in trajectories)
    return Outcome(
        {
            "count": float(len(trajectories)),
            "reward": sum(t.reward for t in trajectories) / len(trajectories),
            "length": tokens / len(trajectories),
        },
        {"trajectories": path},
    )


if __name__ == "__main__":
    main(SampleConfig, program)
