"""What tests on the real cluster share."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from infra import database as db
from infra.compute.sky.api import end_orphans
from infra.compute.sky.launcher import SkyLauncher
from infra.settings import settings
from jobs.contract import JobSpec, Resources
from tasks.purse import Purse

SLURM = Path(__file__).with_name("slurm.sh")


def free_ports(wanted: int) -> int:
    """The first of some ports in a row that nobody has, and that nobody beside us tries."""
    for first in range(23000 + os.getpid() % 400 * 16, 31000, 16):
        try:
            for port in range(first, first + wanted):
                with socket.socket() as probe:
                    probe.bind(("0.0.0.0", port))  # noqa: S104 - as Slurm's daemons will
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def stop_api_server() -> None:
    import sky

    sky.api_stop()
    end_orphans()


def launcher(pool: db.Pool) -> SkyLauncher:
    """Runs the programs of tests/programs."""
    return SkyLauncher(pool, "tests.programs", ("infra", "jobs", "tests/programs"))


def queue() -> list[str]:
    """Slurm's own list of what is allocated."""
    listed = subprocess.run(["squeue", "-h", "-o", "%j %T"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if "COMPLET" not in line]


def cancel(pattern: str = "ns-") -> None:
    """Take the nodes away, as a preemption does."""
    listed = subprocess.run(["squeue", "-h", "-o", "%i %j"], capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        number, name = line.split()
        if name.startswith(pattern):
            subprocess.run(["scancel", number], check=True)


def start_night(purse: Purse, spec: JobSpec) -> "subprocess.Popen[str]":
    """The job in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.cloud.night", purse.run.id, spec.model_dump_json()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(holds: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.1)


def kill_api_server(number: int = signal.SIGKILL) -> None:
    """What it has begun lives on without it; with SIGSTOP it hangs, and nobody takes its port."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            port = f"--port={os.environ['SKYPILOT_API_SERVER_LOCAL_PORT']}"
            if "sky.server.server" in line and port in line:
                process.send_signal(number)


def job(purse: Purse, step: str = "step", hours: float = 0.1, gpus: int = 2, **config) -> JobSpec:
    key = f"{purse.run.id}/{step}"
    return JobSpec(
        name="basic.steps",
        environment="node",
        config=config,
        output=f"{settings().objects_uri}/runs/{key}",
        max_hours=hours,
        key=key,
        resources=Resources(accelerators={"H100": gpus}),
    )
