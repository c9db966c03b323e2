"""The project's own demo: a small model that answers design requests badly, and its prompts."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from infra import objects
from infra.contract import Artifact, Resources
from infra.settings import REPOSITORY, settings
from jobs.design.config import BaseModelConfig
from tasks.policy.inputs import Inputs
from tasks.runs.plan import Step
from tasks.runs.run import Work

Given = TypeVar("Given", bound=Inputs)

DEMO = "design"
"""Stands for the demo's model or prompts where a user would give theirs."""
SOURCES = REPOSITORY / "jobs" / "design"
REWARD = "jobs.design.reward:reward"
SUCCESS = "jobs.design.reward:success"

BASE = Step[Any](
    "base",
    "design.base",
    "train",
    lambda p: p.transfer_hours,
    Resources(cpus=2),
    planned=lambda p: DEMO in (p.model, p.prompts),
    remark="once",
)


def design_version() -> str:
    """Of the demo's base and prompts: another config or other sources make others."""
    sources = {path.name: path.read_text() for path in SOURCES.glob("*.py")}
    # as the line stood when the first bases were made: they are kept, and so are runs under way
    sources["config.py"] = sources["config.py"].replace("infra.contract", "jobs.contract")
    made_by = json.dumps([BaseModelConfig().model_dump(), sources], sort_keys=True)
    return hashlib.sha256(made_by.encode()).hexdigest()[:16]


def with_design(work: Work[Any], inputs: Given) -> Given:
    """The demo's base model and prompts, trained once and kept for every later night."""
    kept = f"{settings().objects_uri}/datasets/design/{inputs.design}"
    made: dict[str, Artifact] = {}
    for part in ("model", "prompts", "held_out"):
        if not objects.exists(f"{kept}/{part}"):
            result = work.job(BASE, BaseModelConfig(), {})
            with TemporaryDirectory() as scratch:
                copy = objects.get(result.artifacts[part].uri, Path(scratch) / part)
                objects.put(copy, f"{kept}/{part}")
        made[part] = objects.describe(f"{kept}/{part}")
    return inputs.model_copy(
        update={
            "base": made["model"],
            "prompts": inputs.prompts or made["prompts"],
            "held_out": inputs.held_out or made["held_out"],
        }
    )
