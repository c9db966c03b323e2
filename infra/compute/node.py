"""The node's side of a job that was launched through SkyPilot; it needs no control plane.

    NIGHTSHIFT_ORDER='{...}' python -m infra.compute.node

It runs the job as a local one, beside the same watchdog, which ends it before the reservation
does, and copies its state, log, progress and checkpoints to the object store meanwhile.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field

from infra import inert, private
from infra.compute.launcher import JobStatus
from infra.compute.local import LocalLauncher
from infra.compute.mirror import NodeMirror
from infra.contract import CONTINUE_EXIT_CODE, JobResult, JobSpec
from infra.errors import ObjectError

log = logging.getLogger("nightshift")

CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far a node's clock may be off. The ten minutes of overhead in each reservation cover it."""
LAST_WORD_SECONDS = 300
"""How long a node tries to reach its bucket, before its job and to tell how that has ended. Untold,
it would be paid for again."""


class Order(BaseModel):
    """What a node is to do; `id` and `expires_at` are the reservation's.

    `checkpoint_key` signs the checkpoints that it leaves, and tells those that it may take.
    """

    model_config = ConfigDict(frozen=True)

    spec: JobSpec
    id: int
    expires_at: datetime
    attempt: int
    requested_at: datetime
    package: str
    sync_seconds: float
    checkpoint_seconds: float
    checkpoint_key: str = Field(repr=False)


def run(order: Order, home: Path) -> int:
    """Do the job of `order` below `home`; the exit code of its program."""
    local = LocalLauncher(home, Path(sys.executable), order.package, whole_machine=True)
    mirror = NodeMirror(
        order.spec.output,
        local.folder(order.spec.key),
        order.attempt,
        order.checkpoint_seconds,
        order.checkpoint_key,
    )
    behind = order.requested_at - datetime.now(UTC)
    if behind > CLOCK_TOLERANCE:
        said = _wrong_clock(order.requested_at, behind)
        _insist(lambda: mirror.push(said), order.sync_seconds)
        return 1
    _insist(mirror.restore, order.sync_seconds)
    started = machine_since(order.requested_at)
    handle = local.launch(order.spec, order)
    signal.signal(signal.SIGTERM, lambda *_: local.stop(handle))
    ended = None
    while True:
        status = local.poll(handle).model_copy(update={"started": started})
        try:
            mirror.push(status)
            if status.state != "running":
                break
            if mirror.stop_asked(order.attempt):
                local.stop(handle)
                continue
        except ObjectError as error:  # the job goes on, and the next turn tries again
            log.warning("cannot copy the job's state: %s", error)
            if status.state != "running":
                ended = ended or time.monotonic()
                if time.monotonic() - ended > LAST_WORD_SECONDS:
                    break
        time.sleep(order.sync_seconds)
    if status.state == "continue":
        return CONTINUE_EXIT_CODE
    return 0 if status.state == "succeeded" else (status.exit_code or 1) % 256


def _insist(transfer: Callable[[], None], pause_seconds: float) -> None:
    """Have the object store do what it refused, as long as a last word is tried."""
    began = time.monotonic()
    while True:
        try:
            return transfer()
        except ObjectError as error:
            if time.monotonic() - began > LAST_WORD_SECONDS:
                raise
            log.warning("the object store does not answer: %s", error)
        time.sleep(pause_seconds)


def machine_since(requested_at: datetime) -> datetime:
    """Since when this machine is ours: the start of its first process, or of the first one of our
    user (of a Slurm job on a machine that was there before) after it was asked for.

    The request was timed by another clock. What began shortly before it by ours counts as begun
    with it: that may be too early, and is never too late, however far ours is behind.
    """
    begun = [time.time()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == 1 or process.uids().real == os.getuid():
                begun.append(process.create_time())
    earliest = (requested_at - CLOCK_TOLERANCE).timestamp()
    since = datetime.fromtimestamp(min(start for start in begun if start >= earliest), UTC)
    return max(since, requested_at)


def _wrong_clock(requested_at: datetime, behind: timedelta) -> JobStatus:
    """A job that failed before it began: it would be ended too late, again and again."""
    error = (
        f"the clock of the node is at least {behind.total_seconds() / 60:.0f} minutes behind: set "
        f"it by NTP, or rent elsewhere"
    )
    result = JobResult(status="failed", error=error)
    return JobStatus(state="failed", started=requested_at, seen=requested_at, result=result)


def main() -> None:
    inert.log_lines("nightshift: %(message)s")
    order = Order.model_validate_json(os.environ.pop("NIGHTSHIFT_ORDER"))
    home = Path.home() / ".nightshift"
    private.close(home)
    fuse = os.environ.pop("NIGHTSHIFT_FUSE", "")
    try:
        code = run(order, home)
    finally:
        light(fuse)
    sys.exit(code)


def light(fuse: str) -> None:
    """Let the machine go by itself in a few minutes: whoever rented it may be dead."""
    try:
        subprocess.run(["/bin/bash", "-c", fuse], check=True, timeout=120, stdout=sys.stderr)
    except subprocess.SubprocessError as error:
        log.warning("the machine's fuse cannot be lit: %s", error)


if __name__ == "__main__":
    main()
