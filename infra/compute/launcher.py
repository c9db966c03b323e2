"""What every launcher does, here or on a cloud: quote, launch, poll, logs, stop, running."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from jobs.contract import JobResult, JobSpec, Progress, Resources

State = Literal["running", "succeeded", "failed", "continue", "lost"]


class Quote(BaseModel):
    """A price in dollars an hour for some resources; `source` says where it comes from."""

    model_config = ConfigDict(frozen=True)

    launcher: str
    hourly_usd: Decimal
    accelerators: dict[str, int]
    region: str
    spot: bool
    valid_until: datetime | None
    source: str


class Handle(BaseModel):
    """Where one attempt of a job runs. `place` is the launcher's own: a folder, a cluster."""

    model_config = ConfigDict(frozen=True)

    launcher: str
    key: str
    reservation: int
    place: str
    attempt: int


class JobStatus(BaseModel):
    """How an attempt is. It had the machine from `started` until `seen`, the last proof of life.

    'continue': it checkpointed and can go on; 'lost': it was killed without a result.
    """

    model_config = ConfigDict(frozen=True)

    state: State
    started: datetime | None
    seen: datetime
    exit_code: int | None = None
    result: JobResult | None = None
    progress: Progress | None = None


class Reserved(Protocol):
    """What a launcher needs of a reservation; no job runs beyond `expires_at`."""

    @property
    def id(self) -> int: ...

    @property
    def expires_at(self) -> datetime: ...


class Launcher(Protocol):
    """A place where jobs run."""

    def quote(self, resources: Resources) -> Quote:
        """The price. Raises LaunchError saying why these resources cannot be had here."""
        ...

    def launch(self, spec: JobSpec, reservation: Reserved) -> Handle:
        """Start the job, or re-attach to it where it runs already: never a second process."""
        ...

    def attempts(self, key: str) -> list[Handle]:
        """Every attempt of a job that the provider knows of, oldest first."""
        ...

    def poll(self, handle: Handle) -> JobStatus:
        """Look at one attempt, running or ended."""
        ...

    def logs(self, handle: Handle, follow: bool = False) -> Iterator[str]:
        """The job's log lines of all its attempts; `follow` goes on until it ends."""
        ...

    def progress(self, key: str) -> list[Progress]:
        """All progress of a job, the last report of each step, in the order of steps."""
        ...

    def stop(self, handle: Handle) -> None:
        """Let the job checkpoint, end it, and return when it is really gone."""
        ...

    def running(self) -> list[Handle]:
        """What really runs here with Nightshift's label, whatever any table says."""
        ...
