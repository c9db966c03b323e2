"""What must hold before a machine is asked for, and what is done once it is there."""

import importlib
import math
import shlex
import subprocess
from datetime import UTC, datetime
from fnmatch import fnmatch
from ipaddress import ip_address, ip_network
from typing import Any

from infra.compute import environments
from infra.compute.launcher import Quote
from infra.compute.sky import api
from infra.contract import JobSpec
from infra.errors import LaunchError
from infra.settings import settings


def require_readiness(spec: JobSpec, quote: Quote) -> None:
    """What must hold before a machine is asked for."""
    config = settings()
    environments.requirements_of(spec.environment)
    if not any(fnmatch(quote.region, pattern) for pattern in config.sky_allowed):
        raise LaunchError(f"{quote.region} is not allowed", "NIGHTSHIFT_SKY_ALLOWED lists what is.")
    if config.network_check:
        done = subprocess.run(
            shlex.split(config.network_check), capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            said = (done.stderr or done.stdout).strip()[-300:]
            raise LaunchError(
                f"NIGHTSHIFT_NETWORK_CHECK failed with exit code {done.returncode}: {said}",
                "Connect the VPN, or correct the command.",
            )


def require_network(place: str) -> None:
    """That the machine's addresses lie in the networks that are allowed."""
    allowed = [ip_network(one) for one in settings().allowed_networks]
    record = api.record(place) if allowed else None
    for pair in record.handle.stable_internal_external_ips or [] if record else []:
        if not any(ip_address(one) in network for one in pair if one for network in allowed):
            raise LaunchError(
                f"the machine {place} has the addresses {', '.join(pair)}",
                "None is in NIGHTSHIFT_ALLOWED_NETWORKS; it was taken down.",
            )


def secure(place: str, expires_at: datetime) -> None:
    """Look at the network of a machine that is there, and set its fuse.

    The launch set a fuse, but for a time counted from its own end: set it for what is left.
    """
    require_network(place)
    minutes = fuse_minutes(expires_at)
    api.call(lambda sky: sky.autostop(place, minutes, wait_for=wall_clock(), down=True))


def fuse_minutes(expires_at: datetime) -> int:
    """Rounded up: the watchdog on the node is to come first, so that the job can checkpoint."""
    left = expires_at - datetime.now(UTC)
    return max(1, math.ceil(left.total_seconds() / 60))


IDLE_MINUTES = 1


def fuse_of_node() -> str:
    """The command by which a node whose job has ended lights its fuse anew.

    SkyPilot takes a machine whose clock was set, by a few milliseconds even, for one that has been
    restarted, and its fuse then never burns down: it compares the second of the boot, which the
    kernel counts back from now. A node whose flow has died would stay for ever.
    """
    code = importlib.import_module("sky.skylet.autostop_lib").AutostopCodeGen
    return code.set_autostop(IDLE_MINUTES, "cloudvmray", wall_clock(), down=True)


def wall_clock() -> Any:
    """How SkyPilot calls a fuse that does not wait until the machine is idle."""
    return importlib.import_module("sky.skylet.autostop_lib").AutostopWaitFor.NONE
