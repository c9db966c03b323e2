"""What goes in and out of every job: `JobSpec` says what, `Resources` how; JSON both ways."""

import re
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, field_validator

Place = Annotated[str, "place", Field(pattern=r"\S")]
"""A file, folder, URI, hub id, or function as file.py:function or module:function; never blank."""
LARGEST_SEED = 2**32 - 1
"""numpy, pandas and transformers take no larger one."""
MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
"""What the name of a model in the registry matches."""
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
RENAMED = {
    "ppo.sample": "policy.sample",
    "ppo.evaluate": "policy.evaluate",
    "ppo.reward_model": "policy.reward_model",
}
"""Programs that have moved: runs that were begun before still name the old place."""
CHAMPION_SIDE, CANARY_SIDE = "@champion", "@canary"
"""Tenants of a live endpoint that always get one of two versions; no user's can be called so."""
VLLM_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the worker in the engine's process
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else every engine on core 0
}
"""Environment variables of an engine, where it serves and where it is measured."""
CONTINUE_EXIT_CODE = 75
"""sysexits.h EX_TEMPFAIL: the job checkpointed after SIGTERM and can be started again."""


class Contract(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def in_order(schema: dict[str, Any]) -> None:
    """Number the properties of a model's JSON schema as they are declared, by which forms sort
    them: Prefect's server keeps schemas as JSONB, which loses their order."""
    for position, field in enumerate(schema.get("properties", {}).values()):
        field["position"] = position


class Group(BaseModel):
    """Values that belong together, in a form too, and in the order in which they are declared."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=in_order)


class JobConfig(Group):
    """What the config of every job's program is made from."""

    model_config = ConfigDict(allow_inf_nan=False)


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
    checksums: dict[str, str] = Field(
        default_factory=dict, description="name → sha256 of each input, as the database has it"
    )
    reads: list[str] = Field(
        default_factory=list,
        description="folders of this machine that the job reads where they lie",
    )
    writes: list[str] = Field(
        default_factory=list,
        description="folders of this machine that the job reads and writes where they lie",
    )
    sandboxed: bool = Field(
        default=True,
        description="False for a program that measures the machine itself and runs nobody's code "
        "but ours",
    )
    output: str = Field(description="URI under which the job's artefacts are written")
    resources: Resources = Field(default_factory=Resources)
    max_hours: float = Field(gt=0, description="wall-clock hours after which the job is ended")
    key: str = Field(description="the run and the step; the same key is the same job")

    @field_validator("name")
    @classmethod
    def _module(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", value):
            raise ValueError("a job name is a module below jobs/, e.g. 'ppo.train'")
        return RENAMED.get(value, value)


class Artifact(Contract):
    """A stored artefact: file or folder. `sha256` covers every byte, `bytes` is their sum."""

    uri: str
    sha256: str
    bytes: int


class Stored(Protocol):
    """What is stored and recorded: an `Artifact`, or a version of a model."""

    @property
    def uri(self) -> str: ...

    @property
    def sha256(self) -> str: ...


class Progress(Contract):
    """One line of `progress.jsonl`. `metrics` are floats by name; `time` is Unix seconds."""

    step: int
    total: int
    message: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    time: float


class Usage(Contract):
    """What the last attempt of a job used of its machine: CPU cores in the mean, and the peaks of
    memory in GB (2**30 bytes). Of GPUs the mean share that was busy, 0 to 1; 0 without any."""

    cores: float
    memory_gb: float
    gpu_busy: float = 0
    gpu_memory_gb: float = 0


class JobResult(Contract):
    """What a job ended with. `continue` means: checkpointed, start me again; with an `error`,
    once the storage that it names is mended."""

    status: Literal["succeeded", "failed", "continue"]
    metrics: dict[str, float] = Field(default_factory=dict)
    artifacts: dict[str, Artifact] = Field(default_factory=dict)
    seconds: float = 0
    resumed_from: int | None = None
    usage: Usage | None = None
    error: str | None = None
