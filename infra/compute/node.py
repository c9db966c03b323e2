"""The node's side of a job that was launched through SkyPilot; it needs no control plane.

    NIGHTSHIFT_ORDER='{...}' python -m infra.compute.node

It runs the job as a local one, beside the same watchdog, which ends it before the reservation
does, and copies its state, log, progress and checkpoints to the object store meanwhile.
"""

import contextlib
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from infra.compute.local import LocalLauncher
from infra.compute.mirror import NodeMirror
from infra.errors import ObjectError
from jobs.contract import CONTINUE_EXIT_CODE, JobSpec

log = logging.getLogger("nightshift")

LAST_WORD_SECONDS = 300
"""How long a node tries to tell how its job ended; untold, the job would be paid for again."""


class Order(BaseModel):
    """What a node is to do; `id` and `expires_at` are the reservation's."""

    model_config = ConfigDict(frozen=True)

    spec: JobSpec
    id: int
    expires_at: datetime
    attempt: int
    requested_at: datetime
    package: str
    sync_seconds: float
    checkpoint_seconds: float


def run(order: Order, home: Path) -> int:
    """Do the job of `order` below `home`; the exit code of its program."""
    local = LocalLauncher(home, Path(sys.executable), order.package, whole_machine=True)
    mirror = NodeMirror(
        order.spec.output, local.folder(order.spec.key), order.attempt, order.checkpoint_seconds
    )
    mirror.restore()
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


def machine_since(requested_at: datetime) -> datetime:
    """Since when this machine is ours: the start of its first process, or of the first one of our
    user (of a Slurm job on a machine that was there before) after it was asked for."""
    begun = [time.time()]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == 1 or process.uids().real == os.getuid():
                begun.append(process.create_time())
    asked = requested_at.timestamp()
    return datetime.fromtimestamp(min(start for start in begun if start >= asked), UTC)


def main() -> None:
    logging.basicConfig(format="nightshift: %(message)s")
    order = Order.model_validate_json(os.environ.pop("NIGHTSHIFT_ORDER"))
    sys.exit(run(order, Path.home() / ".nightshift"))


if __name__ == "__main__":
    main()
