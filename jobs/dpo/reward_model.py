"""Train a reward model on the pairs of a dataset, to judge with where a user has no reward.

    python -m jobs.dpo.reward_model JOB_FOLDER

Inputs: `dataset` (a folder of jobs.dpo.build), and optionally `base`. It sees only the pairs that
the policy is trained on, so held-out prompts are new to both. Artefact and metrics: as
jobs.policy.reward_model.
"""

from typing import Any

from jobs.dpo.pairs import content, load
from jobs.policy.config import RewardModelConfig
from jobs.policy.data import Preference
from jobs.policy.reward_model import train
from jobs.runtime import Job, Outcome, main


def program(job: Job[RewardModelConfig]) -> Outcome:
    rows: Any = load(job.input("dataset") / "train.parquet", job.scratch / "cache")
    return train(
        job,
        [
            Preference(content(row["prompt"], row["is_chat"]), row["chosen"], row["rejected"])
            for row in rows
        ],
    )


if __name__ == "__main__":
    main(RewardModelConfig, program)
