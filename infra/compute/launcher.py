"""What every launcher does, here or on a cloud: quotes, launch, poll, logs, stop, running."""

import contextlib
from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from infra.contract import JobResult, JobSpec, Progress, Resources

State = Literal["running", "succeeded", "failed", "continue", "lost"]


class Quote(BaseModel):
    """A price in dollars an hour for some resources; `source` says where it comes from.

    `overhead_hours` are paid beside the job's own: making the machine ready and taking it down.
    `priced_at` is when the provider's price list was read, None for a price of one's own.
    """

    model_config = ConfigDict(frozen=True)

    launcher: str
    hourly_usd: Decimal
    accelerators: dict[str, int]
    region: str
    source: str
    spot: bool = False
    instance_type: str = ""
    overhead_hours: Decimal = Decimal(5) / 3600
    priced_at: datetime | None = None
    valid_until: datetime | None = None


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

    'continue': it checkpointed and can go on; 'lost': it was killed without a result. What has
    ended may still have its machine: `stop` takes that, and fixes `seen`.
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

    @property
    def poll_seconds(self) -> float:
        """How often it is worth to look at a job, s."""
        ...

    def quotes(self, resources: Resources) -> list[Quote]:
        """Every offer, the cheapest first. Raises LaunchError where there is none, and why."""
        ...

    def launch(self, spec: JobSpec, reservation: Reserved, quote: Quote) -> Handle:
        """Start the job as quoted, or re-attach to it where it runs: never a second process.

        Raises NoCapacity where another offer may do, ReservationExpired where there was no machine
        in time; either leaves nothing running.
        """
        ...

    def attempts(self, key: str) -> list[Handle]:
        """Every attempt of a job that was begun, oldest first."""
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
        """Let the job checkpoint, end it, and return when it and its machine are really gone."""
        ...

    def running(self) -> list[Handle]:
        """What really runs here with Nightshift's label, whatever any table says."""
        ...


def parse_progress(data: bytes) -> list[Progress]:
    """The whole lines of a `progress.jsonl`; one that is being written waits for the next look."""
    found = []
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n"):
            with contextlib.suppress(ValidationError):
                found.append(Progress.model_validate_json(line))
    return found


def last_of_each_step(reports: list[Progress]) -> list[Progress]:
    """What a learning curve is drawn from: a repeated step counts as it was done last."""
    steps = {progress.step: progress for progress in reports}
    return [steps[step] for step in sorted(steps)]
