"""A job program for tests: takes steps, checkpoints each, and misbehaves as its config says."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from pydantic import BaseModel

from infra.errors import InputError
from jobs.runtime import Interrupted, Job, Outcome, main


class Config(BaseModel):
    steps: int = 3
    seconds: float = 0.05
    fail: str = ""
    deaf: bool = False
    grandchild: bool = False
    shell: str = ""
    hold: int = 0
    """Who has begun at the beginning stays at this step until it is stopped."""
    holds: int = 0
    """Who has begun before this step stays at its first one until it is stopped."""


def write_total(total: int, folder: Path) -> None:
    (folder / "total").write_text(str(total))


def program(job: Job[Config]) -> Outcome:
    config = job.config
    alone = (job.folder / "alone").open("a")
    fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where the job runs twice at once
    if config.shell:
        subprocess.Popen(["/bin/sh", "-c", config.shell], start_new_session=True)
    if config.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if config.grandchild:
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
        )
    found = job.latest_checkpoint()
    step, total = 0, 0
    if found:
        step = found[0]
        total = int((found[1] / "total").read_text())
    print(f"pid {os.getpid()} from step {step}", flush=True)
    while step < config.steps:
        time.sleep(config.seconds)
        if config.fail:
            raise InputError(config.fail, "Do it right.")
        step, total = step + 1, total + step
        job.save_checkpoint(step, partial(write_total, total))
        job.progress(step, config.steps, sum=total)
        is_held = (step == config.hold and not found) or step <= config.holds
        while is_held and not job.stopping:
            time.sleep(0.05)
        if job.stopping:
            raise Interrupted
    path = job.scratch / "total.txt"
    path.write_text(str(total))
    return Outcome({"total": total}, {"total": path})


if __name__ == "__main__":
    main(Config, program)
