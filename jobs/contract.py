"""What goes in and out of every job: `JobSpec` says what, `Resources` how; JSON both ways."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Place = Annotated[str, "place"]
"""A file, folder, URI, hub id, or function as file.py:function or module:function."""
LARGEST_SEED = 2**32 - 1
"""numpy, pandas and transformers take no larger one."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
CONTINUE_EXIT_CODE = 75
"""sysexits.h EX_TEMPFAIL: the job checkpointed after SIGTERM and can be started again."""


class Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(Contract):
    """What a job needs from the machine that runs it."""

    cpus: int = Field(default=1, ge=1)
    memory_gb: float = Field(default=2, gt=0)
    accelerators: dict[str, int] = Field(default_factory=dict, description="e.g. {'H100': 8}")
    use_spot: bool = False
    disk_gb: int = Field(default=10, ge=1)

    @field_validator("accelerators")
    @classmethod
    def _positive_counts(cls, value: dict[str, int]) -> dict[str, int]:
        if any(count < 1 for count in value.values()):
            raise ValueError("an accelerator count must be at least 1")
        return value


class JobSpec(Contract):
    """One job: the program `jobs.<name>` in an environment, with its config, inputs and output."""

    version: Literal[1] = 1
    name: str = Field(description="module below jobs/, e.g. 'ppo.train'")
    environment: str = Field(description="stem of a file in infra/environments/")
    config: dict[str, Any]
    inputs: dict[str, str] = Field(default_factory=dict, description="name → artefact URI")
    output: str = Field(description="URI under which the job's artefacts are written")
    resources: Resources = Field(default_factory=Resources)
    max_hours: float = Field(gt=0, description="wall-clock hours after which the job is ended")
    key: str = Field(description="the run and the step; the same key is the same job")

    @field_validator("name")
    @classmethod
    def _module(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", value):
            raise ValueError("a job name is a module below jobs/, e.g. 'ppo.train'")
        return value


class Artifact(Contract):
    """A stored artefact: file or folder. `sha256` covers every byte, `bytes` is their sum."""

    uri: str
    sha256: str
    bytes: int


class Progress(Contract):
    """One line of `progress.jsonl`. `metrics` are floats by name; `time` is Unix seconds."""

    step: int
    total: int
    message: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    time: float


class JobResult(Contract):
    """What a job ended with. `continue` means: checkpointed, start me again; with an `error`,
    once the storage that it names is mended."""

    status: Literal["succeeded", "failed", "continue"]
    metrics: dict[str, float] = Field(default_factory=dict)
    artifacts: dict[str, Artifact] = Field(default_factory=dict)
    seconds: float = 0
    resumed_from: int | None = None
    error: str | None = None
