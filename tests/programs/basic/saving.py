"""A job program for the benchmark of checkpoint copies: computes on one thread, and saves."""

import os
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from jobs.runtime import Job, Outcome, main


class Config(BaseModel):
    """What the measured program is told."""

    steps: int
    mib: int
    loops: int


def program(job: Job[Config]) -> Outcome:
    """Compute and save, as a training does."""
    data = os.urandom(job.config.mib << 20)
    for step in range(1, job.config.steps + 1):
        total = 0
        for n in range(job.config.loops):
            total += n * n
        if step % 10 == 0:
            job.save_checkpoint(step, partial(_save, data))
        job.progress(step, job.config.steps)
    return Outcome({}, {})


def _save(data: bytes, folder: Path) -> None:
    (folder / "state").write_bytes(data)


if __name__ == "__main__":
    main(Config, program)
