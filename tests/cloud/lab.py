"""What tests on the real cluster share."""

import socket
import subprocess

from infra import database as db
from infra.compute.sky import SkyLauncher, _end_orphans


def free_ports(wanted: int) -> int:
    """The first of some ports in a row that nobody has."""
    for first in range(23000, 31000, 16):
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
    _end_orphans()


def launcher(pool: db.Pool) -> SkyLauncher:
    """Runs the programs of tests/programs."""
    return SkyLauncher(pool, "tests.programs", ("infra", "jobs", "tests/programs"))


def queue() -> list[str]:
    """Slurm's own list of what is allocated."""
    listed = subprocess.run(["squeue", "-h", "-o", "%j %T"], capture_output=True, text=True)
    return [line for line in listed.stdout.splitlines() if "COMPLET" not in line]
