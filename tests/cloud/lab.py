"""What tests on the real cluster share."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from infra import database as db
from infra.compute.sky.api import end_orphans
from infra.compute.sky.launcher import SkyLauncher
from infra.contract import JobSpec, Resources
from infra.settings import settings
from tasks.runs import launch
from tasks.runs.purse import Purse

SLURM = Path(__file__).with_name("slurm.sh")
HOURS = 0.1
"""Of a job at most, unless it says otherwise."""
STORM_HOURS = 0.25
"""In a storm of kills: a reservation lasts longer than a node is unheard."""


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may be imported here first, after the last test
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
    listed = subprocess.run(["squeue", "-h", "-o", "%j %i"], capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        name, number = line.split()
        if name.startswith(pattern):
            subprocess.run(["scancel", number], check=True)


@contextlib.contextmanager
def writes_denied() -> Iterator[None]:
    """Nobody may write to the bucket meanwhile: machines live, and cannot say so."""
    denial = Path(os.environ["LAB_DENIAL"])
    denial.touch()
    try:
        yield
    finally:
        denial.unlink()


SWEEP = """
from infra import database
from tasks.runs import offers, reconcile
from tests.cloud.lab import launcher

sky = launcher(database.pool())
offers.launchers = lambda _target: {"sky": sky}
print("\\n".join(reconcile.reconcile(sky.pool, "")))
"""


def sweep_as_another_user(home: Path) -> str:
    """What a guard with a SkyPilot user and a home of its own does, a line each."""
    swept = subprocess.run(
        [sys.executable, "-c", SWEEP],
        env=os.environ | {"SKYPILOT_USER_ID": "0badcafe", "NIGHTSHIFT_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert swept.returncode == 0, swept.stderr
    return swept.stdout.strip()


class Meter:
    """What Slurm really ran, looked up every second: each machine by its name and its number.

    A machine is there from its first sight to its last, so it was never shorter. SkyPilot's own
    check of a cluster, which looks for FUSE on a node for less than a second, is none.
    """

    PROBE = "bash"

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], tuple[float, float]] = {}
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> "Meter":
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._reader.join()

    def seconds(self, place: str) -> float:
        """Of the machines that SkyPilot calls by `place`, which Slurm has with a suffix."""
        mine = [span for (name, _), span in self.seen.items() if is_at(name, place)]
        return sum(last - first for first, last in mine)

    def _read(self) -> None:
        while not self._over.wait(1):
            asked = ["squeue", "-h", "-t", "RUNNING", "-o", "%j %i"]
            listed = subprocess.run(asked, capture_output=True, text=True).stdout
            for line in listed.splitlines():
                name, number = line.split()
                if name != self.PROBE:
                    first, _ = self.seen.get((name, number), (time.time(), 0))
                    self.seen[name, number] = (first, time.time())


def is_at(name: str, place: str) -> bool:
    """Whether Slurm's job of that name is the machine that SkyPilot calls by `place`."""
    return f"{name}-".startswith(f"{place}-")


SET_CLOCK = """
from sky.skylet import autostop_lib, configs
import pickle
fuse = autostop_lib.get_autostop_config()
assert fuse.autostop_idle_minutes > 0, vars(fuse)
fuse.boot_time -= 1
configs.set_config(autostop_lib._AUTOSTOP_CONFIG_KEY, pickle.dumps(fuse))
"""


def set_clock(place: str) -> None:
    """What a node whose clock was set looks like: it has booted in another second."""
    (runtime,) = Path(os.environ["LAB"]).glob(f"nodert/*/{place}*")
    user = os.environ["LAB_USER"]
    subprocess.run(
        ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        + [str(runtime / "skypilot-runtime/bin/python"), "-c", SET_CLOCK],
        env={"SKY_RUNTIME_DIR": str(runtime), "HOME": str(runtime), "PATH": os.environ["PATH"]},
        cwd=runtime,
        check=True,
    )


def nights() -> Path:
    """What the nights of this cluster have said, one after the other."""
    return Path(os.environ["LAB"], "log/nights.txt")


def start_night(purse: Purse, spec: JobSpec) -> "subprocess.Popen[bytes]":
    """The job in a process of its own."""
    with nights().open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.cloud.night", purse.run.id, spec.model_dump_json()],
            stdout=said,
            stderr=said,
        )


def until(holds: Callable[[], object], seconds: float = 300, pause: float = 0.1) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(pause)


def kill_api_server(number: int = signal.SIGKILL) -> None:
    """What it has begun lives on without it; with SIGSTOP it hangs, and nobody takes its port."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            port = f"--port={os.environ['SKYPILOT_API_SERVER_LOCAL_PORT']}"
            if "sky.server.server" in line and port in line:
                process.send_signal(number)


def together(purse: Purse, *specs: JobSpec) -> list[object]:
    """Have jobs done side by side; the metrics of each, or the error that it ended with."""

    def outcome(spec: JobSpec) -> object:
        try:
            return launch.run_job(spec, purse).metrics
        except Exception as error:
            return error

    with ThreadPoolExecutor() as flows:
        return list(flows.map(outcome, specs))


def job(purse: Purse, step: str = "step", hours: float = HOURS, gpus: int = 2, **config) -> JobSpec:
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
