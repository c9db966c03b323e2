"""What tests of launching share: a launcher of test programs, a job, and who is left alive."""

import multiprocessing
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from infra.compute.launcher import Handle, JobStatus
from infra.compute.local import LocalLauncher
from infra.contract import JobSpec, Resources


@dataclass(frozen=True)
class Money:
    """A reservation, as far as a launcher looks at it."""

    expires_at: datetime
    id: int = 1


def money(seconds: float = 60) -> Money:
    return Money(datetime.now(UTC) + timedelta(seconds=seconds))


def launcher(home: Path) -> LocalLauncher:
    return LocalLauncher(home, Path(sys.executable), "tests.programs")


def job(home: Path, key: str = "run-1/step", gpus: int = 0, **config) -> JobSpec:
    return JobSpec(
        name="basic.steps",
        environment="train",
        config=config,
        output=f"{home.as_uri()}/objects/{key}",
        max_hours=1,
        key=key,
        resources=Resources(accelerators={"GPU": gpus} if gpus else {}),
    )


def wait(where: LocalLauncher, handle: Handle, seconds: float = 30) -> JobStatus:
    deadline = time.monotonic() + seconds
    while (status := where.poll(handle)).state == "running":
        assert time.monotonic() < deadline, "the job does not end"
        time.sleep(0.02)
    return status


def alive(home: Path) -> list[str]:
    """Command lines of all processes that belong to a home folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
            labelled = process.environ().get("NIGHTSHIFT_JOB", "").startswith(str(home))
        except psutil.Error:
            continue
        if labelled or ("infra.compute.watchdog" in line and line[-1].startswith(str(home))):
            found.append(" ".join(line))
    return found


def launch_and_die(home: Path, spec: JobSpec, seconds: float) -> None:
    """Launch in another process, which SIGKILL ends `seconds` after it began to."""
    process = multiprocessing.get_context("fork").Process(
        target=launcher(home).launch, args=(spec, money())
    )
    process.start()
    time.sleep(seconds)
    process.kill()
    process.join()


def fill_disk(folder: Path) -> Path:
    """Take all the room that is left on a small disk; the file to remove afterwards."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
    return ballast


def wait_until_none_is_alive(home: Path, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while alive(home):
        assert time.monotonic() < deadline, alive(home)
        time.sleep(0.05)
