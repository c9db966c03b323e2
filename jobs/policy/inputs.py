"""What the jobs of this folder read from their inputs."""

from typing import Any

from infra.objects import describe
from jobs.policy.config import RolloutConfig
from jobs.policy.reward import Reward, load_reward
from jobs.runtime import Job, optional_input


def job_reward(job: Job[RolloutConfig]) -> Reward:
    """The reward of the job's config, from the input artefact `reward` where there is one."""
    return load_reward(job.config.reward, optional_input(job, "reward"))


def job_success(job: Job[Any]) -> Reward | None:
    """What tells which prompts are solved, from the input artefact `success`, else `reward`."""
    if job.config.success is None:
        return None
    source = optional_input(job, "success") or optional_input(job, "reward")
    return load_reward(job.config.success, source, "--success")


def base_identity(job: Job[Any]) -> dict[str, str]:
    """{uri, sha256} of the base; a hub id has no sha256."""
    uri = job.spec.inputs.get("base")
    if uri is None:
        return {"uri": job.config.model, "sha256": ""}
    return {"uri": uri, "sha256": job.spec.checksums.get("base") or describe(uri).sha256}
